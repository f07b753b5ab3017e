"""The header of a pack: what base it belongs to, what it holds, how it was made. Read strictly, checked whole.

It is JSON under the key `skillpack` of the safetensors metadata. A part of term k of a tensor stands in the file as
`<tensor>/<k>/<part>`. The file must hold exactly the parts that the header calls for, with their data types and shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path
from typing import Any, TypeGuard

from archspec.diagnostics import ArchspecError, Collector, fail
from archspec.host.headers import BITS, read_header
from archspec.host.strict_json import Malformed, is_real, open_regular, parse_json
from archspec.host.structure import TensorHeader
from archspec.packs.terms import MOST, Term, Within, from_json, matrix_shape, size_of, to_json
from archspec.source import Span

KEY, VERSION, PLAIN_VERSION = "skillpack", 2, 1
"""Packs without excerpts are written, and so read by every archspec, as format 1."""
ROUTER = "router"
"""Key of the metadata of a router."""
WRITTEN = "name a file that `archspec pack` wrote"
AGAIN = "get the pack again, or make it again: `archspec pack SPEC -o PACK`"


@dataclass(frozen=True)
class Change:
    """What a pack adds to one tensor of the base. `digest`: XXH3-128 of the base's data; `dtype`: the base's.

    `norm` is that of the whole difference, `error` that of what the terms leave of it. `outputs`: the same two of what
    they do to the tuned tensor's outputs, as parts of these, where the pack was calibrated."""

    shape: tuple[int, ...]
    dtype: str
    digest: str
    terms: tuple[Term, ...]
    norm: float
    error: float
    outputs: tuple[float, float] | None = None

    @property
    def size(self) -> int:
        return sum(size_of(term, self.shape) for term in self.terms)


@dataclass(frozen=True)
class Header:
    """`base`: from (a name), fingerprint (its content). `made`: what it was made of and with."""

    name: str
    base: Mapping[str, str]
    tensors: Mapping[str, Change]
    made: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(change.size for change in self.tensors.values())

    @property
    def error(self) -> float:
        """Relative error of all differences together."""
        lost, whole = (sum(getattr(c, key) ** 2 for c in self.tensors.values()) for key in ("error", "norm"))
        return float(sqrt(lost / whole)) if whole else 0.0

    @property
    def output_error(self) -> float | None:
        """Relative error of all outputs together; None for a pack that was not calibrated."""
        pairs = [change.outputs for change in self.tensors.values() if change.outputs]
        whole, lost = (sum(pair[place] ** 2 for pair in pairs) for place in (0, 1))
        return float(sqrt(lost / whole)) if whole else None

    def parts(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Yield name, data type and shape of every tensor of the file."""
        for name, change in self.tensors.items():
            for place, term in enumerate(change.terms):
                for part, (dtype, shape) in term.layout(matrix_shape(change.shape)).items():
                    yield part_name(name, place, part), dtype, shape

    def to_text(self) -> str:
        tensors = {
            name: {
                "shape": change.shape,
                "dtype": change.dtype,
                "digest": change.digest,
                "terms": [to_json(term) for term in change.terms],
                "norm": change.norm,
                "error": change.error,
                **({"outputs": change.outputs} if change.outputs else {}),
            }
            for name, change in self.tensors.items()
        }
        cut = any(isinstance(term, Within) for change in self.tensors.values() for term in change.terms)
        content = {
            "format": VERSION if cut else PLAIN_VERSION,
            "name": self.name,
            "base": self.base,
            "tensors": tensors,
        }
        content |= {"made": self.made, "licence": self.licence}
        return json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def part_name(tensor: str, term: int, part: str) -> str:
    return f"{tensor}/{term}/{part}"


def read_pack(path: Path, span: Span | None = None) -> tuple[Header, dict[str, TensorHeader]]:
    """Return the header of a pack and the places of its parts; AS680 where it is no pack or contradicts itself."""
    parts = read_header(path, span)
    metadata = metadata_of(path)
    if KEY not in metadata:
        hint = "it is a router: `archspec packs route ROUTER`" if ROUTER in metadata else WRITTEN
        raise fail("AS680", f"'{path}' is no SkillPack: its metadata has no '{KEY}'", span, hint)
    try:
        header = _header(parsed(metadata[KEY]))
    except ValueError as error:
        raise fail("AS680", f"the header of '{path.name}' {error}", span, AGAIN) from error
    _compare(header, parts, path, span)
    return header, parts


def parsed(text: str) -> Any:
    """Return what a header's text says. Raises Malformed."""
    try:
        return parse_json(text.encode())
    except ValueError as error:
        raise Malformed(f"is not readable JSON: {error}") from error


def is_pack(path: Path) -> bool:
    """Whether a file of safetensors says that it is a pack. AS610 to AS617 where it is none of safetensors."""
    read_header(path)
    return KEY in metadata_of(path)


def is_marked(path: Path, key: str) -> bool:
    """Whether what stands at a path is a file of safetensors whose metadata has a key."""
    try:
        read_header(path)
    except ArchspecError:
        return False
    return key in metadata_of(path)


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that `read_header` has found sound."""
    with open_regular(path, None) as file:
        length = int.from_bytes(file.read(8), "little")
        found: dict[str, str] = parse_json(file.read(length)).get("__metadata__", {})
    return found


def _header(value: Any) -> Header:
    if not isinstance(value, dict):
        raise Malformed("is no map of keys")
    if value.get("format") not in (PLAIN_VERSION, VERSION):
        raise Malformed(f"has format {value.get('format')!r}; this archspec reads {PLAIN_VERSION} and {VERSION}")
    base, tensors, made = value.get("base"), value.get("tensors"), value.get("made", {})
    if not isinstance(value.get("name"), str) or not _texts(base) or not isinstance(tensors, dict):
        raise Malformed("lacks name, base or tensors")
    licence = value.get("licence")
    known = isinstance(made, dict) and isinstance(made.get("source", {}), dict)
    if not known or not (licence is None or isinstance(licence, str)):
        raise Malformed("has a malformed 'made' or 'licence'")
    if not all(text.isprintable() for text in (value["name"], *tensors, *base.values())):
        raise Malformed("has a name that cannot be printed")
    if not (licence or "").isprintable():
        raise Malformed("has a licence that cannot be printed")
    return Header(value["name"], base, {n: _change(n, c) for n, c in tensors.items()}, made, licence)


def _texts(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


CHANGE: Mapping[str, type | tuple[type, ...]] = {
    "shape": list, "dtype": str, "digest": str, "terms": list, "norm": (int, float), "error": (int, float),
}  # fmt: skip


def _change(name: str, value: Any) -> Change:
    if not isinstance(value, dict) or not all(isinstance(value.get(k), kind) for k, kind in CHANGE.items()):
        raise Malformed(f"describes tensor {name!r} without {', '.join(CHANGE)}")
    shape = tuple(value["shape"])
    if value["dtype"] not in BITS:
        raise Malformed(f"gives tensor {name!r} the unknown data type {value['dtype']!r}")
    if not all(type(size) is int and size >= 1 for size in shape) or prod(shape) > MOST:
        raise Malformed(f"gives tensor {name!r} an impossible shape")
    if not all(is_real(value[key]) and value[key] >= 0 for key in ("norm", "error")):
        raise Malformed(f"gives tensor {name!r} an impossible norm or error")
    try:
        terms = tuple(from_json(term, shape) for term in value["terms"])
    except Malformed as error:
        raise Malformed(f"describes tensor {name!r} wrongly: {error}") from None
    sizes = float(value["norm"]), float(value["error"])
    return Change(shape, value["dtype"], value["digest"], terms, *sizes, _outputs(name, value.get("outputs")))


def _outputs(name: str, value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    sound = isinstance(value, list) and len(value) == 2
    if not sound or not all(is_real(part) and part >= 0 for part in value):
        raise Malformed(f"gives tensor {name!r} impossible errors of outputs")
    return float(value[0]), float(value[1])


def _compare(header: Header, parts: Mapping[str, TensorHeader], path: Path, span: Span | None) -> None:
    """Report parts that are missing, of another shape, or too many."""
    wanted = {name: (dtype, shape) for name, dtype, shape in header.parts()}
    wrong = [
        *(f"lacks '{name}'" for name in wanted if name not in parts),
        *(f"holds '{name}', which its header does not call for" for name in parts if name not in wanted),
        *(
            f"holds '{name}' as {h.dtype} {h.shape}, its header calls for {wanted[name][0]} {wanted[name][1]}"
            for name, h in parts.items()
            if name in wanted and (h.dtype, h.shape) != wanted[name]
        ),
    ]
    problems = Collector()
    told = (f"'{path.name}' {message}" for message in wrong)
    problems.report_few("AS680", told, f"parts of '{path.name}'", span, AGAIN)
    problems.raise_if_errors()
