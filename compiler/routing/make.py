"""`route_spec(path)`: from the `route` stanza of a spec to the file of a router."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from archspec.compiler.routing.fit import fit
from archspec.diagnostics import Collector, fail
from archspec.host.fingerprint import Identity, digest_of
from archspec.host.locate import check_fingerprint, find_base, folder_of, structure_of
from archspec.host.structure import Structure
from archspec.language import knowledge as language
from archspec.language.knowledge import Route
from archspec.language.parse import load
from archspec.language.spec import Spec
from archspec.packs.header import is_marked
from archspec.packs.router import KEY, Active, Embedding, Routing, Task
from archspec.runtime.packs.check import check_base
from archspec.runtime.packs.reading import Pack, open_pack
from archspec.runtime.routing.head import Head
from archspec.runtime.routing.router import check_fingerprint as check_same_base
from archspec.runtime.store.files import check_file, writing
from archspec.semantics.check.routing import NOTHING, check_route, examples_of

SUFFIX = ".router.safetensors"
Progress = Callable[[str], None]


def route_spec(
    path: Path, out: Path | None = None, device: str = "cpu", progress: Progress = lambda stage: None
) -> tuple[Routing, Path]:
    """Make the router that a spec asks for; return its header and file. Raises ArchspecError."""
    spec = load(path)
    if spec.route is None:
        raise fail("AS677", f"'{path}' routes nothing: it has no 'route'", None, NOTHING)
    target = out or Path(f"{spec.name}{SUFFIX}")
    check_file(target, lambda there: is_marked(there, KEY), "router")
    located = find_base(spec, path.parent)
    structure = structure_of(located, whole=True)
    assert spec.base is not None
    check_fingerprint(spec.base, located)
    progress("checking the base")
    packs = _checked(spec, spec.route, path.parent, structure)
    digests = {name: digest_of(header).hex() for name, header in (structure.tensors or {}).items()}
    base = {"from": spec.base.from_, "fingerprint": _fingerprint(structure, digests)}
    _check_bases(packs, base)
    tasks = tuple(_task(task, path.parent, target.parent) for task in spec.route.tasks)
    if spec.route.by == "map":
        routing, head = Routing(spec.name, "map", base, tasks), None
    else:
        rows = embedded(spec.route, path.parent, folder_of(located), progress, device)
        routing, head = fitted(spec.name, spec.route, base, tasks, rows, digests)
    write_router(routing, head, target)
    return routing, target


def _fingerprint(structure: Structure, digests: Mapping[str, str]) -> str:
    identity = Identity(structure.config)
    for name, header in (structure.tensors or {}).items():
        identity.add(name, header, bytes.fromhex(digests[name]))
    return identity.value()


def _checked(spec: Spec, route: Route, near: Path, structure: Structure) -> dict[str, Pack]:
    """Look at the stanza, hold the digests of its packs to the base, and return them."""
    problems = Collector()
    check_route(spec, structure, problems)
    problems.raise_if_errors()
    files = dict.fromkeys(use.from_ for task in route.tasks for use in task.packs)
    packs = {file: open_pack(near / Path(file).expanduser()) for file in files}
    for pack in packs.values():
        check_base(pack, structure.tensors or {}, problems)
    problems.raise_if_errors()
    return packs


def _check_bases(packs: Mapping[str, Pack], base: Mapping[str, str]) -> None:
    """Hold the bases that packs name to the router's, as whoever opens the router will. AS689."""
    problems = Collector()
    for file, pack in packs.items():
        check_same_base(base, f"the pack '{file}'", pack.header.base, problems)
    problems.raise_if_errors()


def _task(task: language.Task, near: Path, folder: Path) -> Task:
    """Return a task with its packs as they are found from the router's folder."""
    paths = [os.path.relpath((near / Path(use.from_).expanduser()).resolve(), folder.resolve()) for use in task.packs]
    return Task(task.name, tuple(Active(Path(p).as_posix(), u.scale) for p, u in zip(paths, task.packs, strict=True)))


def embedded(route: Route, near: Path, base: Path, progress: Progress, device: str) -> dict[str, Tensor]:
    """Return embeddings (examples, width) of each task's examples, by the base."""
    from archspec.runtime.measure.sample import load_tokenizer
    from archspec.runtime.routing.embed import BaseEmbedding
    from archspec.runtime.store.home import home
    from archspec.runtime.store.opening import open_model

    place = home(base)
    tokenizer = load_tokenizer(place)
    embed = BaseEmbedding(open_model(place, device), Embedding("base", 1, route.layer, route.length), tokenizer)
    found = {}
    for task in route.tasks:
        progress(f"reading examples of {task.name}")
        assert task.examples is not None
        found[task.name] = embed(examples_of(near / Path(task.examples).expanduser()))
    return found


def fitted(
    name: str,
    route: Route,
    base: Mapping[str, str],
    tasks: tuple[Task, ...],
    rows: Mapping[str, Tensor],
    digests: Mapping[str, str] | None = None,
) -> tuple[Routing, Head]:
    """Return header and head for embeddings of examples: by the base, whose `digests` are given, or by a function of
    the caller's. AS678."""
    found = fit(route.by, rows, route.threshold, route.reject, route.seed)
    width = len(found.head.center)
    if digests is None:
        embedding = Embedding("given", width)
    else:
        embedding = Embedding("base", width, route.layer, route.length, digests)
    numbers = (found.threshold, found.temperature, route.top)
    return Routing(name, route.by, base, tasks, embedding, *numbers, made=found.told), found.head


def write_router(routing: Routing, head: Head | None, out: Path) -> None:
    """Write a router's file in one rename. The same router gives the same bytes."""
    tensors = {name: value.contiguous() for name, value in (head.tensors if head else {}).items()}
    data = save(tensors, {KEY: routing.to_text()})  # of several keys, the library draws the order
    partial = out.with_name(f".{out.name}.partial")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
