"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = ()
