"""Where every tensor of the result comes from, and where every module of the base ends up, without torch.

    tensor_sources(program, structure)   final tensor name -> TensorSource
    result_paths(program, path)          path in the base -> its paths in the result

This is the torch-free twin of `archspec.runtime.model.apply` and must name tensors as the applied module tree does: a
`Parallel` keeps its blocks under `branches.<k>` and, where it has weights, a linear map under `merge` (and one for each
further stream); a copied block
has tensors of its own; tied and shared modules have none. So parameters can be counted, and a checkpoint written,
before any module exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from archspec.diagnostics import InternalError
from archspec.families import computed_tensors, expected_tensors
from archspec.host.structure import Structure, inside
from archspec.instructions import Entry, Install, Instruction, Relist, Share, TensorSource, added, homes
from archspec.operators import restore

Program = tuple[Instruction, ...]
Sources = dict[str, TensorSource]


def base_shapes(structure: Structure) -> Mapping[str, tuple[int, ...]] | None:
    """Return name -> shape of the base's tensors: from the headers, else from the config; None when neither tells."""
    if structure.tensors is not None:
        return {name: header.shape for name, header in structure.tensors.items()}
    return expected_tensors(structure)


def tensor_sources(program: Program, structure: Structure) -> Sources:
    """Return the tensors of the result, those of the base in its order, new ones of operators behind them."""
    shapes = base_shapes(structure)
    if shapes is None:
        raise InternalError(f"layout: the tensors of '{structure.architecture}' are not known without its weights")
    shared = {i.path for i in program if isinstance(i, Share)}
    installs = {i.path: i for i in program if isinstance(i, Install) and not inside(i.path, shared)}
    gone = shared | installs.keys()
    sources = {name: TensorSource(base=name) for name in shapes if not inside(name, gone)}
    for install in installs.values():
        sources |= _operator(install, install.path)
    for instruction in program:
        if isinstance(instruction, Relist):
            sources = _relisted(instruction, sources)
    return sources


def _operator(install: Install, path: str) -> Sources:
    """Return the tensors of an operator that stands at `path`."""
    tensors = restore(install.operator, install.config).weights(install.shape)
    return {
        f"{path}.{local}": TensorSource(shape=tuple(shape), site=install.path, local=local)
        for local, shape in tensors.items()
    }


def _relisted(relist: Relist, sources: Sources) -> Sources:
    """Rename the tensors of a list of blocks, and add those of its merges and of what is inserted."""
    inside: dict[int, Sources] = {}
    result: Sources = {}
    for name, source in sources.items():
        index, _, local = name.removeprefix(f"{relist.path}.").partition(".")
        if name.startswith(f"{relist.path}.") and index.isdecimal():
            inside.setdefault(int(index), {})[local] = source
        else:
            result[name] = source
    for path, member in homes(relist):
        result |= {f"{path}.{local}": source for local, source in inside.get(member, {}).items()}
    for place, path, entry in added(relist):
        result |= _operator(entry.operator, path) if entry.operator else _merge(entry, relist, path, place, "")
    for position, entry in enumerate(relist.entries):
        for name in entry.maps:
            result |= _merge(entry, relist, f"{relist.path}.{position}.{name}", relist.path, f"{position}.{name}.")
    return result


def _merge(entry: Entry, relist: Relist, path: str, site: str, prefix: str) -> Sources:
    """Return the tensors of a merge: y = W [x1; ...; xn] + b with W of (width, n * width)."""
    shapes = {"weight": (relist.width, entry.merge_widths * relist.width), "bias": (relist.width,)}
    return {
        f"{path}.{part}": TensorSource(shape=shape, site=site, local=f"{prefix}{part}")
        for part, shape in shapes.items()
    }


def result_paths(program: Program, path: str) -> tuple[str, ...]:
    """Return the paths in the result of a module of the base: none when it is gone, several when it is repeated.

    A replaced or shared module keeps its path; what was inside it is gone.
    """
    paths: tuple[str, ...] = (path,)
    for instruction in program:
        match instruction:
            case Install(path=home) | Share(path=home):
                paths = tuple(p for p in paths if not p.startswith(f"{home}."))
            case Relist():
                paths = tuple(moved for p in paths for moved in _moved(instruction, p))
    return paths


def _moved(relist: Relist, path: str) -> Iterator[str]:
    for place, home, _ in added(relist):
        if inside(path, {place}):
            yield home + path.removeprefix(place)
            return
    index, dot, local = path.removeprefix(f"{relist.path}.").partition(".")
    if not path.startswith(f"{relist.path}.") or not index.isdecimal():
        yield path
        return
    yield from (f"{home}{dot}{local}" for home, member in homes(relist, ties=True) if member == int(index))


def result_path(program: Program, path: str) -> str | None:
    """Return where a module of the base stands in the result (the first place), None when it is gone."""
    return next(iter(result_paths(program, path)), None)


def depth(program: Program, structure: Structure, group: str = "blocks") -> int:
    """Return the number of entries of a list of blocks in the result."""
    path = structure.groups.get(group)
    lists = (i for i in program if isinstance(i, Relist) and i.path == path)
    return next((len(i.entries) for i in lists), structure.depth(group))


def count_parameters(sources: Mapping[str, TensorSource], structure: Structure) -> int:
    """Return the number of parameters of a result: of values in its tensors, computed ones left out."""
    shapes, computed = base_shapes(structure) or {}, computed_tensors(structure)
    learned = (s for s in sources.values() if s.base not in computed)
    return sum(prod(s.shape if s.shape is not None else shapes[s.base or ""]) for s in learned)
