"""What of a result has to be taught: replaced sites and groups of blocks made parallel.

What an edit adds where nothing stood (an inserted operator, a skip) imitates nothing: it learns in finetuning alone,
and so do blocks that are merely moved, repeated or dropped. Parts come in the order of the network, a group after
everything inside it, so that a merge is fitted to what its branches will give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from archspec.host.excerpt import Excerpt
from archspec.host.structure import Site
from archspec.instructions import Install, Instruction, Relist
from archspec.language.edits import Init, Parallelize, Replace
from archspec.operators.base import Signature
from archspec.operators.mlp import Mlp
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Taught:
    """A part that learns. `sites` are paths of the base: one, or those of a group's blocks."""

    name: str
    site: Site
    """The (first) site."""
    sites: tuple[str, ...]
    init: Init
    features: int
    """Inputs of the read-out or merge; 0 where there is none."""
    maps: int = 1
    """Read-outs or merges, of so many inputs each: one for each stream that comes out."""
    has_weights: bool = True
    experts: int = 0
    """Outputs of a router, which has a closed form of its own before the read-out has."""
    donor: Mapping[str, Excerpt] | None = None
    """Canonical weight names to where the host has them, where a narrower MLP can choose among the host's neurons."""

    @property
    def fitted(self) -> bool:
        """Whether a closed form gives its first weights."""
        return self.init.kind == "least_squares" and self.features > 0


def taught_parts(resolved: ResolvedSpec, program: Sequence[Instruction]) -> tuple[Taught, ...]:
    """Return all parts, in an order in which they can be taught one by one."""
    found = [*_operators(resolved, program), *_groups(resolved, program)]
    place = {site.path: number for number, site in enumerate(resolved.structure.sites)}
    ends = {part.sites: max(n for path, n in place.items() if inside((path,), part.sites)) for part in found}
    return tuple(sorted(found, key=lambda part: (ends[part.sites], len(part.sites))))


def inside(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Say whether all of the modules `inner` are, or lie in, some of the modules `outer`."""
    return all(any(path == block or path.startswith(f"{block}.") for block in outer) for path in inner)


def _operators(resolved: ResolvedSpec, program: Sequence[Instruction]) -> Iterator[Taught]:
    installs = {i.path: i for i in program if isinstance(i, Install)}
    for edit in resolved.edits:
        if not isinstance(edit.edit, Replace):
            continue
        for site, config in zip(edit.sites, edit.configs, strict=True):
            if site.path in installs:
                tensors = config.weights(installs[site.path].shape)
                features = tensors["readout.weight"][1] if "readout.weight" in tensors else 0
                maps = sum(name.endswith("readout.weight") for name in tensors)
                init = edit.init or Init()
                chosen = donor(site, config) if init.neurons in ("auto", "greedy") else None
                experts = tensors["router.weight"][0] if "router.weight" in tensors else 0
                yield Taught(site.name, site, (site.path,), init, features, maps or 1, bool(tensors), experts, chosen)


def _groups(resolved: ResolvedSpec, program: Sequence[Instruction]) -> Iterator[Taught]:
    inits = {s.path: e.init for e in resolved.edits if isinstance(e.edit, Parallelize) for s in e.sites}
    blocks = {s.path: s for s in resolved.structure.sites if s.slot == "block"}
    for relist in (i for i in program if isinstance(i, Relist)):
        for entry in (e for e in relist.entries if e.form == "parallel"):
            paths = tuple(f"{relist.path}.{member}" for member in entry.members)
            first = blocks[paths[0]]
            name = f"{first.group}[{','.join(str(blocks[p].index) for p in paths)}]"
            features = relist.width * entry.merge_widths
            yield Taught(name, first, paths, inits.get(paths[0]) or Init(), features, max(1, len(entry.maps)))


def donor(site: Site, config: Signature) -> dict[str, Excerpt] | None:
    """Return where the host keeps its MLP, when `config` is a narrower one of the same form: its neurons are chosen."""
    if not isinstance(config, Mlp) or not site.shape.hidden:
        return None
    whole = all(f"{name}.weight" in site.teacher for name in config.inherits(site.shape))
    narrower = int(config.settings()["hidden"]) < site.shape.hidden
    return dict(site.teacher) if whole and narrower and not any(config.obstacles(site.shape)) else None
