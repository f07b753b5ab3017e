"""`archspec show PATH`: what a compiled checkpoint, a host's folder or a cached hub model is, as a tree.

Headers, configs and locks are read; torch is not imported, and no weight is read but by `--verify`, which compares
every byte of a compiled checkpoint with its lock.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.diagnostics import ArchspecError, Diagnostic, fail
from archspec.families import describe
from archspec.host.headers import BITS, read_folder
from archspec.host.locate import CONFIG, base_at, folder_of, locate, structure_of
from archspec.host.strict_json import read_json
from archspec.host.structure import Structure, TensorHeader
from archspec.instructions import Entry, Install, Instruction, Relist, Share
from archspec.plan import Plan
from archspec.quantity import quantity
from archspec.runtime.model.program import KEY, Graft, read_graft
from archspec.runtime.store.lock import PLAN, Lock, is_compiled, read_lock
from archspec.semantics.layout import result_paths

if TYPE_CHECKING:
    from rich.tree import Tree

Headers = Mapping[str, TensorHeader]
Program = tuple[Instruction, ...]


@dataclass(frozen=True)
class Description:
    """What is shown. `structure` is the base's, `headers` are the tensors that stand in the files and are used."""

    name: str
    structure: Structure
    headers: Headers
    program: Program = ()
    lock: Lock | None = None
    tasks: tuple[tuple[str, bool], ...] = field(default=())
    """Task of the plan, and whether it is finished."""

    @property
    def params(self) -> int:
        return sum(header.count for header in self.headers.values())

    @property
    def size(self) -> int:
        return sum(header.count * BITS[header.dtype] // 8 for header in self.headers.values())

    def within(self, path: str) -> int:
        """Return the number of parameters of a module of the result."""
        return sum(h.count for name, h in self.headers.items() if name.startswith(f"{path}."))


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--verify", is_flag=True, help="Read every byte and compare it with the checkpoint's lock.")
def command(path: str, as_json: bool, verify: bool) -> int:
    """Describe PATH: a compiled checkpoint, a model or pipeline folder, or a hub id in the local cache."""
    if verify:
        return _verify(Path(path), as_json)
    found = describe_path(path)
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2))
    else:
        from rich.console import Console

        Console(highlight=False).print(_tree(found))
    return 0


def _verify(path: Path, as_json: bool) -> int:
    """Compare a compiled checkpoint with its lock: AS646 for every file that differs."""
    from archspec.runtime.store.verify import differences

    lock = read_lock(path)
    found = list(differences(path, lock))
    if as_json:
        click.echo(json.dumps({"name": str(path), "files": len(lock.files), "differ": list(map(asdict, found))}))
        return 1 if found else 0
    if found:
        hint = "undo the change, or compile again: `archspec compile SPEC -o OUT`"
        raise ArchspecError(*(Diagnostic("AS646", f"'{d.file}' {d.reason}", hints=(hint,)) for d in found))
    click.echo(f"{len(lock.files)} files with {len(lock.tensors)} tensors are as the lock says")
    return 0


def describe_path(name: str) -> Description:
    """Read what there is to know of a checkpoint, a folder or a hub id."""
    path = Path(name)
    if path.is_dir() and is_compiled(path):
        return _compiled(name, path)
    located = locate(base_at(name), Path())
    folder = folder_of(located)
    if KEY in read_json(folder / CONFIG, "AS602"):
        return _saved(name, folder)
    structure = structure_of(located)
    return Description(name, structure, structure.tensors or {})


def _compiled(name: str, path: Path) -> Description:
    lock = read_lock(path)
    found = _saved(name, path / lock.subfolder if lock.subfolder else path)
    return Description(name, found.structure, found.headers, lock.instructions, lock, tuple(_tasks(path)))


def _saved(name: str, folder: Path) -> Description:
    """A folder of a grafted class, with or without a lock (`save_pretrained` writes none)."""
    config = read_json(folder / CONFIG, "AS602")
    graft = read_graft(config.get(KEY))
    headers = _used(folder)
    return Description(name, describe(base_config(config, graft)), headers, graft.instructions)


def base_config(config: Mapping[str, Any], graft: Graft) -> dict[str, Any]:
    """Return the config as the base had it."""
    found = {**config, **graft.base}
    del found[KEY]
    if graft.model_type is None:
        return {**found, "_class_name": graft.architecture}
    return {**found, "model_type": graft.model_type, "architectures": [graft.architecture]}


def _used(folder: Path) -> Headers:
    """Leave out the dead tensors of linked files."""
    from archspec.host.headers import read_index

    headers = read_folder(folder)
    for path in sorted(folder.glob("*.safetensors.index.json")):
        return {name: headers[name] for name in read_index(path) if name in headers}
    return headers


def _tasks(path: Path) -> Iterator[tuple[str, bool]]:
    if not (path / PLAN).is_file():
        return
    try:
        plan = Plan.from_json(read_json(path / PLAN, "AS641"))
    except ValueError as error:
        raise fail("AS641", f"'{path / PLAN}' is malformed: {error}") from error
    for task in plan.tasks:
        yield task.id, (path / ".archspec" / "artifacts" / task.key).is_dir()


def to_json(found: Description) -> dict[str, Any]:
    structure, lock = found.structure, found.lock
    return {
        "name": found.name,
        "library": structure.library,
        "architecture": structure.architecture,
        "family": structure.family,
        "params": found.params,
        "bytes": found.size,
        "dtypes": dict(Counter(header.dtype for header in found.headers.values())),
        "groups": {group: len(list(_entries(found, path))) for group, path in structure.groups.items()},
        "edits": [list(change) for change in _changes(found)],
        "base": dict(lock.base) if lock else None,
        "spec": lock.spec.get("name") if lock else None,
        "tensors": dict(Counter(entry.kind for entry in lock.tensors.values())) if lock else None,
        "tasks": [{"id": task, "finished": done} for task, done in found.tasks],
        "results": dict(lock.results) if lock else {},
    }


def _changes(found: Description) -> Iterator[tuple[str, str]]:
    for instruction in found.program:
        match instruction:
            case Install() if not instruction.is_exit:
                yield instruction.path, instruction.operator
            case Share():
                yield instruction.path, f"weights of {instruction.to}"
            case Relist():
                yield instruction.path, f"{instruction.length} -> {len(instruction.entries)} entries"


def _entries(found: Description, path: str) -> Iterator[tuple[str, str]]:
    """Yield (path in the result, what it is) of the entries of a list of blocks."""
    relist = next((i for i in found.program if isinstance(i, Relist) and i.path == path), None)
    if relist is None:
        blocks = [s for s in found.structure.sites if s.slot == "block" and s.path.rpartition(".")[0] == path]
        yield from ((site.path, site.name) for site in blocks)
        return
    for position, entry in enumerate(relist.entries):
        names = ", ".join(f"{_site_name(found.structure, f'{path}.{m}')}" for m in entry.members)
        yield f"{path}.{position}", _entry(found.structure, path, entry, names)


def _entry(structure: Structure, path: str, entry: Entry, names: str) -> str:
    if entry.operator:
        return f"{entry.operator.operator} behind {names}"
    if entry.skip is not None:
        return f"{names}, with {_site_name(structure, f'{path}.{entry.skip}')} ({entry.merge})"
    form = {"keep": "", "copy": "copy of ", "tie": "again "}.get(entry.form, f"parallel ({entry.merge}) ")
    return f"{form}{names}"


def _site_name(structure: Structure, path: str) -> str:
    site = structure.site(path)
    return site.name if site else path


def _tree(found: Description) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    structure = found.structure
    size = f"{quantity(found.params, 'count')} parameters, {quantity(found.size, 'bytes')}"
    head = Text.assemble((found.name, "bold"), f"  {structure.architecture} ({structure.library}), {size}")
    tree = Tree(head)
    for line in _facts(found):
        tree.add(Text(line))
    for group, path in structure.groups.items():
        entries = list(_entries(found, path))
        branch = tree.add(Text.assemble((group, "bold"), f"  {path}, {len(entries)} entries"))
        _add_entries(branch, found, entries)
    if found.tasks:
        _add_tasks(tree, found)
    return tree


def _facts(found: Description) -> Iterator[str]:
    lock = found.lock
    if lock is None:
        return
    yield f"spec {lock.spec.get('name')}, of {lock.base.get('from')} ({lock.base.get('fingerprint')})"
    base = (lock.spec.get("resolved") or {}).get("base")
    if isinstance(base, Mapping) and base.get("weights") == "random":
        taught = f", with the teacher {base.get('teacher')}" if base.get("teacher") else ""
        yield f"the base is {base.get('from')} with random weights (seed {base.get('seed')}){taught}"
    kinds = Counter(entry.kind for entry in lock.tensors.values())
    yield "tensors: " + ", ".join(f"{kinds[kind]} {kind}" for kind in ("copied", "derived", "new") if kinds[kind])
    dead = sum(len(record.dead) for record in lock.files.values())
    if dead:
        yield f"linked files hold {dead} tensors that are not used"


def _add_entries(branch: Tree, found: Description, entries: list[tuple[str, str]]) -> None:
    """Add a line per entry; runs of entries that are alike but for their index are folded."""
    shown: list[tuple[str, str, str, int]] = []
    base = {site.name for site in found.structure.sites if site.slot == "block"}
    for path, name in entries:
        edits = ", ".join(_inside(found, path)) or ("as in the base" if name in base else "")
        if shown and shown[-1][2] == edits == "as in the base":
            shown[-1] = (shown[-1][0], name, edits, shown[-1][3] + found.within(path))
        else:
            shown.append((name, name, edits, found.within(path)))
    for first, last, edits, params in shown:
        span = first if first == last else f"{first} to {last}"
        branch.add(f"{span}  {quantity(params, 'count')}  {edits}".rstrip().replace("[", "\\["))


def _inside(found: Description, path: str) -> Iterator[str]:
    """Yield what was edited within an entry of the result, as `slot: operator`."""
    for instruction in found.program:
        if isinstance(instruction, Relist) or (isinstance(instruction, Install) and instruction.is_exit):
            continue
        places = result_paths(found.program, instruction.path)
        if any(place == path or place.startswith(f"{path}.") for place in places):
            what = instruction.operator if isinstance(instruction, Install) else f"as {instruction.to}"
            site = found.structure.site(instruction.path)
            yield f"{site.slot if site else instruction.path}: {what}"


def _add_tasks(tree: Tree, found: Description) -> None:
    done = sum(finished for _, finished in found.tasks)
    branch = tree.add(f"plan  {done} of {len(found.tasks)} tasks finished")
    for task, finished in found.tasks:
        branch.add(f"{'✓' if finished else '·'} {task}".replace("[", "\\["))
