"""Instructions as a checkpoint holds them: read, and checked before anything is built.

The `archspec` entry of a `config.json` is

    {"format": 1, "architecture": CLASS OF THE HOST, "model_type": OF TRANSFORMERS OR null,
     "base": {ATTRIBUTE: VALUE IN THE BASE}, "instructions": [...]}

`base` holds the config attributes that the program changed (the depth, in transformers). Nothing here is believed:
types and sizes are checked, operators are looked up by name in the table of installed ones, and paths are plain module
paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from archspec.diagnostics import fail, nearest
from archspec.host.structure import Streams
from archspec.instructions import LEARNED_MERGES, Entry, Install, Instruction, Relist, Share, from_json, to_json
from archspec.operators import OPERATORS, restore, signature

FORMAT = 1
KEY = "archspec"
MODEL_TYPE = "archspec"
"""Of a compiled model in transformers."""
PREFIX = "Grafted"
"""Of the names of classes that execute instructions."""
MOST = 100_000
"""Instructions of a program, and entries of a list."""
LARGEST = 1 << 31
"""Of any size or index."""
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
FORMS = frozenset({"keep", "copy", "tie", "parallel", "insert"})
MERGES = LEARNED_MERGES | {"sum", "average"}
SKIP_MERGES = LEARNED_MERGES | {"sum"}


@dataclass(frozen=True)
class Graft:
    """The `archspec` entry of a config."""

    architecture: str
    instructions: tuple[Instruction, ...]
    model_type: str | None = None
    base: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        entry = {"format": FORMAT, "architecture": self.architecture, "model_type": self.model_type}
        return {**entry, "base": dict(self.base), "instructions": to_json(self.instructions)}


def read_graft(entry: Any) -> Graft:
    """Return the checked `archspec` entry of a config. AS641 to AS643."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("format"), int):
        raise fail("AS641", f"the config's '{KEY}' entry is not an object with a format")
    if entry["format"] > FORMAT:
        found = f"the config's '{KEY}' entry has format {entry['format']}"
        raise fail("AS642", f"{found}; this archspec reads up to {FORMAT}")
    architecture, kind, base = entry.get("architecture"), entry.get("model_type"), entry.get("base")
    if not isinstance(architecture, str) or not isinstance(kind, str | None) or not isinstance(base, Mapping):
        raise fail("AS641", f"the config's '{KEY}' entry needs 'architecture', 'model_type' and 'base'")
    return Graft(architecture, read_program(entry.get("instructions")), kind, dict(base))


def read_program(data: Any) -> tuple[Instruction, ...]:
    """Return the instructions in plain data, checked."""
    if not isinstance(data, list | tuple) or len(data) > MOST or not all(isinstance(item, Mapping) for item in data):
        raise fail("AS641", f"the instructions are not a list of at most {MOST} objects")
    for item in data:
        for install in _installs(item):
            _check_operator(install)
    try:
        program = from_json([dict(item) for item in data])
        return tuple(_checked(instruction) for instruction in program)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise fail("AS641", f"malformed instructions: {error}") from error


def _installs(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the instruction if it installs an operator, and those in the entries of a list."""
    if item.get("do") == "install":
        yield item
    entries = item.get("entries")
    for entry in entries if isinstance(entries, list | tuple) else ():
        operator = entry.get("operator") if isinstance(entry, Mapping) else None
        if isinstance(operator, Mapping):
            yield operator


def _check_operator(item: Mapping[str, Any]) -> None:
    """An operator that is not installed, or of a later version, is an error that names it."""
    name, version = item.get("operator"), item.get("version")
    if not isinstance(name, str) or name not in OPERATORS:
        hint = "install the package that provides it, or upgrade: pip install -U archspec-compiler"
        raise fail("AS643", f"operator '{str(name)[:80]}' is not installed", None, *nearest(str(name), OPERATORS), hint)
    known = signature(name).version
    if isinstance(version, int) and version > known:
        raise fail("AS642", f"operator '{name}' has version {version}; this archspec knows up to {known}")


def _checked(instruction: Instruction) -> Instruction:
    _check_types(instruction)
    match instruction:
        case Install():
            _check_install(instruction)
        case Share():
            _check_paths(instruction.path, instruction.to)
        case Relist():
            _check_paths(instruction.path)
            _check_streams(instruction.streams, instruction.returns)
            _check_entries(instruction)
    return instruction


def _check_install(install: Install) -> None:
    _check_types(install)
    _check_paths(install.path)
    _check_streams(install.port.streams, install.port.returns)
    config = restore(install.operator, install.config)
    if install.shape.beside and (config.single or len(install.port.streams) != 2):
        raise ValueError(f"{install.operator} at '{install.path}' mixes {len(install.port.streams)} streams")
    for problem in config.problems(install.shape):
        raise ValueError(f"{install.operator} at '{install.path}': {problem.message}")


def _check_streams(streams: Streams, returns: int) -> None:
    """Each stream is a parameter of its own, and stands at a place of its own in what is returned."""
    places = [index for _, index in streams if index is not None]
    names = {name for name, _ in streams if name.isidentifier()}
    if len(names) != len(streams) or len(set(places)) != len(places):
        raise ValueError(f"streams {list(streams)!r}")
    if not all(0 <= index < returns for index in places) or (streams and streams[0][1] is None):
        raise ValueError(f"streams {list(streams)!r} of {returns} outputs")


def _check_paths(*paths: str) -> None:
    for path in paths:
        if len(path) > 1000 or not _PATH.fullmatch(path):
            raise ValueError(f"{path[:80]!r} is not a module path")


def _check_entries(relist: Relist) -> None:
    if not 0 < len(relist.entries) <= MOST:
        raise ValueError(f"the list '{relist.path}' has {len(relist.entries)} entries")
    for entry in relist.entries:
        _check_entry(entry, relist.length)
        _check_beside(entry, relist.streams)
    _check_skips(relist)


def _check_beside(entry: Entry, streams: Streams) -> None:
    """Streams beside the own one are the list's, each once."""
    known = [name for name, index in streams[1:] if index is not None]
    if len(set(entry.beside)) != len(entry.beside) or not set(entry.beside) <= set(known):
        raise ValueError(f"streams {list(entry.beside)!r} of {known!r}")


def _check_skips(relist: Relist) -> None:
    """A skip must leave from a block that stands before the one it ends in."""
    before: set[int] = set()
    for entry in relist.entries:
        if entry.skip is not None and (entry.form != "keep" or entry.skip not in before):
            raise ValueError(
                f"block {entry.members[0]} of '{relist.path}' reads block {entry.skip}, which is not before it"
            )
        if entry.form == "keep":
            before.add(entry.members[0])


def _check_entry(entry: Entry, length: int) -> None:
    count = len(entry.members)
    if entry.skip is not None and (type(entry.skip) is not int or not 0 <= entry.skip < length):
        raise ValueError(f"a skip from block {entry.skip!r} of {length}")
    if entry.form not in FORMS or (count < 1 if entry.form == "parallel" else count != 1):
        raise ValueError(f"entry {entry.form!r} of {count} blocks")
    if entry.form == "parallel" and entry.merge not in MERGES:
        raise ValueError(f"unknown merge {entry.merge!r}")
    if entry.skip is not None and entry.merge not in SKIP_MERGES:
        raise ValueError(f"unknown merge {entry.merge!r}")
    if (entry.form == "insert") != (entry.operator is not None):
        raise ValueError(f"entry {entry.form!r} and its operator do not belong together")
    if entry.operator:
        _check_install(entry.operator)
    if not all(type(member) is int and 0 <= member < length for member in entry.members):
        raise ValueError(f"entry {list(entry.members)!r} of a list of {length} blocks")


def _check_types(value: Any) -> None:
    """Check the fields of a dataclass, and of those within, against their annotations."""
    hints = get_type_hints(type(value))
    for item in fields(value):
        found = getattr(value, item.name)
        if not _fits(found, hints[item.name]):
            raise ValueError(f"'{item.name}' is {str(found)[:80]!r}")
        if isinstance(found, int) and not -1 <= found < LARGEST:
            raise ValueError(f"'{item.name}' is {found}")
        if is_dataclass(found):
            _check_types(found)


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of an annotated type, as far as instructions use them."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in options)
    if origin is Literal:
        return value in options
    if origin is tuple:
        wanted = options[:1] * len(value) if options[-1] is ... else options
        return isinstance(value, tuple) and len(wanted) == len(value) and all(map(_fits, value, wanted))
    return type(value) is int if hint is int else isinstance(value, origin or hint)
