"""The entry of one error code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """`bad` and `good` are texts of a spec or a command that show the mistake and its mend."""

    id: str
    title: str
    explanation: str
    bad: str = ""
    good: str = ""
