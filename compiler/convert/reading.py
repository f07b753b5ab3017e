"""A DiT file understood: the host's sizes, which operator stands where, and the place of every tensor.

The file is the truth. A config of the published code adds what no tensor shows, and must agree with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archspec.compiler.convert import dit
from archspec.compiler.convert.modules import MODULES, Published, recognise
from archspec.compiler.convert.published import Config
from archspec.compiler.convert.recipe import Recipe, Shapes, check, unused
from archspec.diagnostics import Collector
from archspec.families import FAMILIES, describe
from archspec.language.selectors.indices import brackets
from archspec.operators import signature

SHOWN = 8
"""Names of tensors that a message lists."""


@dataclass(frozen=True)
class Known:
    """What a user adds to the file: heads of a width that is not published, parameters that no tensor shows."""

    heads: int | None = None
    window: int | None = None
    config: Config | None = None

    def parameter(self, name: str) -> Any:
        said = self.config.parameters.get(name) if self.config else None
        return getattr(self, name) or said


@dataclass(frozen=True)
class Graft:
    """One published module in a block."""

    index: int
    module: Published
    parameters: Mapping[str, Any]

    @property
    def source(self) -> str:
        return f"blocks.{self.index}.{self.module.slot}"

    @property
    def path(self) -> str:
        return f"{dit.BLOCKS}.{self.index}.{dit.SLOTS[self.module.slot]}"

    def recipe(self) -> Recipe:
        """Return the recipe of the operator's tensors, named as in the result."""
        return {f"{self.path}.{name}": part for name, part in self.module.recipe(self.source).items()}


@dataclass(frozen=True)
class Reading:
    """`recipe`: of what belongs to no graft. `shapes`: of every tensor of the result."""

    sizes: dit.Sizes
    recipe: Recipe
    shapes: Shapes
    grafts: tuple[Graft, ...] = ()

    def edits(self) -> list[dict[str, Any]]:
        """Return the edits of the spec; sites with the same operator and parameters share one."""
        groups: dict[str, list[Graft]] = {}
        for graft in self.grafts:
            key = json.dumps([graft.module.name, graft.parameters], sort_keys=True)
            groups.setdefault(key, []).append(graft)
        return [self._edit(group) for group in groups.values()]

    def _edit(self, group: list[Graft]) -> dict[str, Any]:
        target = f"blocks{brackets([g.index for g in group], self.sizes.depth)}.{group[0].module.slot}"
        return {"replace": target, "with": {"op": group[0].module.operator, **group[0].parameters}}


def read(shapes: Shapes, known: Known = Known()) -> Reading:
    """Understand a DiT file by the names and shapes of its tensors; raises ArchspecError with all that is wrong."""
    reader = _Reader(shapes, dit.sizes(shapes, known.heads), known, Collector())
    found = reader.read()
    reader.problems.raise_if_errors()
    return found


@dataclass(frozen=True)
class _Reader:
    shapes: Shapes
    sizes: dit.Sizes
    known: Known
    problems: Collector

    def read(self) -> Reading:
        recipe, grafts = dict(dit.stem(self.sizes.depth)), list[Graft]()
        for index in range(self.sizes.depth):
            for slot in dit.SLOTS:
                found = self._slot(index, slot)
                if isinstance(found, Graft):
                    grafts.append(found)
                else:
                    recipe |= found
        shapes = self._check(recipe, grafts)
        if self.known.config:
            _compare(self.known.config, grafts, self.sizes, self.problems)
        return Reading(self.sizes, recipe, shapes, tuple(grafts))

    def _slot(self, index: int, slot: str) -> Graft | Recipe:
        """Return what stands in a slot: the host's own module, or a published one."""
        source, own = f"blocks.{index}.{slot}", dit.OWN[slot](index)
        inside = {n.removeprefix(f"{source}."): s for n, s in self.shapes.items() if n.startswith(f"{source}.")}
        same = {part.name for part in own.values()} == {f"{source}.{name}" for name in inside}
        if same and (slot == "attn" or inside["fc1.weight"][0] == 4 * self.sizes.width):
            return own
        module = recognise(slot, frozenset(inside))
        if module is None:
            names = ", ".join(list(inside)[:SHOWN]) or "nothing"
            published = ", ".join(m.name for m in MODULES if m.slot == slot)
            hint = f"known are the host's own and {published}"
            self.problems.report("AS653", f"'{source}' is no known module: it has {names}", None, hint)
            return own
        seen = module.parameters(inside, self.sizes.width)
        return Graft(index, module, {**seen, **self._unseen(module, source)})

    def _unseen(self, module: Published, source: str) -> dict[str, Any]:
        """Return the parameters that no tensor shows."""
        found = {name: self.known.parameter(name) for name in module.unseen}
        for name in [name for name, value in found.items() if value is None]:
            hint = f"write `--{name} N`, or name its config: `--config FILE.yaml`"
            self.problems.report("AS653", f"no tensor of '{source}' tells its {name}", None, hint)
        return {name: 1 if value is None else value for name, value in found.items()}

    def _check(self, recipe: Recipe, grafts: list[Graft]) -> Shapes:
        """Return the shapes of the result. Every tensor must be there, of the right shape, and have a place."""
        config = self.sizes.config()
        wanted = dict(FAMILIES["dit"].tensors(dit.ARCHITECTURE, config))
        structure, everything = describe(config), dict(recipe)
        for graft in grafts:
            site = structure.site(graft.path)
            assert site is not None
            operator = signature(graft.module.operator)(**graft.parameters).complete(site.shape)
            wanted |= {f"{graft.path}.{n}": shape for n, shape in operator.weights(site.shape).items()}
            everything |= graft.recipe()
        check(everything, self.shapes, wanted, self.problems)
        left = [name for name in unused(everything, self.shapes) if name != dit.TABLE]
        if left and not self.problems.has_errors:
            more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
            self.problems.report("AS651", f"the file has tensors that belong nowhere: {', '.join(left[:SHOWN])}{more}")
        return wanted


def _compare(config: Config, grafts: list[Graft], sizes: dit.Sizes, problems: Collector) -> None:
    """A config and the file must tell the same."""

    def differs(message: str, *hints: str) -> None:
        problems.report("AS655", message, config.span, *hints)

    found = sorted(g.index for g in grafts if g.module.slot == config.kind.slot)
    if not config.is_host and found != sorted(config.blocks):
        differs(f"the file has grafts in blocks {found}", f"write {found}")
    for name in sorted({g.module.name for g in grafts} - {config.name}):
        differs(f"the file holds '{name}', the config says '{config.name}'")
    for what, said, real in (("width", config.width, sizes.width), ("latent size", config.side, sizes.side)):
        if said not in (None, real):
            differs(f"the config's {what} is {said}, the file's is {real}")
    for name, said in config.parameters.items():
        if others := {g.parameters[name] for g in grafts if g.parameters.get(name, said) != said}:
            differs(f"the config says {name} {said}, the file has {', '.join(f'{v:g}' for v in sorted(others))}")
