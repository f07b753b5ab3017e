"""Where a weight stands in the base: a whole tensor, or an excerpt of one that several share.

Hosts fuse projections (GPT-2's `c_attn` is q, k and v; others have one `qkv` or `gate_up_proj`), one behind the other
or head by head, and transformers' `Conv1D` keeps its weight as (in, out). An `Excerpt` says so as data;
`runtime.model.excerpts` reads it. In JSON a whole tensor is its name, anything else an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, order=True)
class Excerpt:
    """A weight by its canonical form, (out, in), within the tensor `tensor`.

    First the tensor is transposed, if it is kept as (in, out). Then its axis `axis` is read as `groups` equal groups,
    of each of which the entries `start` to `stop` are taken (`stop` None: to the end), in order. Last, it is multiplied
    by `scale`.
    """

    tensor: str
    axis: int = 0
    start: int = 0
    stop: int | None = None
    groups: int = 1
    transposed: bool = False
    scale: float = 1.0

    @property
    def cuts(self) -> bool:
        """Whether something of the tensor is left out."""
        return self.start > 0 or self.stop is not None

    def shape(self, of: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the weight within a tensor of shape `of`.

        >>> Excerpt("c_attn.weight", start=4, stop=8, transposed=True).shape((4, 12))
        (4, 4)
        """
        sizes = list(reversed(of) if self.transposed else of)
        if self.cuts:
            whole = sizes[self.axis] // self.groups
            sizes[self.axis] = self.groups * ((whole if self.stop is None else self.stop) - self.start)
        return tuple(sizes)

    def fits(self, of: tuple[int, ...]) -> bool:
        """Say whether a matrix of shape `of` has such an excerpt.

        >>> Excerpt("", start=2, stop=4).fits((3, 8)), Excerpt("", start=2, stop=4, transposed=True).fits((3, 8))
        (False, True)
        """
        size = (of[::-1] if self.transposed else of)[self.axis]
        whole = size // self.groups
        return size % self.groups == 0 and self.start < (whole if self.stop is None else self.stop) <= whole

    @property
    def told(self) -> str:
        """What is taken, for a reader: `rows 4:8`, `all, transposed`."""
        lines, of = ("rows", "columns")[self.axis], f" of {self.groups} groups" if self.groups > 1 else ""
        stop = "" if self.stop is None else self.stop
        return (f"{lines} {self.start}:{stop}{of}" if self.cuts else "all") + ", transposed" * self.transposed

    def to_json(self) -> str | dict[str, Any]:
        """Return the plain data: a name where that says all."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name == "tensor" or self._differs(f.name)}
        return self.tensor if len(given) == 1 else given

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(Excerpt, name))

    @staticmethod
    def from_json(data: Any) -> Excerpt:
        """Read what `to_json` wrote; the data may be anyone's. Raises ValueError on anything else."""
        given = {"tensor": data} if isinstance(data, str) else data
        if not isinstance(given, Mapping) or not given.keys() <= KINDS.keys() or "tensor" not in given:
            raise ValueError("a weight is the name of a tensor, or an excerpt of one")
        if any(type(value) not in KINDS[name] for name, value in given.items()):
            raise ValueError(f"malformed excerpt of '{str(given['tensor'])[:80]}'")
        found = Excerpt(**given)
        if found.axis not in (0, 1) or found.start < 0 or found.groups < 1:
            raise ValueError(f"malformed excerpt of '{found.tensor[:80]}'")
        return found


KINDS: Mapping[str, tuple[type, ...]] = {
    "tensor": (str,),
    "axis": (int,),
    "start": (int,),
    "stop": (int, type(None)),
    "groups": (int,),
    "transposed": (bool,),
    "scale": (int, float),
}
