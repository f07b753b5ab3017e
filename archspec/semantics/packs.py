"""The `pack` of a spec resolved: what it is made from, and which rule each tensor of the base falls under; `attach`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archspec.diagnostics import ArchspecError, Collector, Severity, fail
from archspec.families import expected_tensors
from archspec.host.excerpt import Excerpt
from archspec.host.locate import find_base, structure_of
from archspec.host.structure import Structure
from archspec.language.fields import declared
from archspec.language.knowledge import Calibrate, Pack, PackUse, Rule, Step
from archspec.language.parse import load
from archspec.language.spec import Spec
from archspec.language.stages import Data
from archspec.packs.header import read_pack
from archspec.packs.roles import roles
from archspec.packs.terms import matrix_shape
from archspec.semantics.rules import assigned, shapes_of

SOURCES = ("tuned", "lora", "delta", "bitdelta")
TAKES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "dense": ("dtype",),
    "prune": ("keep", "code"),
    "quantize": ("bits", "group", "axis", "fit", "method", "act_order"),
    "sign": ("group", "axis", "method", "act_order"),
    "svd": ("rank", "energy", "bytes", "bands", "bits", "group", "fit", "method", "act_order"),
}
"""Form -> its settings."""
SIZES = ("rank", "energy", "bytes", "bands")
"""What says how many triplets svd keeps: one of them."""
FEWEST = 256
"""Bytes; a budget of fewer was meant as a part."""


@dataclass(frozen=True)
class Packing:
    """`source` is the one of `SOURCES` that is written. `rules`: tensor, or excerpt of one, -> the rule that names it.
    `divided`: tensor -> the excerpts that it is kept as, of tensors that rules divide."""

    pack: Pack
    source: str
    rules: Mapping[Excerpt, Rule]
    divided: Mapping[str, tuple[Excerpt, ...]] = field(default_factory=dict)

    def rule(self, excerpt: Excerpt) -> Rule | None:
        return self.rules.get(excerpt) or self.rules.get(Excerpt(excerpt.tensor))


def resolve_pack(spec: Spec, structure: Structure, problems: Collector) -> Packing | None:
    """Return what a spec says of a pack, None where there is none or after a report. AS670, AS671."""
    pack = spec.pack
    if pack is None:
        return None
    written = [key for key in SOURCES if getattr(pack, key) is not None]
    if len(written) != 1:
        what = f"{' and '.join(written)} are written" if written else "nothing is written"
        hint = f"write exactly one of {', '.join(SOURCES)}"
        problems.report("AS671", f"a pack is made from one source: {what}", pack.span(), hint)
    if spec.edits:
        hint = "pack the base, and `attach` the pack in the spec that edits it"
        problems.report("AS671", "a spec that packs has no edits of its own", spec.edits[0].target.span, hint)
    if pack.budget is not None and 1 < pack.budget < FEWEST:
        hint = "write a part of what differs, up to `100%`, or bytes: `12MB`"
        problems.report("AS671", "the budget is more than all that differs", pack.span("budget"), hint)
    for rule in pack.rules:
        _check_chain(rule, problems)
        for step in rule.store:
            _check_step(step, problems)
            _check_method(step, pack, problems)
    if pack.calibrate is not None and data_of(pack.calibrate, spec.data) is None:
        hint = "write `calibrate: {data: texts.txt}`, or `data` for the whole spec"
        message = "calibration runs the tuned model on data, and none is named"
        problems.report("AS665", message, pack.calibrate.span(), hint)
    rules, divided = assigned(pack.rules, spec, structure, problems)
    _check_ranks(rules, structure, problems)
    return Packing(pack, written[0], rules, divided) if len(written) == 1 and not problems.has_errors else None


def budget_is_there(packing: Packing, structure: Structure, problems: Collector) -> None:
    """Report a pack of neither budget nor rules, and warn of tensors of a tuned model without both: AS684."""
    pack, hint = packing.pack, "write `budget: 6%`, or a rule for every role"
    if pack.budget is not None:
        return
    if not pack.rules:
        problems.report("AS684", "there is neither a budget nor a rule", pack.span(), hint)
        return
    named = {excerpt.tensor for excerpt in packing.rules}
    left = [role for name, role in roles(shapes_of(structure), structure).items() if name not in named]
    if left and packing.source == "tuned":
        message = f"there is no budget, and no rule for {', '.join(sorted(set(left)))}: what differs there has no place"
        problems.report("AS684", message, pack.span("rules"), hint, severity=Severity.WARNING)


def planned(path: Path) -> list[tuple[str, str, str]]:
    """Return (tensor, role, how it is kept) for every tensor of the base of a spec that packs. Reads no weights."""
    spec = load(path)
    if spec.pack is None:
        raise fail("AS672", f"'{path}' packs nothing: it has no 'pack'", None, NOTHING)
    structure = structure_of(find_base(spec, path.parent))
    problems = Collector()
    packing = resolve_pack(spec, structure, problems)
    problems.raise_if_errors()
    tensors = structure.tensors or expected_tensors(structure) or {}
    assert packing is not None
    return [
        (f"{name} ({excerpt.told})" if excerpt.cuts else name, role, _kept(packing.rule(excerpt)))
        for name, role in roles(tensors, structure).items()
        for excerpt in packing.divided.get(name, (Excerpt(name),))
    ]


def _kept(rule: Rule | None) -> str:
    return _told(rule.store) if rule else "from the budget, if it differs"


NOTHING = "write `pack: {tuned: ..., budget: 6%}`"


def _told(steps: Iterable[Step]) -> str:
    return " + ".join(
        f"{step.op}({', '.join(f'{k}={v}' for k, v in _settings(step).items())})".replace("()", "") for step in steps
    )


def _settings(step: Step) -> dict[str, Any]:
    found = {f.name: getattr(step, f.name) for f in declared(Step) if f.name != "op"}
    return {key: value for key, value in found.items() if value not in (None, ())}


def _check_chain(rule: Rule, problems: Collector) -> None:
    """Report a chain of no terms, and `none` beside terms: AS671."""
    if not rule.store:
        hint = "write `[none]` to leave the tensors out, or the terms that are kept: `[dense]`"
        problems.report("AS671", f"'store' of the rule of '{rule.of.text}' is empty", rule.span("store"), hint)
    for step in rule.store if len(rule.store) > 1 else ():
        if step.op == "none":
            problems.report("AS671", "'none' keeps nothing, beside terms that keep something", step.span(), ALONE)


def _check_ranks(rules: Mapping[Excerpt, Rule], structure: Structure, problems: Collector) -> None:
    """Warn of a rank that none of a rule's tensors has: AS323."""
    shapes = shapes_of(structure)
    for rule in dict.fromkeys(rules.values()):
        own = (excerpt for excerpt, other in rules.items() if other is rule)
        full = max(min(excerpt.shape(matrix_shape(shapes[excerpt.tensor]))) for excerpt in own)
        for step in (step for step in rule.store if step.op == "svd" and (step.rank or 0) > full):
            message = f"rank {step.rank} is more than any tensor of '{rule.of.text}' has"
            hint = f"write at most {full}, which is all of them"
            problems.report("AS323", message, step.span("rank"), hint, severity=Severity.WARNING)


def _check_step(step: Step, problems: Collector) -> None:
    """Report settings that a form needs, or has not: AS671."""
    settings = _settings(step)
    for key in (key for key in settings if key not in TAKES[step.op]):
        hint = f"it takes {', '.join(TAKES[step.op])}" if TAKES[step.op] else "it takes none"
        problems.report("AS671", f"'{step.op}' has no '{key}'", step.span(key), hint)
    for message, key in _unfit(step, [key for key in settings if key in SIZES]):
        problems.report("AS671", message, step.span(key) or step.span(), FORMS[step.op])


def _check_method(step: Step, pack: Pack, problems: Collector) -> None:
    """Report GPTQ without inputs to go by, and its order without GPTQ: AS665, AS671."""
    if step.method == "gptq" and pack.calibrate is None:
        hint = "add `calibrate: {data: texts.txt}` to the pack"
        problems.report("AS665", "GPTQ goes by inputs, and the pack is not calibrated", step.span("method"), hint)
    if step.act_order is not None and step.method != "gptq":
        hint = "write `method: gptq`, or leave it out"
        problems.report("AS671", "'act_order' is an order of GPTQ", step.span("act_order"), hint)


def data_of(calibrate: Calibrate, default: Data | None) -> Data | None:
    """Return the data that calibration runs on."""
    return calibrate.data or default


ALONE = "leave it out, or write `[none]` to leave the tensors out"
FORMS: Mapping[str, str] = {
    "prune": "for example `{op: prune, keep: 2%}`",
    "quantize": "for example `{op: quantize, bits: 4, group: 64}`",
    "svd": "for example `{op: svd, rank: 16, bits: 8}` or `{op: svd, bands: [[4, 8], [28, 3]]}`",
}


def _unfit(step: Step, sizes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, the key)."""
    match step.op:
        case "prune" if step.keep is None:
            yield "'prune' needs 'keep'", "op"
        case "quantize" if step.bits is None or step.bits > 8:
            yield "'quantize' needs 'bits', 1 to 8", "bits"
        case "svd":
            if not sizes:
                key = "bands" if step.origin and step.origin.entry("bands") else "op"
                yield f"'svd' keeps triplets by one of {', '.join(SIZES)}, and none is written", key
            if len(sizes) > 1:
                yield f"'svd' keeps triplets by one of {', '.join(SIZES)}, not by {' and '.join(sizes)}", sizes[1]
            if step.bits is not None and (step.bands or not _is_width(step.bits)):
                yield "'bits' of 'svd' are 1 to 8 or 16, and not beside bands", "bits"
            if not all(len(band) == 2 and band[0] >= 1 and _is_width(band[1]) for band in step.bands):
                yield "a band is [triplets, bits], with 1 to 8 or 16 bits", "bands"


def _is_width(bits: int) -> bool:
    return 1 <= bits <= 8 or bits == 16


def attach_fits(spec: Spec, structure: Structure, problems: Collector) -> None:
    """Report packs of `attach` that do not fit the base."""
    near = Path(spec.origin.span.source.name).parent if spec.origin else Path()
    for use in spec.attach.packs if spec.attach else ():
        use_fits(use, near, structure, problems)


def use_fits(use: PackUse, near: Path, structure: Structure, problems: Collector) -> None:
    """Report a pack that cannot be read, or names a tensor that the base has not: AS680, AS681. Digests are compared
    when it is put on the base."""
    span = use.span("from") or use.span()
    try:
        header, _ = read_pack(near / Path(use.from_).expanduser(), span)
    except ArchspecError as error:
        problems.add(error.diagnostics)
        return
    shapes = structure.tensors or expected_tensors(structure) or {}
    for name, change in header.tensors.items():
        found = shapes.get(name)
        if found is None or getattr(found, "shape", found) != change.shape:
            what = f"is {getattr(found, 'shape', found)}, not {change.shape}" if found else "is not in the base"
            problems.report("AS681", f"'{use.from_}' is of another base: '{name}' {what}", span)
            return
