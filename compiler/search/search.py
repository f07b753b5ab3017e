"""`search(path, out)`: from a spec that says what may be chosen to one that says what was.

Scores are kept beside the result, one file per candidate, under the hash of all that they depend on; a search that was
stopped goes on from there, and one with another budget only solves anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archspec.compiler.driver import read_host
from archspec.compiler.search.found import Found
from archspec.compiler.search.price import Priced, priced, reports
from archspec.compiler.search.solve import solve
from archspec.compiler.search.write import write
from archspec.compiler.taught import donor
from archspec.diagnostics import Collector, fail
from archspec.host.fingerprint import identity_of
from archspec.host.locate import Located, find_base
from archspec.host.probes import with_probe
from archspec.host.strict_json import read_json
from archspec.host.structure import Structure
from archspec.language.expectations import Expectation
from archspec.language.parse import files_of, load
from archspec.language.spec import Spec
from archspec.plan import digest
from archspec.runtime.store.files import replace_text, writing
from archspec.runtime.store.home import home
from archspec.semantics.choices import Candidate, Choices, resolve_search
from archspec.semantics.resolve import explicit


@dataclass(frozen=True)
class Watch:
    """Who looks on: `doing(text)`, and `advance(trials)` of `ahead(trials)`."""

    doing: Callable[[str], None] = lambda text: None
    ahead: Callable[[int], None] = lambda count: None
    advance: Callable[[int], None] = lambda count: None


def search(path: Path, out: Path, device: str | None = None, watch: Watch = Watch()) -> Found:
    """Search, and write the result's spec to `out`. AS664 without a `search`, AS820 for a budget that nothing meets,
    AS825 where `out` would replace what was searched."""
    spec = load(path)
    if spec.search is None:
        hint = "write `search` with sites, candidates and budget"
        raise fail("AS664", f"'{path}' has nothing to search", None, hint)
    _check_out(path, out)
    located, structure = _host(spec, path)
    problems = Collector()
    choices = resolve_search(spec, structure, problems)
    problems.raise_if_errors()
    assert choices is not None
    watch.doing("proving and pricing candidates")
    costs = reports(spec, structure, choices)
    known = [e for e in choices.search.budget if e.metric != "latency"]
    budget = {e: priced(e, costs, choices) for e in known}
    scorer = _Scorer(spec, path.parent, located, structure, choices, out, device)
    watch.ahead(sum(len(candidate.configs) for candidate in choices.candidates))
    scores = tuple(scorer.scores(candidate, watch) for candidate in choices.candidates)
    for expectation in choices.search.budget:
        if expectation.metric == "latency":
            watch.doing("timing")
            budget[expectation] = scorer.latency(expectation)
    ordered = tuple(budget[e] for e in choices.search.budget)
    choice = solve([site.path for site in choices.sites], scores, ordered, problems)
    problems.raise_if_errors()
    assert choice is not None
    found = Found(choices, scores, ordered, choice)
    write(path, out, found)
    return found


def _check_out(path: Path, out: Path) -> None:
    """Refuse to write over the spec that is searched, or one that it extends. AS825"""
    if any(out.exists() and out.samefile(file) for file in files_of(path)):
        what = "is the spec that is searched" if out.samefile(path) else f"is extended by '{path}'"
        hint = f"name another file: `-o {path.stem}-found.yaml`"
        raise fail("AS825", f"'{out}' {what}, and the result would replace it", None, hint)


def _host(spec: Spec, path: Path) -> tuple[Located, Structure]:
    located = find_base(spec, path.parent)
    structure = with_probe(read_host(located, whole=True), spec.probe, path.parent, spec.span("probe"))
    if spec.data is None:
        raise fail("AS728", "scores are measured on data, and the spec names none", None, "add a data stanza")
    return located, structure


class _Scorer:
    """Scores of candidates, from the file of an earlier search where there is one."""

    def __init__(
        self,
        spec: Spec,
        near: Path,
        located: Located,
        structure: Structure,
        choices: Choices,
        out: Path,
        device: str | None,
    ) -> None:
        from archspec.runtime.data import open_data
        from archspec.runtime.data.needs import needs_of
        from archspec.runtime.learn.feed import Feed
        from archspec.runtime.objectives import make_objective
        from archspec.runtime.store.opening import best_device

        assert located.folder is not None
        self.place, self.structure, self.choices = home(located.folder), structure, choices
        self.device, self.folder = device or best_device(), out.with_name(f".{out.name}.scores")
        data = explicit(spec.data)
        self.examples = open_data(data, near, needs_of(self.place.top))
        self.feed = Feed(self.examples, make_objective(self.place), choices.search.seed, BATCH, self.device)
        self.identity = [identity_of(structure.config, structure.tensors or {}), self.examples.identity]
        self._model: Any = None

    @property
    def model(self) -> Any:
        from archspec.runtime.store.opening import open_model

        if self._model is None:
            self._model = open_model(self.place, self.device).requires_grad_(False)
        return self._model

    def scores(self, candidate: Candidate, watch: Watch) -> Mapping[str, float]:
        from archspec.runtime.learn.fit import FitSettings
        from archspec.runtime.probing.replacement import scores

        s = self.choices.search
        what = {path: [config.name, config.settings()] for path, config in candidate.configs.items()}
        key = digest([VERSION, self.identity, what, s.samples, s.ridge, s.seed])
        kept = self._kept(key)
        if kept.keys() == candidate.configs.keys():
            watch.advance(len(kept))
            return kept
        watch.doing(f"scoring {candidate.name}")
        found = scores(
            self.model, self.trials(candidate), self.feed, FitSettings(s.samples, s.ridge), s.seed, watch.advance
        )
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(self.folder / f"{key}.json", json.dumps(found))
        return found

    def trials(self, candidate: Candidate) -> list[Any]:
        from archspec.runtime.probing.replacement import Trial

        sites = [site for site in self.choices.sites if site.path in candidate.configs]
        return [Trial(site, candidate.configs[site.path], donor(site, candidate.configs[site.path])) for site in sites]

    def _kept(self, key: str) -> dict[str, float]:
        path = self.folder / f"{key}.json"
        return read_json(path, "AS816") if path.is_file() else {}

    def latency(self, expectation: Expectation) -> Priced:
        import torch

        from archspec.runtime.probing.timing import changes

        _, keywords = next(iter(replace(self.feed, batch=1).batches(1)))
        trials = [self.trials(candidate) for candidate in self.choices.candidates]
        host, found = changes(self.model, trials, keywords, torch.device(self.device))
        return Priced(expectation, host, tuple(found))


BATCH, VERSION = 32, 1
"""Examples at a time; what of this file scores depend on."""
