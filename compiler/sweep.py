"""All members of a matrix, compiled, taught and measured into one folder.

    OUT/sweep.json           which spec and members it is of
    OUT/members/<slug>/      the checkpoint of a member; its workspace keeps artifacts in
    OUT/artifacts/<key>/     the results of all tasks, and what was drawn from hosts: found by key, so what several
                             members need is done once
    OUT/state/<slug>.json    what a member was compiled from; what is wrong with it, if something is

Everything is compiled first, so that a mistake is told before hours of training and the work ahead is known. Each file
is published whole, and a task whose key is there is never run again: a sweep that was killed goes on where it was. A
member that fails is left and told of at the end. Shards divide the members; whoever comes last finds all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archspec.compiler.driver import compile_spec
from archspec.diagnostics import ArchspecError, Diagnostic, fail
from archspec.host.strict_json import read_json
from archspec.language.matrix import Member
from archspec.plan import digest
from archspec.runtime.execution.execute import execute, read_plan
from archspec.runtime.execution.journal import Journal
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.files import replace_text, writing
from archspec.syntax.tree import plain

NAME = "sweep.json"


@dataclass(frozen=True)
class Watch:
    """Who looks on. `doing(text)`; `ahead(flops)` is told once, before the first task; `done(flops)` after each member;
    `failed(member, error)` as soon as one fails."""

    doing: Callable[[str], None] = lambda text: None
    ahead: Callable[[int], None] = lambda flops: None
    done: Callable[[int], None] = lambda flops: None
    failed: Callable[[Member, ArchspecError], None] = lambda member, error: None


@dataclass(frozen=True)
class Place:
    """One member in the folder of a sweep."""

    out: Path
    member: Member

    @property
    def folder(self) -> Path:
        return self.out / "members" / (self.member.slug or "only")

    @property
    def state(self) -> Path:
        return self.out / "state" / f"{self.folder.name}.json"

    @property
    def source(self) -> str:
        """The hash of all that the spec says of the member."""
        return digest(plain(self.member.tree))

    @property
    def known(self) -> dict[str, Any]:
        """What the last run noted, if that was of the same spec."""
        found = read_json(self.state, "AS816") if self.state.is_file() else {}
        return found if found.get("source") == self.source else {}

    @property
    def is_compiled(self) -> bool:
        return bool(self.known.get("compiled")) and self.folder.is_dir()

    def note(self, **what: Any) -> None:
        with writing(self.state):
            self.state.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.state, json.dumps({"source": self.source, **what}, indent=1) + "\n")


@dataclass
class Tally:
    """What a sweep did. `ran` are the ids of tasks that were run, with their members."""

    ran: list[tuple[Member, str]] = field(default_factory=list)
    failed: list[tuple[Member, ArchspecError]] = field(default_factory=list)


def sweep(
    spec: Path,
    out: Path,
    members: Sequence[Member],
    *,
    shard: tuple[int, int] | None = None,
    device: str | None = None,
    watch: Watch = Watch(),
) -> Tally:
    """Compile, run and measure `members`, or those of a shard (i, n), i from 1. AS816 when `out` is something else."""
    claim(out, spec, members)
    mine = [Place(out, m) for m in members[shard[0] - 1 :: shard[1]]] if shard else [Place(out, m) for m in members]
    tally = Tally()
    with Workspace(out).alone(f"shard-{shard[0]}-of-{shard[1]}" if shard else "sweep"):
        compiled = [place for place in mine if _compile(spec, place, watch, tally)]
        share = _work(compiled)
        watch.ahead(sum(share.values()))
        for place in compiled:
            _run(place, device, watch, tally)
            watch.done(share[place.folder.name])
    return tally


def claim(out: Path, spec: Path, members: Sequence[Member]) -> None:
    """Note what the folder is of: a spec of this file name, wherever that lies. AS816 when it holds something else."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / NAME).is_file())):
        raise fail("AS816", f"'{out}' exists and is no sweep", None, "name a new folder: `-o OUT`")
    held = read_json(out / NAME, "AS816").get("spec") if (out / NAME).is_file() else spec.name
    if held != spec.name:
        raise fail("AS816", f"'{out}' holds the sweep of '{held}'", None, "name a new folder: `-o OUT`")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    found = {Place(out, m).folder.name: dict(m.labels) for m in members}
    replace_text(out / NAME, json.dumps({"spec": spec.name, "members": found}, indent=1) + "\n")


@contextmanager
def _attempt(place: Place, watch: Watch, tally: Tally) -> Iterator[None]:
    """Note a failure of one member and go on with the others."""
    try:
        yield
    except ArchspecError as error:
        place.note(compiled=place.is_compiled, problems=[_text(d) for d in error.diagnostics])
        tally.failed.append((place.member, error))
        watch.failed(place.member, error)


def _text(diagnostic: Diagnostic) -> str:
    return f"[{diagnostic.code}] {diagnostic.message}"


def _compile(spec: Path, place: Place, watch: Watch, tally: Tally) -> bool:
    if place.is_compiled:
        return True
    watch.doing(f"compiling {place.member.id}")
    with _attempt(place, watch, tally):
        compile_spec(spec, place.folder, member=place.member.id or None, overwrite=True)
        Workspace(place.folder).share(place.out / "artifacts")
        place.note(compiled=True)
    return place.is_compiled


def _work(places: Sequence[Place]) -> dict[str, int]:
    """Return folder -> FLOPs of the tasks that it is the first to need and that are not finished."""
    seen: set[str] = set()
    found: dict[str, int] = {}
    for place in places:
        finished = Workspace(place.folder).finished
        tasks = [t for t in read_plan(place.folder).tasks if t.key not in seen and not finished(t.key)]
        seen |= {task.key for task in tasks}
        found[place.folder.name] = sum(task.cost.flops for task in tasks)
    return found


def _run(place: Place, device: str | None, watch: Watch, tally: Tally) -> None:
    workspace = Workspace(place.folder)
    left = [task for task in read_plan(place.folder).tasks if not workspace.finished(task.key)]
    with _attempt(place, watch, tally):
        watch.doing(place.member.id)
        journal = _Told(workspace.root, lambda task: watch.doing(f"{place.member.id}  {task}"))
        execute(place.folder, device=device, journal=journal)
        if place.known.get("problems"):
            place.note(compiled=True)
    tally.ran += [(place.member, task.id) for task in left if workspace.finished(task.key)]


class _Told(Journal):
    """A journal that tells what is under way in the line of the sweep."""

    def __init__(self, root: Path, tell: Callable[[str], None]) -> None:
        super().__init__(root)
        self.tell = tell

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        self.tell(what)
        yield
