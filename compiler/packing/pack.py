"""`pack_spec(path)`: from the `pack` stanza of a spec to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from archspec.compiler.convert.state import read_state
from archspec.compiler.packing import sources
from archspec.compiler.packing.calibrate import Setting, calibrated, described
from archspec.compiler.packing.make import Made, make_pack, measured
from archspec.compiler.packing.progress import Watch, unwatched
from archspec.compiler.packing.recipe import GROUP, Recipe, Step
from archspec.compiler.packing.request import Request
from archspec.compiler.packing.sources import Headers, Source
from archspec.diagnostics import Collector, fail
from archspec.families import keeps_turned, tied_tensors
from archspec.host.fingerprint import FULL, Identity, digest_of
from archspec.host.headers import read_folder, read_header
from archspec.host.locate import CONFIG, Located, check_fingerprint, find_base, locate_named, structure_of
from archspec.host.strict_json import read_json
from archspec.host.structure import Structure
from archspec.language import knowledge as language
from archspec.language.knowledge import Pack, Rule
from archspec.language.parse import load
from archspec.language.spec import Spec
from archspec.packs.header import KEY, is_marked
from archspec.packs.terms import RAW
from archspec.runtime.store.checkpoint import live
from archspec.runtime.store.files import check_file, hash_file
from archspec.semantics.packs import NOTHING, Packing, data_of, resolve_pack
from archspec.semantics.resolve import explicit
from archspec.source import Span

SUFFIX = ".skillpack.safetensors"
NO_WEIGHTS = frozenset({
    "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "id2label", "label2id",
    "problem_type", "gradient_checkpointing",
})  # fmt: skip
"""Settings that what the weights compute does not depend on."""


@dataclass(frozen=True)
class Job:
    """A spec that packs, resolved: what is asked for, the tensors of the base, the differences."""

    name: str
    request: Request
    base: Headers
    source: Source


def pack_spec(path: Path, out: Path | None = None, watch: Watch = unwatched, device: str = "cpu") -> tuple[Made, Path]:
    """Make the pack that a spec asks for; return it and its file. `device`: where a calibrated one's model runs. Raises
    ArchspecError: AS630 where something else is at `out`."""
    target = out or Path(f"{load(path).name}{SUFFIX}")
    check_file(target, lambda there: is_marked(there, KEY), "SkillPack")
    job = job_of(path, target.parent, watch, device)
    return make_pack(job.request, job.base, job.source, target, watch), target


def pack_budgets(path: Path, outs: Mapping[float, Path], watch: Watch = unwatched) -> list[Made]:
    """Make packs of one spec at several budgets (parts of the bytes of what differs) in place of its own: each the
    same as by itself, but differences are measured once. Raises ArchspecError."""
    job = job_of(path, next(iter(outs.values())).parent, watch)
    known = measured(replace(job.request, budget=1.0), job.base, job.source, watch)
    found = []
    for budget, out in outs.items():
        made = {**job.request.made, "budget": budget}
        request = replace(job.request, budget=budget, limit=None, made=made)
        found.append(make_pack(request, job.base, job.source, out, watch, known))
    return found


def job_of(path: Path, scratch: Path, watch: Watch = unwatched, device: str = "cpu") -> Job:
    """Resolve a spec that packs, and calibrate if it says so, with sums of inputs in `scratch`."""
    spec = load(path)
    if spec.pack is None:
        raise fail("AS672", f"'{path}' packs nothing: it has no 'pack'", None, NOTHING)
    located, structure = _base(spec, path.parent)
    problems = Collector()
    packing = resolve_pack(spec, structure, problems)
    problems.raise_if_errors()
    assert packing is not None
    assert structure.tensors is not None
    source, told = _source(packing, path.parent, located, structure, problems)
    problems.raise_if_errors()
    calibration = None
    if packing.pack.calibrate is not None:
        data = data_of(packing.pack.calibrate, spec.data)
        assert data is not None
        setting = Setting(packing.pack.calibrate, data, path.parent, located, device)
        calibration = calibrated(setting, packing, structure.tensors, source, scratch, watch)
        told = {**told, "calibration": described(calibration, setting)}
    digests = {name: digest_of(header).hex() for name, header in structure.tensors.items()}
    request = replace(_request(spec, packing, structure, digests, told), calibration=calibration)
    return Job(spec.name, request, structure.tensors, source)


def _base(spec: Spec, near: Path) -> tuple[Located, Structure]:
    located = find_base(spec, near)
    structure = structure_of(located, whole=True)
    assert spec.base is not None
    check_fingerprint(spec.base, located)
    return located, structure


def _request(
    spec: Spec, packing: Packing, structure: Structure, digests: Mapping[str, str], told: Mapping[str, Any]
) -> Request:
    assert spec.base is not None
    assert structure.tensors is not None
    identity = Identity(structure.config, FULL)
    for name, header in structure.tensors.items():
        identity.add(name, header, bytes.fromhex(digests[name]))
    pack = packing.pack
    base = {"from": spec.base.from_, "fingerprint": identity.value(), "architecture": structure.architecture}
    made = {"source": dict(told), "budget": pack.budget, "rules": explicit(pack.rules), "by": "archspec"}
    share = pack.budget if pack.budget is not None and pack.budget <= 1 else None
    return Request(
        name=spec.name,
        base=base,
        recipe_of=lambda excerpt: recipe(rule) if (rule := packing.rule(excerpt)) else None,
        divided=packing.divided,
        budget=share,
        limit=int(pack.budget) if pack.budget is not None and share is None else None,
        digests=digests,
        made=made,
        licence=pack.licence,
        span=pack.span("budget") or pack.span(),
        source=pack.span(packing.source),
    )


def recipe(rule: Rule) -> Recipe:
    """Return the recipe that a rule writes."""
    return tuple(_step(step) for step in rule.store if step.op != "none")


def _step(step: language.Step) -> Step:
    return Step(
        op=step.op,
        dtype=step.dtype or "F16",
        keep=step.keep or 0.0,
        code=step.code or "auto",
        bits=step.bits or RAW,
        group=step.group if step.group is not None else 0 if step.op == "sign" else GROUP,
        axis=step.axis or "row",
        fit=step.fit or "search",
        rank=step.rank,
        energy=step.energy,
        bytes=step.bytes,
        bands=tuple((count, bits) for count, bits in step.bands) or None,
        gptq=step.method == "gptq",
        act_order=bool(step.act_order),
    )


@dataclass(frozen=True)
class Wanted:
    """What a source is read for."""

    pack: Pack
    near: Path
    located: Located
    structure: Structure
    problems: Collector

    @property
    def base(self) -> Headers:
        return self.structure.tensors or {}

    def path(self, key: str) -> tuple[Path, Span | None]:
        path, span = self.near / Path(getattr(self.pack, key)).expanduser(), self.pack.span(key)
        if not path.exists():
            raise fail("AS610", f"there is no '{getattr(self.pack, key)}' beside the spec", span)
        return path, span


def _source(
    packing: Packing, near: Path, located: Located, structure: Structure, problems: Collector
) -> tuple[Source, dict[str, Any]]:
    """Return the source, and what the header tells of it."""
    wanted = Wanted(packing.pack, near, located, structure, problems)
    source, told = SOURCES[packing.source](wanted)
    return source, {"kind": packing.source, "from": getattr(packing.pack, packing.source), **told}


def _tuned(wanted: Wanted) -> tuple[Source, dict[str, Any]]:
    folder, span = _checkpoint(wanted)
    tuned = live(folder, read_folder(folder, span)) if folder.is_dir() else read_header(folder, span)
    assert wanted.located.weights is not None
    ties = tied_tensors(wanted.structure)
    spare = {*read_folder(wanted.located.weights), *ties}
    sources.check_tuned(wanted.base, tuned, spare, ties, wanted.problems, span)
    other = _settings_apart(wanted.structure.config, folder / CONFIG)
    return sources.Tuned(wanted.base, tuned), {"settings": other} if other else {}


def _settings_apart(base: Mapping[str, Any], config: Path) -> list[str]:
    """Return the settings of a tuned model's config that are not the base's, which no pack can hold."""
    tuned = read_json(config, "AS602") if config.is_file() else base
    names = {name for name in {*base, *tuned} if base.get(name) != tuned.get(name)}
    return sorted(name for name in names - NO_WEIGHTS if not name.startswith("_"))


def _checkpoint(wanted: Wanted) -> tuple[Path, Span | None]:
    """Return the tuned weights: a folder, one file, or a hub id in the cache."""
    assert wanted.pack.tuned is not None
    span = wanted.pack.span("tuned")
    path = wanted.near / Path(wanted.pack.tuned).expanduser()
    if path.exists():
        return path, span
    found = locate_named(wanted.pack, "tuned", wanted.near).weights
    if found is None:
        raise fail("AS600", f"the tuned model '{wanted.pack.tuned}' is not at hand", span, "name a local folder")
    return found, span


def _lora(wanted: Wanted) -> tuple[Source, dict[str, Any]]:
    folder, span = wanted.path("lora")
    if not folder.is_dir():
        hint = "name the folder that holds its adapter_config.json"
        raise fail("AS610", f"'{wanted.pack.lora}' is a file, and a LoRA of peft is a folder", span, hint)
    is_turned = partial(keeps_turned, wanted.structure.architecture)
    return sources.read_lora(folder, wanted.base, is_turned, wanted.problems, span), {}


def _delta(wanted: Wanted) -> tuple[Source, dict[str, Any]]:
    path, span = wanted.path("delta")
    vector = read_header(path, span)
    sources.check_vector(wanted.base, vector, wanted.problems, span)
    return sources.Vector(wanted.base, vector), {"hash": hash_file(path)}


def _bitdelta(wanted: Wanted) -> tuple[Source, dict[str, Any]]:
    path, span = wanted.path("bitdelta")
    state = read_state(path)
    sources.check_bitdelta(wanted.base, state, wanted.problems, span)
    return sources.BitDelta(wanted.base, state), {"hash": hash_file(path)}


SOURCES: Mapping[str, Callable[[Wanted], tuple[Source, dict[str, Any]]]] = {
    "tuned": _tuned,
    "lora": _lora,
    "delta": _delta,
    "bitdelta": _bitdelta,
}
