"""Calibration: the tuned model run on data, so that errors of a pack are errors of outputs.

The tuned model is the base with the differences added, whatever they come from. A linear map's weight is judged by the
second moment of its inputs; every other tensor as if its inputs had none but the unit matrix. So that tensors can be
weighed against one another, errors are parts of what the tuned tensor gives: |X E^T|^2 / |X W^T|^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archspec.compiler.packing.metric import PLAIN, Metric
from archspec.compiler.packing.progress import Progress, Watch
from archspec.compiler.packing.sources import Headers, Source, read
from archspec.diagnostics import Collector
from archspec.host.locate import Located, folder_of
from archspec.language.knowledge import Calibrate
from archspec.language.stages import Data
from archspec.runtime.data import open_data
from archspec.runtime.data.needs import needs_of
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.moments import Moments, gather, linear_maps
from archspec.runtime.model.linear import is_turned
from archspec.runtime.objectives import make_objective
from archspec.runtime.packs.skills import names_in, tensors_of
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model
from archspec.semantics.packs import Packing
from archspec.semantics.resolve import explicit
from archspec.source import Span


@dataclass(frozen=True)
class Calibration:
    """What is known of inputs. `data`: identity of the examples; `turned`: tensors that are kept as (inputs, outputs),
    which errors of outputs are of the transposed matrix of."""

    moments: Moments
    base: Headers
    damp: float
    data: str
    turned: frozenset[str] = frozenset()

    def metric(self, name: str) -> Metric:
        moment = self.moments.moment(name)
        return PLAIN if moment is None else Metric(moment, self.damp)

    def size(self, name: str, delta: Tensor, metric: Metric) -> float:
        """Return the squared outputs of a tuned tensor; where it has none, those of its difference; else 1. `delta`:
        (outputs, inputs)."""
        base = read(self.base[name], name).float()
        tuned = delta + (base.T if name in self.turned else base.reshape(delta.shape))
        return metric.squared(tuned) or metric.squared(delta) or 1.0


@dataclass(frozen=True)
class Setting:
    """What calibration needs of a spec. `data` is the stanza that counts; `device`: where the model runs."""

    calibrate: Calibrate
    data: Data
    near: Path
    located: Located
    device: str = "cpu"


def calibrated(
    setting: Setting, packing: Packing, base: Headers, source: Source, scratch: Path, watch: Watch
) -> Calibration:
    """Run the tuned model; what is found lies in a file without a name in the folder `scratch`. AS666 for rules that
    want GPTQ where no linear map is, AS667 for inputs that are no numbers, AS668 for a base that cannot be tuned."""
    place, options = home(folder_of(setting.located)), setting.calibrate
    examples = open_data(explicit(setting.data), setting.near, needs_of(place.top, options.length))
    feed = Feed(examples, make_objective(place), options.seed, options.batch, setting.device)
    model = open_model(place, setting.device)
    _check_rules(packing, model, base)
    tune(model, source, options.span())
    maps = linear_maps(model)
    wanted = {own: name for name, own in names_in(model, source.names()).items() if own in maps}
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        watch(Progress("calibrating", done, options.samples))

    found = gather(model, wanted, feed, options.samples, scratch, tick)
    turned = frozenset(own for name, own in wanted.items() if is_turned(model.get_submodule(maps[name][0])))
    return Calibration(found, base, options.damp, examples.identity, turned)


def tune(model: nn.Module, source: Source, span: Span | None) -> None:
    """Add the differences to the weights of the base. AS668 for those whose tensor the model has not."""
    tensors, names = tensors_of(model), names_in(model, source.names())
    problems = Collector()
    for name, own in names.items():
        if own is None:
            message = f"the model that its library makes of the base has no '{name}'"
            problems.report("AS668", message, span, "pack without `calibrate`, or convert the checkpoint first")
            continue
        delta = source.delta(name)
        if torch.isfinite(delta).all():  # packing reports the others
            tensors[own].data.add_(delta.to(tensors[own].device))
    problems.raise_if_errors()


def _check_rules(packing: Packing, model: nn.Module, base: Headers) -> None:
    """Report rules that ask for GPTQ on what is no weight of a linear map: AS666, once a rule."""
    maps, problems = linear_maps(model), Collector()
    names = names_in(model, [excerpt.tensor for excerpt in packing.rules])
    reported: set[int] = set()
    for name, rule in ((excerpt.tensor, rule) for excerpt, rule in packing.rules.items()):
        step = next((step for step in rule.store if step.method == "gptq"), None)
        if step is None or names[name] in maps or id(rule) in reported or name not in base:
            continue
        reported.add(id(rule))
        message = f"'{name}' is not the weight of a linear map: GPTQ has no inputs to go by"
        hint = "give it a rule of its own before this one, such as `{of: norm, store: [dense]}`"
        problems.report("AS666", message, step.span("method"), hint)
    problems.raise_if_errors()


def described(calibration: Calibration, setting: Setting) -> Mapping[str, Any]:
    """Return what a pack's header says of its calibration."""
    options = setting.calibrate
    counts = {"samples": options.samples, "damp": options.damp, "seed": options.seed, "length": options.length}
    return {"data": calibration.data, **counts}
