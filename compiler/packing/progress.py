"""How far packing is: told before each tensor, and after each batch of calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from archspec.host.structure import TensorHeader


@dataclass(frozen=True)
class Progress:
    """`done` of `total` tensors (or examples, in the stage `calibrating`), `size` of `whole` bytes of these tensors as
    the base stores them. `name`: of the tensor that is next."""

    stage: str
    done: int
    total: int
    name: str = ""
    size: int = 0
    whole: int = 0

    @property
    def part(self) -> float:
        """Part of the stage that is done: by bytes where they are known."""
        return self.size / self.whole if self.whole else self.done / max(1, self.total)


Watch = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """Tell nobody."""


def told(stage: str, names: Sequence[str], base: Mapping[str, TensorHeader], watch: Watch) -> Iterator[str]:
    """Yield the names of tensors; tell before each, and at the end."""
    whole, size = sum(_bytes(base[name]) for name in names), 0
    for done, name in enumerate(names):
        watch(Progress(stage, done, len(names), name, size, whole))
        yield name
        size += _bytes(base[name])
    watch(Progress(stage, len(names), len(names), "", size, whole))


def _bytes(header: TensorHeader) -> int:
    return header.end - header.start
