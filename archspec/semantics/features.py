"""The `inject` of a spec resolved: presets spelled out, selectors as module paths, no default left open.

written(inject)                       the stanza with its preset under it
injection(spec, ..., problems)        the `Injection` that the run time reads, after a report of what is wrong
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

from archspec import injection as data
from archspec.diagnostics import Collector, nearest
from archspec.families import FAMILIES
from archspec.host.structure import JOINT, Site, Structure
from archspec.language.build import build
from archspec.language.features import Donor, Graft, Inject, Match
from archspec.language.fields import Node
from archspec.language.selectors import Selector
from archspec.source import Source, Span
from archspec.syntax.yaml_syntax import parse_yaml

ATTENTIONS = ("attn", JOINT)
Select = Callable[[Selector], Sequence[Site]]


@cache
def preset(name: str) -> Inject:
    """Return a stanza that archspec brings along."""
    text = files("archspec.language").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    problems = Collector()
    found = build(parse_yaml(Source(f"{name}.yaml", text)), Inject, problems)
    problems.raise_if_errors()
    assert found is not None
    return found


def written(inject: Inject) -> Inject:
    """Return the stanza laid over its preset: what it states counts, key by key within match, gate, sampler and
    collage."""
    if inject.preset is None:
        return inject
    found = _laid(preset(inject.preset), inject)
    assert isinstance(found, Inject)
    return found


def _laid(below: Node, above: Node) -> Node:
    changes = {f.name: getattr(above, f.name) for f in fields(above) if f.name == "origin" or _states(above, f.name)}
    for name, value in changes.items():
        under = getattr(below, name)
        if isinstance(value, Node) and isinstance(under, Node):
            changes[name] = _laid(under, value)
    return replace(below, **changes)


def _states(node: Node, name: str) -> bool:
    """Whether a key is written; of a node made in Python: whether it is no default."""
    if node.origin is not None:
        return node.origin.entry(name) is not None
    return bool(getattr(node, name) != getattr(type(node)(**_needed(node)), name))


def _needed(node: Node) -> dict[str, Any]:
    return {"op": node.op} if isinstance(node, Graft) else {}


def injection(
    inject: Inject, structure: Structure, replaced: Mapping[str, str], select: Select, problems: Collector
) -> data.Injection | None:
    """Resolve a stanza. `replaced`: path of a site -> the verb of the edit that takes its attention away."""
    whole = written(inject)
    family = FAMILIES.get(structure.family)
    if family is None or family.places is None:
        hint = f"families that features can be injected into: {', '.join(n for n, f in FAMILIES.items() if f.places)}"
        problems.report("AS751", f"{structure.architecture} takes no injection", inject.span(), hint)
        return None
    own = Collector()
    found = _Resolver(whole, inject, structure, replaced, select, own, family.places == "rotary").injection()
    problems.add(own)
    return None if own.has_errors else found


class _Resolver:
    """One stanza over its preset, on one host."""

    def __init__(
        self,
        whole: Inject,
        own: Inject,
        structure: Structure,
        replaced: Mapping[str, str],
        select: Select,
        problems: Collector,
        rotary: bool,
    ) -> None:
        self.whole, self.own, self.structure, self.replaced = whole, own, structure, replaced
        self.select, self.problems, self.rotary = select, problems, rotary
        self.text = FAMILIES[structure.family].task == "text"

    def injection(self) -> data.Injection:
        whole = self.whole
        if not whole.grafts:
            hint = "write a preset, or `grafts: [append]`"
            self.problems.report("AS750", "an injection of no grafts", self.own.span("grafts"), hint)
        pair = whole.collage.detector, whole.collage.segmenter
        if (pair[0] is None) != (pair[1] is None):
            stated, missing = ("detector", "segmenter") if pair[0] else ("segmenter", "detector")
            message = f"a {stated} without a {missing}: boxes and masks are found together"
            span = self.at(whole.collage, stated)
            self.problems.report("AS762", message, span, f"write `{missing}: ...` beside it, or masks for every donor")
        if whole.noise == "collage" and pair == (None, None):
            self._places()
        donors = {name: self.donor(name, donor) for name, donor in whole.donors.items()}
        grafts = tuple(self.graft(graft, tuple(donors)) for graft in whole.grafts)
        self._competition(grafts)
        return data.Injection(
            grafts=grafts,
            donors=donors,
            state="clean" if self.text else whole.state,
            competition=whole.competition,
            cache=whole.cache,
            solver=whole.sampler.solver,
            steps=whole.sampler.steps,
            guidance=whole.sampler.guidance,
            noise=whole.noise,
            collage=_same(whole.collage, data.Collage),
            seed=whole.seed,
            preset=whole.preset,
        )

    def _places(self) -> None:
        """Report donors with a picture whose place in the template nothing tells."""
        for name, donor in self.whole.donors.items():
            if donor.image is not None and donor.place is None:
                hint = f"write `{name}: {{place: MASK}}`, or `collage: {{detector: ..., segmenter: ...}}`"
                message = f"nothing tells where in the template donor '{name}' goes"
                self.problems.report("AS762", message, donor.span(), hint)

    def at(self, node: Node, key: str) -> Span | None:
        """Return where a key is written, else the name of the preset: its own text is nobody's mistake."""
        own, entry = self.own.origin, node.origin.entry(key) if node.origin else None
        if own and entry and entry.value.span.source == own.span.source:
            return entry.value.span
        return self.own.span("preset" if self.own.preset else None)

    def donor(self, name: str, donor: Donor) -> data.Donor:
        state = donor.state or self.whole.state
        if state == "batch" and donor.row is None:
            hint = f"write `{name}: {{state: batch, row: 0}}`, the number of a sample"
            self.problems.report(
                "AS760", f"donor '{name}' is of the batch, and no row is stated", self.at(donor, "state"), hint
            )
        if state != "batch" and donor.row is not None:
            message = f"donor '{name}' has a row, but is of state {state}"
            self.problems.report("AS760", message, donor.span("row"), "write `state: batch`, or leave the row out")
        if self.text:
            if state != "clean" and _states(donor, "state"):
                self.problems.report("AS761", f"a text is of no state '{state}'", donor.span("state"), "leave it out")
            if not donor.prompt:
                hint = f"write `{name}: {{prompt: ...}}`, what it says, or --donor {name}=FILE"
                self.problems.report("AS762", f"donor '{name}' says nothing", donor.span(), hint)
            return data.Donor("clean", prompt=donor.prompt)
        if len(donor.shift) != 2:
            self.problems.report("AS760", "a shift is right and down", donor.span("shift"), "write `shift: [0, 12]`")
        shift = donor.shift[0], donor.shift[-1]
        layout = data.Layout(
            donor.phrase, donor.place, donor.erase, donor.scale, donor.angle, donor.flip, donor.align, shift
        )
        return data.Donor(state, donor.image, donor.mask, donor.prompt, donor.guidance, donor.row, donor.seed, layout)

    def graft(self, graft: Graft, donors: tuple[str, ...]) -> data.Graft:
        whole = self.whole
        match = graft.match if _states(graft, "match") else whole.match
        settings = self._when(graft)
        for name in graft.donors:
            if whole.donors and name not in whole.donors:
                hints = nearest(name, whole.donors) or (f"donors are {', '.join(whole.donors)}",)
                self.problems.report("AS750", f"no donor '{name}'", graft.span("donors"), *hints)
        position = graft.position or whole.position or ("matched" if self.rotary and match is not None else "same")
        if self.text:
            self._text(graft, position, match)
        else:
            self._position(graft, position, match)
        self._operation(graft, match)
        strength = whole.strength if graft.strength is None else graft.strength
        return data.Graft(
            op=graft.op,
            sites=self.sites(graft),
            donors=graft.donors or donors,
            match=None if match is None else _same(match, data.Match),
            gate=_same(graft.gate or whole.gate, data.Gate),
            position=position,
            offset=(graft.offset[0], graft.offset[-1]),
            frame=graft.frame,
            strength=strength,
            weight=graft.weight,
            evaluations=graft.evaluations or whole.evaluations,
            rows=graft.rows or whole.rows,
            times=settings[0],
            steps=settings[1],
        )

    def _when(self, graft: Graft) -> tuple[tuple[float, float], tuple[int, int] | None]:
        node: Graft | Inject = graft if graft.times is not None else self.whole
        times = node.times or (1.0, 0.0)
        if len(times) != 2 or not 1 >= times[0] >= times[1] >= 0:
            hint = "write from and to, for example `times: [1, 0.5]`: 1 is noise, 0 is clean"
            message = f"times {_listed(times)} do not run from 1 down to 0"
            self.problems.report("AS759", message, self.at(node, "times"), hint)
            times = (1.0, 0.0)
        node = graft if graft.steps is not None else self.whole
        steps = node.steps
        last = self.whole.sampler.steps
        if steps is not None and (len(steps) != 2 or not 0 <= steps[0] < steps[1] <= last):
            hint = f"the sampler has {last} steps: write for example `steps: [0, {last}]`"
            message = f"steps {_listed(steps)} are not among the sampler's"
            self.problems.report("AS759", message, self.at(node, "steps"), hint)
            steps = None
        return (times[0], times[1]), None if steps is None else (steps[0], steps[1])

    def _position(self, graft: Graft, position: str, match: Match | None) -> None:
        span = self.at(graft if graft.position else self.whole, "position")
        if position != "same" and not self.rotary:
            message = f"position '{position}' in {self.structure.architecture}, whose keys are not rotated"
            self.problems.report("AS752", message, span, "write `position: same`: places are in its tokens already")
        elif position == "matched" and match is None:
            self.problems.report("AS752", "position 'matched' without a match", span, "write `match: {}` beside it")

    def _text(self, graft: Graft, position: str, match: Match | None) -> None:
        """Of decoders: donors are texts, whose keys are seen beside the own, at their places or moved."""
        name = self.structure.architecture
        if graft.op != "append":
            message = f"'{graft.op}' pairs tokens of images, and {name} reads texts"
            self.problems.report("AS760", message, self.at(graft, "op"), "write `append`")
        if match is not None:
            span = self.at(graft if _states(graft, "match") else self.whole, "match")
            self.problems.report("AS760", f"texts of {name} are not matched", span, "leave match out")
        allowed = ("same", "offset") if self.rotary else ("same",)
        if position not in allowed:
            span = self.at(graft if graft.position else self.whole, "position")
            hint = f"write `position: {allowed[-1]}`"
            self.problems.report("AS752", f"position '{position}' in {name}", span, hint)

    def _operation(self, graft: Graft, match: Match | None) -> None:
        if graft.op == "copy" and match is not None and match.tap != "block_input":
            message = f"copy takes tokens before the block, where '{match.tap}' is not known yet"
            hint = "write `match: {tap: block_input}`, or `match: none`"
            node = graft.match or self.whole.match or graft
            self.problems.report("AS760", message, self.at(node, "tap"), hint)
        if len(graft.offset) != 2:
            self.problems.report(
                "AS760", "an offset is rows and columns", graft.span("offset"), "write `offset: [0, 4]`"
            )

    def _competition(self, grafts: tuple[data.Graft, ...]) -> None:
        if self.whole.competition == "owner" and all(graft.match is None for graft in grafts):
            hint = "write `match: {}`, or `competition: none`"
            self.problems.report(
                "AS760", "donors compete by their matches, and none are made", self.at(self.whole, "competition"), hint
            )

    def sites(self, graft: Graft) -> tuple[str, ...]:
        selector = graft.into or self.whole.into
        if selector is None:
            return tuple(site.path for site in _attentions(self.structure.sites) if site.path not in self.replaced)
        found = self.select(selector)
        wrong = [site for site in found if site.slot not in ATTENTIONS]
        if wrong:
            message = f"{wrong[0].name} is no attention over the image's tokens"
            self.problems.report("AS753", message, selector.span, "name slots `attn` or `joint_attn`")
        taken = [site for site in found if site.path in self.replaced]
        if taken and not wrong:
            message = f"{self.replaced[taken[0].path]} takes the attention of {taken[0].name} away"
            self.problems.report("AS753", message, selector.span, "leave it out, or leave `into` out for all that stay")
        return tuple(site.path for site in found)


def _attentions(sites: Sequence[Site]) -> Iterator[Site]:
    return (site for site in sites if site.slot in ATTENTIONS)


def _same(node: Node, cls: Any) -> Any:
    """Return the data of a node: fields of the same names."""
    return cls(**{f.name: getattr(node, f.name) for f in fields(cls)})


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
