"""All members of a matrix, compiled, taught and measured into one folder.

    OUT/sweep.json           which spec and members it is of, and where its store is
    OUT/members/<slug>/      the checkpoint of a member; its workspace keeps artifacts in
    OUT/artifacts/<key>/     the store: results of all tasks, what teachers showed, what was drawn from hosts. Found by
                             key, so what several members need is done once; or another folder, that sweeps share
    OUT/state/<slug>.json    what a member was compiled from; what is wrong with it, if something is

Everything is compiled first, so that a mistake is told before hours of training and the work ahead is known. Each file
is published whole, and a task whose artifact is there is never run again: a sweep that was killed goes on where it was,
and one whose base, data or spec changed does again what depends on them. A member that fails is left and told of at the
end; a full disk ends the sweep. Shards divide the members; whoever comes last finds all of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from archspec.compiler.derive import Derivations
from archspec.compiler.driver import compile_spec
from archspec.compiler.place import Place, problem
from archspec.diagnostics import ArchspecError, fail
from archspec.host.locate import recorded
from archspec.host.strict_json import read_json
from archspec.language.matrix import Member
from archspec.plan import Task
from archspec.runtime.execution.execute import execute, read_plan
from archspec.runtime.execution.journal import Journal
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.artifacts import Artifacts, open_store
from archspec.runtime.store.files import check_replaceable, replace_text, room, writing
from archspec.runtime.store.lock import read_lock

NAME, STORE = "sweep.json", "artifacts"
Shard = tuple[int, int]


@dataclass(frozen=True)
class Watch:
    """Who looks on. `doing(text)`; `ahead(flops)` is told once, before the first task; `done(flops)` after each member;
    `failed(member, error)` as soon as one fails."""

    doing: Callable[[str], None] = lambda text: None
    ahead: Callable[[int], None] = lambda flops: None
    done: Callable[[int], None] = lambda flops: None
    failed: Callable[[Member, ArchspecError], None] = lambda member, error: None


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
    shard: Shard | None = None,
    store: Path | None = None,
    device: str | None = None,
    watch: Watch = Watch(),
) -> Tally:
    """Compile, run and measure `members`, or those of a shard (i, n), i from 1. `store`: where artifacts are kept
    (None: where they were before, else in `out`). AS816 when `out` is something else, AS817 and AS737 of the store,
    AS631 when the disk is full."""
    tally = Tally()
    with room(out):
        kept = claim(out, spec, members, store)
        places = [Place(out, member, spec.parent) for member in members]
        mine = places[shard[0] - 1 :: shard[1]] if shard else places
        name = f"shard-{shard[0]}-of-{shard[1]}" if shard else "sweep"
        with Workspace(out).alone(name, "archspec sweep SPEC -o OUT"):
            known = Derivations()
            compiled = [place for place in mine if _compile(spec, place, kept, watch, tally, known)]
            _Run(spec, compiled, kept, shard is not None or kept != own_store(out), device, watch, tally).all()
    return tally


def own_store(out: Path) -> Path:
    return out / STORE


def claim(out: Path, spec: Path, members: Sequence[Member], store: Path | None = None) -> Path:
    """Note what the folder is of: a spec of this file name, wherever that lies; return the folder of its store."""
    check_replaceable(out, NAME, "sweep", "AS816", "name a new folder: `-o OUT`")
    held = read_json(out / NAME, "AS816") if (out / NAME).is_file() else {}
    if held.get("spec", spec.name) != spec.name:
        raise fail("AS816", f"'{out}' holds the sweep of '{held['spec']}'", None, "name a new folder: `-o OUT`")
    kept = _store(out, held.get("store"), store)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    noted = held.get("members")
    earlier = noted.items() if isinstance(noted, dict) else ()
    found = {name: labels for name, labels in earlier if (out / "members" / name).is_dir()}
    found |= {Place(out, m, spec.parent).folder.name: dict(m.labels) for m in members}
    where = Path(os.path.relpath(kept.resolve(), out.resolve())).as_posix()
    replace_text(out / NAME, json.dumps({"spec": spec.name, "store": where, "members": found}, indent=1) + "\n")
    return kept


def _store(out: Path, noted: object, given: Path | None) -> Path:
    """Return the folder of the store: the one that is given, the one that was used before, that in the sweep."""
    if given is not None:
        return own_store(out) if given.resolve() == own_store(out).resolve() else open_store(given)
    if not isinstance(noted, str) or noted == STORE:
        return own_store(out)
    if not (out / noted).is_dir():
        hint = "say where it is now: `--store FOLDER`; what is missing there is made again"
        raise fail("AS737", f"the artifacts of this sweep are in '{out / noted}', which is not there", None, hint)
    return out / noted


@contextmanager
def _attempt(place: Place, watch: Watch, tally: Tally) -> Iterator[None]:
    """Note a failure of one member and go on with the others; on a full disk they would fare no better."""
    try:
        yield
    except ArchspecError as error:
        if any(diagnostic.code == "AS631" for diagnostic in error.diagnostics):
            raise
        found = _blamed(place, error)
        place.note(compiled=place.is_compiled, problems=[problem(d) for d in found.diagnostics])
        tally.failed.append((place.member, found))
        watch.failed(place.member, found)


def _blamed(place: Place, error: ArchspecError) -> ArchspecError:
    """Return what to tell of a failure: where its folder is damaged, that."""
    reason = place.damage() if place.is_compiled else None
    if reason is None:
        return error
    hint = "delete it and sweep again: what is finished is kept in the store"
    return fail("AS818", f"the folder '{place.folder}' is damaged: {reason}", None, hint)


def _compile(spec: Path, place: Place, store: Path, watch: Watch, tally: Tally, known: Derivations) -> bool:
    if not place.is_compiled:
        watch.doing(f"compiling {place.member.id}")
        with _attempt(place, watch, tally):
            compile_spec(spec, place.folder, member=place.member.id or None, overwrite=True, known=known)
            place.note(compiled=True)
    if not place.is_compiled:
        return False
    place.workspace.share(store)
    with _attempt(place, watch, tally):
        read_plan(place.folder)
    return all(member is not place.member for member, _ in tally.failed)


@dataclass
class _Run:
    """The compiled members of one run, one after the other. `shared`: others may use the store too."""

    spec: Path
    places: Sequence[Place]
    store: Path
    shared: bool
    device: str | None
    watch: Watch
    tally: Tally

    def __post_init__(self) -> None:
        self.tasks = {place.folder.name: read_plan(place.folder).tasks for place in self.places}
        self.last = {key: name for name, tasks in self.tasks.items() for key in _teachers(tasks)}

    def all(self) -> None:
        share, teachers = self._work(), self._wanted()
        self.watch.ahead(sum(share.values()))
        for place in self.places:
            self._run(place, teachers)
            self._forget(place)
            self.watch.done(share[place.folder.name])

    def _work(self) -> Mapping[str, int]:
        """Return folder -> FLOPs of the tasks that it is the first to need and that are not finished."""
        seen: set[str] = set()
        found: dict[str, int] = {}
        for name, tasks in self.tasks.items():
            left = [task for task in self._left(tasks) if task.key not in seen]
            seen |= {task.key for task in left}
            found[name] = sum(task.cost.flops for task in left)
        return found

    def _left(self, tasks: Sequence[Task]) -> list[Task]:
        return [task for task in tasks if not Artifacts(self.store.resolve()).holds(task.key)]

    def _wanted(self) -> set[str]:
        """Return the keys of what teachers show that is kept: what several tasks, or perhaps other runs, will need."""
        left = {task.key: task for tasks in self.tasks.values() for task in self._left(tasks)}
        counts = Counter(key for task in left.values() for key in _teachers([task]))
        return {key for key, count in counts.items() if count > 1 or self.shared}

    def _forget(self, place: Place) -> None:
        """Drop what teachers showed to this member and will show to none that follows."""
        for key in _teachers(self.tasks[place.folder.name]):
            if self.last[key] == place.folder.name and not self.shared:
                Artifacts(self.store.resolve()).drop(key)

    def _run(self, place: Place, teachers: set[str]) -> None:
        name, left = place.member.id, self._left(self.tasks[place.folder.name])
        journal = _Told(place.workspace.root, lambda what: self.watch.doing(f"{name}  {what}"))
        with _attempt(place, self.watch, self.tally):
            self.watch.doing(name)
            base = place.workspace.origin().get("base") or recorded(read_lock(place.folder).host, place.near)
            if base is not None:
                place.workspace.remember_origin(base, self.spec)
            execute(place.folder, base=base, near=place.near, device=self.device, journal=journal, teachers=teachers)
            if place.known.get("problems"):
                place.note(compiled=True)
        done = [task.id for task in left if task.id in journal.begun and place.workspace.finished(task.key)]
        self.tally.ran += [(place.member, id) for id in done]


def _teachers(tasks: Sequence[Task]) -> list[str]:
    """Return the keys of what the teacher shows these tasks, as far as it is kept while they learn."""
    return [task.settings["teacher"] for task in tasks if "teacher" in task.settings]


class _Told(Journal):
    """A journal that tells what is under way in the line of the sweep."""

    def __init__(self, root: Path, told: Callable[[str], None]) -> None:
        super().__init__(root)
        self.told = told

    def tell(self, what: str) -> None:
        self.told(what)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        self.told(what)
        yield
