"""What was drawn from a host and seen of it, kept under a key like the result of a task.

A host's samples depend on the host, the request and the device alone, so every result that is measured beside it can
use the same ones: of one checkpoint after another learning, or of all members of a sweep, which share their artifacts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archspec.plan import digest
from archspec.runtime.execution.workspace import Workspace


@dataclass(frozen=True)
class Kept:
    """`host` is the fingerprint of the host's content."""

    workspace: Workspace
    host: str

    def tensors(self, what: list[Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return what is kept under `what`, plain data that says how it was made; make and keep it if nothing is."""
        key = digest(["host", self.host, *what])
        if not self.workspace.finished(key):
            self.workspace.keep(key, {"kind": "host", "made": what}, make())
        return self.workspace.weights(key)
