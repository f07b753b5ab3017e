"""What measuring made of a host or of data, kept under a key like the result of a task.

A host's samples depend on the host, the request and the device alone, what a classifier sees in the data on both alone:
so every result that is measured beside them can use the same ones, of one checkpoint after another learning, or of
all members of a sweep, which share their artifacts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archspec.plan import digest
from archspec.runtime.store.artifacts import Artifacts


@dataclass(frozen=True)
class Kept:
    """`host` is the fingerprint of the host's content."""

    artifacts: Artifacts
    host: str

    def of_host(self, what: list[Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return what is kept of the host under `what`, plain data that says how it was made; make and keep it if
        nothing is."""
        key = digest(["host", self.host, *what])
        return self.artifacts.once(key, {"kind": "host", "made": what}, make)

    def of_data(self, what: list[Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The same of data, whose identity is part of `what`."""
        return self.artifacts.once(digest(["data", *what]), {"kind": "data", "made": what}, make)
