"""archspec.lock.json: what a compiled checkpoint is, resolved to the last choice.

A lock holds nothing that changes from one run to the next (no time, no absolute path), so the same spec on the same
base gives the same bytes. It is enough to rebuild the model (instructions), to say where every tensor came from
(provenance), and to check every byte (digests). Reading is hostile-safe: sizes, types, names and versions are checked
before anything is believed, and no name in it is ever imported.

    copied    the bytes of the base's tensor `from`
    derived   computed from the base (an operator that inherits, a merge that starts as a mean)
    new       drawn from a seed, or trained
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from archspec import __version__
from archspec.diagnostics import ArchspecError, fail
from archspec.host.strict_json import read_json
from archspec.injection import Injection
from archspec.instructions import Instruction, to_json
from archspec.runtime.model.program import read_program

NAME, PLAN = "archspec.lock.json", "plan.json"
FORMAT = 1
"""Raised when a reader of the former form would misread the new one."""
Kind = Literal["copied", "derived", "new"]


@dataclass(frozen=True)
class Provenance:
    """Of one tensor. `digest`: XXH3-128 of its data, hexadecimal."""

    kind: Kind
    digest: str
    base: str | None = None
    """Tensor of the base, of a copied one."""
    site: str | None = None
    """Path in the base that a derived or new one belongs to."""
    init: str | None = None
    """How a derived or new one got its values."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the checkpoint. `digest`: of its content; of a safetensors file, of its header and tensor digests."""

    size: int
    digest: str
    dead: tuple[str, ...] = ()
    """Tensors in a linked file that the model does not use."""


@dataclass(frozen=True)
class Lock:
    """`base`: from, subfolder, revision, fingerprint, library, architecture, family, and of random weights the teacher,
    if one is named: from, subfolder, fingerprint. `spec`: name, hash of the text,
    resolved form. `operators`: name to version. `results`: cost, proof, expectations and whatever was measured."""

    base: Mapping[str, Any]
    spec: Mapping[str, Any]
    instructions: tuple[Instruction, ...]
    operators: Mapping[str, int] = field(default_factory=dict)
    lowering: str = "modules"
    subfolder: str | None = None
    """Folder of the model within the checkpoint, of a pipeline."""
    data: Mapping[str, Any] | None = None
    injection: Injection | None = None
    """What `inject` says, its sites by their paths in the result."""
    results: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Provenance] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    version: str = __version__

    @property
    def host(self) -> Mapping[str, Any]:
        """What the result is taught by and measured beside: the teacher that is named, else the base."""
        teacher = self.base.get("teacher")
        return teacher if isinstance(teacher, Mapping) else self.base

    def to_json(self) -> dict[str, Any]:
        """Return plain data; entries that are absent are left out."""
        apart = ("instructions", "injection", "tensors", "files")
        plain = {name: value for name, value in vars(self).items() if name not in apart}
        return {
            "format": FORMAT,
            **plain,
            **({"injection": self.injection.to_json()} if self.injection else {}),
            "instructions": to_json(self.instructions),
            "tensors": {name: _plain(entry) for name, entry in sorted(self.tensors.items())},
            "files": {name: _plain(entry) for name, entry in sorted(self.files.items())},
        }

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _plain(entry: Provenance | FileRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value not in (None, ())}


def is_compiled(folder: Path) -> bool:
    """Say whether archspec made this folder."""
    return (folder / NAME).is_file()


def read_lock(folder: Path) -> Lock:
    """Return the lock of a compiled checkpoint, checked. AS640 to AS643."""
    if not is_compiled(folder):
        hint = "compile a spec first: `archspec compile SPEC -o OUT`"
        raise fail("AS640", f"'{folder}' is not a compiled checkpoint: it has no {NAME}", None, hint)
    try:
        return parse_lock(read_json(folder / NAME, "AS641"))
    except ArchspecError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise fail("AS641", f"'{folder / NAME}' is malformed: {error}") from error


def parse_lock(data: Mapping[str, Any]) -> Lock:
    """Read what `to_json` gave. ValueError, TypeError or KeyError on anything else, AS642 on a later format."""
    form = data.get("format")
    if not isinstance(form, int) or isinstance(form, bool):
        raise ValueError("it has no format number")
    if form > FORMAT:
        found = f"the lock has format {form}, written by archspec {str(data.get('version'))[:20]}"
        raise fail(
            "AS642", f"{found}; this one reads up to {FORMAT}", None, "upgrade: pip install -U archspec-compiler"
        )
    for name in ("base", "spec", "operators", "results", "tensors", "files"):
        if not isinstance(data.get(name), dict):
            raise ValueError(f"'{name}' is not an object")
    return Lock(
        base=data["base"],
        spec=data["spec"],
        instructions=read_program(data["instructions"]),
        operators={_text(name): _count(version) for name, version in data["operators"].items()},
        lowering=_text(data["lowering"]),
        subfolder=_subfolder(data["subfolder"]),
        data=data["data"],
        injection=Injection.from_json(data["injection"]) if "injection" in data else None,
        results=data["results"],
        tensors={name: _provenance(entry) for name, entry in data["tensors"].items()},
        files={name: _file(name, entry) for name, entry in data["files"].items()},
        version=_text(data["version"]),
    )


def _provenance(entry: Mapping[str, Any]) -> Provenance:
    if entry.get("kind") not in get_args(Kind):
        raise ValueError(f"provenance of the unknown kind {entry.get('kind')!r}")
    return Provenance(**{name: _text(value) for name, value in entry.items()})  # type: ignore[arg-type]


def _file(name: str, entry: Mapping[str, Any]) -> FileRecord:
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise ValueError(f"the file {name!r} is not inside the checkpoint")
    dead = entry.get("dead", [])
    if not isinstance(dead, list):
        raise ValueError("'dead' is not a list")
    return FileRecord(_count(entry["size"]), _text(entry["digest"]), tuple(map(_text, dead)))


def _subfolder(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or set(value) & set("/\\:") or value[0] == ".":
        raise ValueError(f"the subfolder {value!r} is not a plain name")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def operators_of(program: Iterable[Instruction]) -> dict[str, int]:
    """Return name -> version of the operators that a program installs."""
    return {i.operator: i.version for i in sorted(_installs(program), key=lambda i: i.operator)}


def _installs(program: Iterable[Instruction]) -> Iterable[Any]:
    for instruction in program:
        if instruction.do == "install":
            yield instruction
        elif instruction.do == "relist":
            yield from (entry.operator for entry in instruction.entries if entry.operator)
