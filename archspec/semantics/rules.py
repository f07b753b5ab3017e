"""Which rule of a pack counts for which tensor of the base, or for which part of one that several weights share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from archspec.diagnostics import ArchspecError, Collector, fail, nearest
from archspec.families import expected_tensors
from archspec.host.excerpt import Excerpt
from archspec.host.structure import Site, Structure, TensorHeader, inside
from archspec.language.knowledge import Rule
from archspec.language.selectors import bare_name, select
from archspec.language.spec import Spec
from archspec.packs.roles import ROLES, roles
from archspec.packs.terms import matrix_shape

Shapes = Mapping[str, tuple[int, ...]]
Divided = dict[str, tuple[Excerpt, ...]]


def assigned(
    rules: Iterable[Rule], spec: Spec, structure: Structure, problems: Collector
) -> tuple[dict[Excerpt, Rule], Divided]:
    """Return tensor, or excerpt of one, -> the first rule that names it, and of tensors that rules divide the excerpts.
    AS670 for rules that are left with none."""
    shapes = shapes_of(structure)
    role = roles(shapes, structure)
    named: list[tuple[Rule, list[Excerpt]]] = []
    for rule in rules:
        try:
            named.append((rule, _named(rule, role, spec, structure, shapes, problems)))
        except ArchspecError as error:
            problems.add(error.diagnostics)
    divided = _divided([e for _, found in named for e in found if e.cuts], structure, shapes)
    counts: dict[Excerpt, Rule] = {}
    for rule, found in named:
        parts = [part for e in found for part in ((e,) if e.cuts else divided.get(e.tensor, (e,)))]
        fresh = [part for part in parts if part not in counts]
        if not fresh and shapes and not (rule.weights and not found):  # told already
            what = "rules before it name all of its tensors" if found else "no tensor of the base is of it"
            message = f"the rule of '{rule.of.text}' has no effect: {what}"
            problems.report("AS670", message, rule.of.span, "leave it out, or put it before the others")
        counts |= dict.fromkeys(fresh, rule)
    return counts, divided


def shapes_of(structure: Structure) -> Shapes:
    """Return tensor of the base -> its shape: of its files, or where none are at hand what its config promises."""
    tensors = structure.tensors or expected_tensors(structure) or {}
    return {name: t.shape if isinstance(t, TensorHeader) else t for name, t in tensors.items()}


def _named(
    rule: Rule, role: Mapping[str, str], spec: Spec, structure: Structure, shapes: Shapes, problems: Collector
) -> list[Excerpt]:
    """Return the tensors of a role, or those of the selected sites; of these the weights that the rule wants."""
    bare = bare_name(rule.of)
    if bare in ROLES and bare not in spec.let:
        sites: Sequence[Site] = [site for site in structure.sites if site.role == bare]
        names = [name for name in role if role[name] == bare]
    else:
        if bare is not None and bare not in (known := (*ROLES, *spec.let, *structure.groups)):
            hints = nearest(bare, known) or (f"roles and lists are {', '.join(known)}",)
            raise fail("AS170", f"no role or list '{bare}'", rule.of.at(rule.of.expression.at), *hints)
        sites = select(rule.of, structure, spec.let)
        paths = {path for site in sites for path in site.paths}
        own = {weight.tensor for site in sites for weight in site.teacher.values()}
        names = [name for name in role if name in own or inside(name, paths)]
    if not rule.weights:
        return [Excerpt(name) for name in names]
    return _weights(rule, sites, set(names), shapes, problems)


def _weights(rule: Rule, sites: Iterable[Site], names: set[str], shapes: Shapes, problems: Collector) -> list[Excerpt]:
    """Return where the wanted weights of sites stand. AS670 for those that no site has."""
    kept: dict[str, list[Excerpt]] = {}
    for weight, excerpt in ((w, e) for site in sites for w, e in site.teacher.items() if e.tensor in names):
        kept.setdefault(weight.rpartition(".")[0], []).append(_own(excerpt, shapes))
    for weight in rule.weights:
        if weight not in kept:
            known = ", ".join(name for name in kept if name) or "nothing by name"
            message = f"no weight of '{rule.of.text}' is called '{weight}'"
            hints = nearest(weight, list(kept)) or (f"it has {known}",)
            problems.report("AS670", message, rule.item_span("weights", weight), *hints)
    return [excerpt for weight in dict.fromkeys(rule.weights) for excerpt in kept.get(weight, ())]


def _own(excerpt: Excerpt, shapes: Shapes) -> Excerpt:
    """Return an excerpt as packs keep it: of the tensor as a matrix (a vector is one row), with its end, not scaled."""
    if not excerpt.cuts:
        return Excerpt(excerpt.tensor)
    axis = 1 if len(shapes[excerpt.tensor]) == 1 else excerpt.axis
    stop = _size(replace(excerpt, axis=axis), shapes) if excerpt.stop is None else excerpt.stop
    return replace(excerpt, scale=1.0, axis=axis, stop=stop)


def _size(excerpt: Excerpt, shapes: Shapes) -> int:
    """Return how many entries a group has of which an excerpt takes some."""
    matrix = matrix_shape(shapes[excerpt.tensor])
    return (matrix[::-1] if excerpt.transposed else matrix)[excerpt.axis] // excerpt.groups


def _divided(cut: Iterable[Excerpt], structure: Structure, shapes: Shapes) -> Divided:
    """Return, for every tensor of which a part is named, all its parts: the host's weights, and what is between."""
    found: Divided = {}
    for tensor, like in {excerpt.tensor: excerpt for excerpt in cut}.items():
        weights = [_own(e, shapes) for site in structure.sites for e in site.teacher.values() if e.tensor == tensor]
        ends = {0, _size(like, shapes), *(end for e in weights if e.cuts for end in (e.start, e.stop or 0))}
        found[tensor] = tuple(replace(like, start=start, stop=stop) for start, stop in pairwise(sorted(ends)))
    return found
