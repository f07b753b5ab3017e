"""Terms: the forms in which a pack holds (a part of) the difference of one tensor. One line per form in `TERMS`.

A tensor is taken as the matrix (first size, product of the others), a vector as one row. A term has parameters, which
stand in the pack's header, and parts, which are tensors of the file. Which parts, of which data types and shapes,
follows from the parameters alone, so that a file is checked before a byte of it is decoded. Decoding is in
`archspec.runtime.packs.decode`.

    dense      the values as they are
    sparse     the largest values, float16 in parts of one unit; where they stand as distances or as a bitmask
    quantized  every value in 1 to 8 bits
    low_rank   U S V^T, the singular vectors in bands of 2 to 8 bits or in 16
    excerpt    terms of some rows or columns, for maps that share a tensor; of the transposed matrix, if it says so
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar

from archspec.host.excerpt import Excerpt
from archspec.host.headers import BITS as WIDTH
from archspec.host.strict_json import Malformed, is_real

Shape = tuple[int, ...]
Layout = Mapping[str, tuple[str, Shape]]
"""Part -> data type as safetensors spells it, and shape."""
RAW = 16
"""Bits of vectors that are kept in float16."""
AXES = ("row", "column", "tensor")
MOST = 2**40
"""Largest count in a header."""
LARGEST_SCALE = 1e38
"""Most that differences can be multiplied by, which float32 is to hold; least, with a minus."""


@dataclass(frozen=True)
class Dense:
    op: ClassVar[str] = "dense"
    dtype: str

    @property
    def told(self) -> str:
        return f"dense {self.dtype}"

    def faults(self, shape: Shape) -> str | None:
        return None if self.dtype in ("F32", "F16", "BF16") else "has an unknown dtype"

    def layout(self, shape: Shape) -> Layout:
        return {"values": (self.dtype, shape)}


@dataclass(frozen=True)
class Sparse:
    """`count` values. `code` gaps: `places` bytes, each the distance from one value to the next, less one (255: 255
    further, no value). `code` mask: a bit per element, in ceil(n / 8) = `places` bytes."""

    op: ClassVar[str] = "sparse"
    count: int
    code: str
    places: int
    unit: float

    @property
    def told(self) -> str:
        return f"sparse {self.count} ({self.code})"

    def faults(self, shape: Shape) -> str | None:
        if self.code not in ("gaps", "mask"):
            return "has an unknown code"
        if self.code == "mask" and self.places != packed_size(prod(shape), 1):
            return "has a mask of another size than its matrix"
        fits = self.count <= prod(shape) and (self.code == "mask" or self.count <= self.places)
        return None if fits else "has more values than places"

    def layout(self, shape: Shape) -> Layout:
        return {"values": ("F16", (self.count,)), self.code: ("U8", (self.places,))}


@dataclass(frozen=True)
class Quantized:
    """`group` values along `axis` share a scale, which is float16 in parts of `unit`. Codes go along the axis: row by
    row, column by column, or through the whole `tensor` as one row."""

    op: ClassVar[str] = "quantized"
    bits: int
    group: int
    axis: str
    unit: float

    @property
    def told(self) -> str:
        return f"{self.bits} bits per {self.group} of a {self.axis}"

    def faults(self, shape: Shape) -> str | None:
        if self.axis not in AXES:
            return "has an unknown axis"
        return None if 1 <= self.bits <= 8 and self.group >= 1 else "has impossible bits or groups"

    def layout(self, shape: Shape) -> Layout:
        return coded_layout("", along(self.axis, shape), self.bits, self.group)


@dataclass(frozen=True)
class LowRank:
    """`bands`: (triplets, bits) each. `units`: of the scales of U and of V, band by band (1.0 for 16 bits), then of the
    singular values, which are float16 in parts of it."""

    op: ClassVar[str] = "low_rank"
    bands: tuple[tuple[int, int], ...]
    group: int
    units: tuple[float, ...]

    @property
    def told(self) -> str:
        return f"rank {self.rank} ({', '.join(f'{count} at {bits} bits' for count, bits in self.bands)})"

    @property
    def rank(self) -> int:
        return sum(count for count, _ in self.bands)

    def faults(self, shape: Shape) -> str | None:
        if not all(count >= 1 and bits in (*range(1, 9), RAW) for count, bits in self.bands) or self.group < 1:
            return "has impossible bands"
        if self.rank > min(shape) or len(self.units) != 2 * len(self.bands) + 1:
            return "has bands that do not fit its matrix"
        return None

    def layout(self, shape: Shape) -> Layout:
        found: dict[str, tuple[str, Shape]] = {"s": ("F16", (self.rank,))}
        for band, (count, bits) in enumerate(self.bands):
            for side, size in zip("uv", shape, strict=True):
                found |= coded_layout(f"{side}{band}.", (count, size), bits, self.group)
        return found


Plain = Dense | Sparse | Quantized | LowRank
PLAIN: Mapping[str, type[Plain]] = {kind.op: kind for kind in (Dense, Sparse, Quantized, LowRank)}


@dataclass(frozen=True)
class Within:
    """`terms` of the excerpt `of` of the matrix (`archspec.host.excerpt`; its `tensor` is empty, nothing is scaled)."""

    op: ClassVar[str] = "excerpt"
    of: Excerpt
    terms: tuple[Plain, ...]

    @property
    def told(self) -> str:
        return f"{self.of.told}: {' + '.join(term.told for term in self.terms)}"

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the excerpt of a matrix."""
        return self.of.shape(shape)

    def layout(self, shape: Shape) -> Layout:
        layouts = (term.layout(self.shape(shape)) for term in self.terms)
        return {f"{place}/{part}": kind for place, layout in enumerate(layouts) for part, kind in layout.items()}


Term = Plain | Within
TERMS: Mapping[str, type[Term]] = {**PLAIN, Within.op: Within}


def forms(terms: Sequence[Term]) -> str:
    """Return the forms of a tensor's terms, excerpts apart from one another.

    >>> forms([Dense("F16")]), forms([Within(Excerpt("", stop=k), (Dense("F16"), Dense("F32"))) for k in (1, 2)])
    ('dense', 'dense + dense | dense + dense')
    """
    names = [forms(term.terms) if isinstance(term, Within) else term.op for term in terms]
    return (" | " if any(isinstance(term, Within) for term in terms) else " + ").join(names)


def coded_layout(prefix: str, shape: Shape, bits: int, group: int) -> Layout:
    """Return the parts of rows of coded values."""
    if bits == RAW:
        return {f"{prefix}values": ("F16", shape)}
    rows, columns = shape
    return {
        f"{prefix}codes": ("U8", (packed_size(rows * columns, bits),)),
        f"{prefix}scales": ("F16", (rows, groups_of(columns, group))),
    }


def along(axis: str, shape: Shape) -> tuple[int, int]:
    """Return the shape of a matrix laid out along an axis.

    >>> along("column", (2, 3)), along("tensor", (2, 3))
    ((3, 2), (1, 6))
    """
    rows, columns = shape
    return {"row": (rows, columns), "column": (columns, rows), "tensor": (1, rows * columns)}[axis]


def packed_size(count: int, bits: int) -> int:
    """Return the bytes of `count` codes of `bits` bits, without padding between them.

    >>> packed_size(3, 3)
    2
    """
    return (count * bits + 7) // 8


def groups_of(columns: int, group: int) -> int:
    """Return the number of groups in a row; the last may be shorter.

    >>> groups_of(300, 128)
    3
    """
    return -(-columns // group)


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Return the matrix that a tensor is taken as.

    >>> matrix_shape((8, 3, 4)), matrix_shape((5,)), matrix_shape(())
    ((8, 12), (1, 5), (1, 1))
    """
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


def size_of(term: Term, shape: Shape) -> int:
    """Return the bytes of a term's parts, for a tensor of this shape."""
    return sum(prod(part) * WIDTH[dtype] // 8 for dtype, part in term.layout(matrix_shape(shape)).values())


def to_json(term: Term) -> dict[str, Any]:
    if isinstance(term, Within):
        of = term.of.to_json()
        cut = {} if isinstance(of, str) else {name: value for name, value in of.items() if name != "tensor"}
        return {"op": term.op, "of": cut, "terms": [to_json(inner) for inner in term.terms]}
    return {"op": term.op} | {f.name: getattr(term, f.name) for f in fields(term)}


def from_json(value: Any, shape: Shape) -> Term:
    """Return the term that a header states for a tensor of this shape. Raises Malformed."""
    shape = matrix_shape(shape)
    if isinstance(value, dict) and value.get("op") == Within.op:
        return _within(value, shape)
    return _plain(value, shape)


def _plain(value: Any, shape: Shape) -> Plain:
    if not isinstance(value, dict) or str(value.get("op")) not in PLAIN:
        raise Malformed("a term is of no known form")
    kind = PLAIN[str(value["op"])]
    wanted = {f.name: READERS[str(f.type)] for f in fields(kind)}
    _only(value, kind.op, wanted)
    term = kind(**{name: read(value[name]) for name, read in wanted.items()})
    if fault := term.faults(shape):
        raise Malformed(f"its term '{kind.op}' {fault}")
    return term


def _within(value: Mapping[str, Any], shape: Shape) -> Within:
    _only(value, Within.op, ("of", "terms"))
    try:
        of = Excerpt.from_json({**value["of"], "tensor": ""})
    except (TypeError, ValueError):
        raise Malformed(f"its term '{Within.op}' is of no excerpt") from None
    if not of.fits(shape) or of.scale != 1 or not _list(value["terms"]):
        raise Malformed(f"its term '{Within.op}' does not fit its matrix")
    return Within(of, tuple(_plain(term, of.shape(shape)) for term in value["terms"]))


def _only(value: Mapping[str, Any], op: str, wanted: Iterable[str]) -> None:
    if set(value) != {"op", *wanted}:
        raise Malformed(f"its term '{op}' has other parameters than {', '.join(wanted)}")


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise Malformed("a parameter of a term is no count")
    return value


def _real(value: Any) -> float:
    if not is_real(value):
        raise Malformed("a parameter of a term is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed("a parameter of a term is no text")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed("a parameter of a term is no list")
    return value


def _band(value: Any) -> tuple[int, int]:
    if len(_list(value)) != 2:
        raise Malformed("a band is not (triplets, bits)")
    return _count(value[0]), _count(value[1])


READERS: Mapping[str, Callable[[Any], Any]] = {
    "int": _count,
    "float": _real,
    "str": _text,
    "tuple[float, ...]": lambda value: tuple(map(_real, _list(value))),
    "tuple[tuple[int, int], ...]": lambda value: tuple(map(_band, _list(value))),
}
"""Type of a parameter, as it is declared -> what reads it from JSON."""
