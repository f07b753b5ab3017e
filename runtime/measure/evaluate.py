"""Measuring a checkpoint beside its host: quality of samples, faithfulness, speed.

    fd          Frechet distance of samples to the data, in a classifier's features
    agreement   part of samples that the classifier sees as the class that was asked for
    paired      relative error to the host's samples from the same noise: |result - host| / |host|
    perplexity  exp of the mean negative log-likelihood per token, of the data
    latency     seconds of one forward pass, host and result in turn

Host and result are measured in one run, by the same draws. What fits the host and can be measured is, unless the
metrics are named: then one that cannot be measured is an error. The answer is plain data: {"settings": ..., "host":
{metric: value}, "result": {...}, "spread": {"host": {...}, "result": {...}}}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archspec.diagnostics import ArchspecError, fail
from archspec.runtime.data import open_data
from archspec.runtime.data.describe import identity
from archspec.runtime.data.encoded import pixels_of
from archspec.runtime.data.examples import Examples
from archspec.runtime.data.needs import Needs, needs_of
from archspec.runtime.learn.draws import generator
from archspec.runtime.measure.classifier import Classifier, Verdict, find_classifier
from archspec.runtime.measure.frechet import Statistics, check_samples, distance
from archspec.runtime.measure.kept import Kept
from archspec.runtime.measure.latency import compare_latency
from archspec.runtime.measure.sample import Request, decode, drawn_shape, sample
from archspec.runtime.objectives import make_objective
from archspec.runtime.store.files import hash_file
from archspec.runtime.store.home import Home, home
from archspec.runtime.store.lock import is_compiled, read_lock
from archspec.runtime.store.opening import open_model

METRICS = ("fd", "agreement", "paired", "latency", "perplexity")
REAL_IMAGES = 50_000
"""Most images of the data that the statistics of `fd` are taken from."""
Progress = Callable[[str], None]


def evaluate(
    folder: Path,
    host: Path | None,
    settings: Mapping[str, Any],
    near: Path,
    device: str | torch.device = "cpu",
    progress: Progress = lambda _: None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Measure the model in `folder` beside `host` (None: alone). `settings`: the keys of `language.stages.Eval`;
    `near`: where the relative paths in it start; `kept`: where what the host draws is kept."""
    bench = Bench(home(folder), home(host) if host else None, settings, near, torch.device(device), progress, kept)
    bench.check()
    report: dict[str, Any] = {"settings": bench.settings_used, "host": {}, "result": {}, "spread": {}}
    for metric in bench.metrics:
        progress(metric)
        for side, values in MEASURES[metric](bench).items():
            report[side].update(values)
    return report


def foresee(folder: Path, host: Path, settings: Mapping[str, Any], near: Path) -> None:
    """Refuse what `evaluate` would, before anything is learnt for it. AS710, AS711, AS713."""
    Bench(home(folder), home(host), settings, near, torch.device("cpu"), lambda _: None).check()


@dataclass
class Bench:
    """Both models and what they are measured with; everything is made when it is first asked for."""

    place: Home
    host_place: Home | None
    given: Mapping[str, Any]
    near: Path
    device: torch.device
    progress: Progress
    kept: Kept | None = None
    _models: dict[str, nn.Module] = field(default_factory=dict)
    _drawn: dict[str, Tensor] = field(default_factory=dict)
    _verdicts: dict[str, Verdict] = field(default_factory=dict)

    def setting(self, name: str, default: Any) -> Any:
        found = self.given.get(name)
        return default if found is None else found

    @property
    def sides(self) -> tuple[str, ...]:
        return ("host", "result") if self.host_place else ("result",)

    def place_of(self, side: str) -> Home:
        return self.host_place if side == "host" and self.host_place else self.place

    @cached_property
    def request(self) -> Request:
        return Request(
            samples=self.setting("samples", 1000),
            steps=self.setting("steps", 25),
            guidance=self.setting("guidance", 1.0),
            seed=self.setting("seed", 0),
            batch=self.setting("batch", 250),
        )

    @cached_property
    def data_settings(self) -> Mapping[str, Any] | None:
        """The stanza's own data, else what the checkpoint's lock says of the spec's."""
        own = self.given.get("data")
        top = self.place.top
        return own or (read_lock(top).data if is_compiled(top) else None)

    @cached_property
    def needs(self) -> Needs:
        return needs_of(self.place.top)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        asked = tuple(self.given.get("metrics") or ())
        for metric in asked:
            problem = self.problem(metric)
            if problem is not None:
                raise fail("AS713", f"cannot measure {metric}: {problem}")
        return asked or tuple(metric for metric in METRICS if self.problem(metric) is None)

    def check(self) -> None:
        """Refuse metrics that cannot be measured, and fewer samples than one of them takes."""
        if "fd" in self.metrics:
            check_samples(self.request.samples, self.classifier.features)

    def problem(self, metric: str) -> str | None:
        """Return why a metric cannot be measured here; None if it can."""
        if metric == "perplexity":
            if not self.place.is_language_model:
                return "the host is no language model"
            return None if self.data_settings else "it needs data"
        if metric == "latency":
            known = self.place.reads_text or self.place.shape or drawn_shape(self.place)
            return None if known else "no inputs are known for this host"
        if drawn_shape(self.place) is None:
            return "the host draws no images"
        if metric == "paired":
            if self.host_place is None:
                return "it needs the host"
            same = drawn_shape(self.host_place) == drawn_shape(self.place)
            return None if same else "the host draws images of another shape"
        if metric == "agreement" and self.place.classes is None:
            return "the host takes no class"
        if metric == "fd" and self.data_settings is None:
            return "it needs data"
        return self._classifier_problem

    @cached_property
    def _classifier_problem(self) -> str | None:
        try:
            return None if self.classifier_folder else ""
        except ArchspecError as error:
            return error.diagnostics[0].message

    @cached_property
    def classifier_folder(self) -> Path:
        data = self.data_settings or {}
        return find_classifier(self.given.get("classifier"), data.get("from", data.get("from_")), self.near)

    @cached_property
    def classifier(self) -> Classifier:
        return Classifier(self.classifier_folder, self.device)

    @cached_property
    def settings_used(self) -> dict[str, Any]:
        request, data = self.request, self.data_settings
        used = {name: getattr(request, name) for name in ("samples", "steps", "guidance", "seed")}
        return used | {"metrics": list(self.metrics), "data": dict(data) if data else None, "device": self.device.type}

    def model(self, side: str) -> nn.Module:
        if side not in self._models:
            self._models[side] = open_model(self.place_of(side), self.device)
        return self._models[side]

    def drawn(self, side: str) -> Tensor:
        """Return what the model drew: pixels or latents."""
        if side not in self._drawn:
            made = self.of_host(side, self._draws, lambda: {"drawn": self._sampled(side)})
            self._drawn[side] = made["drawn"]
        return self._drawn[side]

    def _sampled(self, side: str) -> Tensor:
        self.progress(f"sampling from the {side}")
        return sample(self.model(side), self.place_of(side), self.request)

    def verdict(self, side: str) -> Verdict:
        if side not in self._verdicts:
            made = self.of_host(side, [*self._draws, self._judge], lambda: self._judged(side))
            self._verdicts[side] = Verdict(made["features"], made["classes"])
        return self._verdicts[side]

    def _judged(self, side: str) -> dict[str, Tensor]:
        found = self.classifier.judge(decode(self.place_of(side), self.drawn(side)))
        return {"features": found.features, "classes": found.classes}

    def of_host(self, side: str, what: list[Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make tensors, or find what was made of the same host before."""
        known = self.kept if side == "host" and self.host_place else None
        return known.of_host(what, make) if known else make()

    @cached_property
    def _draws(self) -> list[Any]:
        """What the host's samples depend on beside its content."""
        place, request = self.place_of("host"), self.request
        numbers = [request.samples, request.steps, request.guidance, request.seed, request.batch]
        return ["samples", numbers, place.scheduler, self.device.type]

    @cached_property
    def _judge(self) -> list[Any]:
        """What a verdict depends on beside the samples: the classifier, and what turns latents into pixels."""
        folders = [self.classifier_folder, self.place_of("host").autoencoder]
        files = [file for folder in folders if folder for file in sorted(folder.iterdir()) if file.is_file()]
        return [[file.name, hash_file(file)] for file in files if file.suffix in (".json", ".safetensors")]

    @cached_property
    def data_identity(self) -> str:
        return identity(self.data_settings or {}, self.near)

    def data(self, needs: Needs) -> Examples:
        assert self.data_settings is not None
        return open_data(self.data_settings, self.near, needs)

    @cached_property
    def real(self) -> Statistics:
        """Statistics of the data's own features, at the size of the host's pixels."""
        data = self.data(Needs(shape=pixels_of(self.needs), classes=self.needs.classes))
        count = min(len(data), REAL_IMAGES)
        what = ["features", self.data_identity, count, pixels_of(self.needs), self._judge, self.device.type]

        def make() -> dict[str, Tensor]:
            return dict(vars(Statistics.of(self._seen_in(data, count))))

        return Statistics(**(self.kept.of_data(what, make) if self.kept else make()))

    def _seen_in(self, data: Examples, count: int) -> Tensor:
        """(count, features) of the first examples."""
        self.progress("looking at the data")
        parts = [data.batch(range(i, min(i + 250, count)))["x"] for i in range(0, count, 250)]
        return torch.cat([self.classifier.judge(part).features for part in parts])


Found = dict[str, dict[str, Any]]


def _fd(bench: Bench) -> Found:
    return {side: {"fd": distance(bench.real, Statistics.of(bench.verdict(side).features))} for side in bench.sides}


def _agreement(bench: Bench) -> Found:
    request, classes = bench.request, bench.place.classes
    assert classes is not None
    labels = request.labels_of(0, request.samples, classes)
    return {side: {"agreement": float((bench.verdict(side).classes == labels).float().mean())} for side in bench.sides}


def _paired(bench: Bench) -> Found:
    host, result = bench.drawn("host").double(), bench.drawn("result").double()
    error = (result - host).square().mean().sqrt()
    return {"result": {"paired": float(error / host.square().mean().sqrt()), "paired_rmse": float(error)}}


def _perplexity(bench: Bench) -> Found:
    data = bench.data(bench.needs)
    count = min(len(data), bench.request.samples)

    def measured(side: str) -> dict[str, Tensor]:
        value = perplexity(bench.model(side), bench.place_of(side), data, count)
        return {"perplexity": torch.tensor(value, dtype=torch.float64)}

    what = ["perplexity", bench.data_identity, bench.needs.length, count, bench.device.type]
    found = {side: bench.of_host(side, what, lambda side=side: measured(side)) for side in bench.sides}  # type: ignore[misc]
    return {side: {name: float(value) for name, value in values.items()} for side, values in found.items()}


@torch.no_grad()
def perplexity(model: nn.Module, place: Home, data: Examples, count: int, batch: int = 8) -> float:
    """Return exp of the mean loss per token over the first `count` examples."""
    objective, total, tokens = make_objective(place), 0.0, 0
    device = next(model.parameters()).device
    for start in range(0, count, batch):
        rows = {k: v.to(device) for k, v in data.batch(range(start, min(start + batch, count))).items()}
        keywords, target = objective.inputs(rows, torch.Generator())
        said = int((target[:, 1:] >= 0).sum())
        total += float(objective.loss(objective.output(model(**keywords)), target)) * said
        tokens += said
    return math.exp(total / tokens)


@torch.no_grad()
def _latency(bench: Bench) -> Found:
    """One example at a time, at the host's own size (a language model: at the length that its data has)."""
    found = compare_latency({side: _forward(bench, side) for side in bench.sides}, bench.device)
    medians: Found = {side: {"latency": latency.median} for side, latency in found.items()}
    return medians | {"spread": {f"{side}.latency": latency.to_json() for side, latency in found.items()}}


def _forward(bench: Bench, side: str) -> Callable[[], object]:
    model, place = bench.model(side), bench.place_of(side)
    weight, draws = next(model.parameters()), generator(bench.request.seed, "latency")
    if place.reads_text:
        ids = torch.randint(0, int(place.config["vocab_size"]), (1, bench.needs.length), generator=draws)
        batch = {"input_ids": ids.to(weight.device)}
    else:
        shape = drawn_shape(place) or place.shape
        assert shape is not None
        image = torch.randn(1, *shape, generator=draws).to(weight)
        batch = {"x": image, "label": torch.zeros(1, dtype=torch.long)} if place.is_classifier else {"x": image}
    keywords, _ = make_objective(place).inputs(batch, draws)
    return torch.no_grad()(lambda: model(**keywords))


MEASURES: Mapping[str, Callable[[Bench], Found]] = {
    "fd": _fd,
    "agreement": _agreement,
    "paired": _paired,
    "latency": _latency,
    "perplexity": _perplexity,
}
