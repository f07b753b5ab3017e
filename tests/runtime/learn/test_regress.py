from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archspec.diagnostics import ArchspecError
from archspec.runtime.learn import cache
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.outcome import Outcome
from archspec.runtime.learn.parts import find_part
from archspec.runtime.learn.regress import RegressSettings, loss_of, regress
from archspec.runtime.learn.taps import Record

B = "transformer_blocks"
Makes = Callable[..., Any]
SHORT = RegressSettings(samples=64, epochs=6, batch=16, lr=3e-3, loss="l2")


def taught(
    host: nn.Module,
    model: nn.Module,
    program: Any,
    sites: Sequence[Sequence[str]],
    feed: Feed,
    settings: RegressSettings,
) -> dict[str, Outcome]:
    parts = [(find_part(model, program, site), settings) for site in sites]
    return regress(parts, host, feed)


@pytest.mark.parametrize("size", [0, 2**30], ids=["live", "cached"])
def test_errors_fall(host: nn.Module, student: Makes, install: Makes, parallel: Makes, feed: Feed, size: int) -> None:
    program = (install(f"{B}.2.attn1", "attn", "hyena_x"), parallel("average"))
    model = student(program)
    sites = [(f"{B}.2.attn1",), (f"{B}.0", f"{B}.1")]
    for outcome in taught(host, model, program, sites, feed, replace(SHORT, cache=size)).values():
        assert outcome.after < 0.95 * outcome.before
        assert outcome.kept


def test_a_part_learns_the_same_in_any_company(host: nn.Module, student: Makes, install: Makes, feed: Feed) -> None:
    sites = [f"{B}.{i}.attn1" for i in range(3)]
    program = tuple(install(site, "attn", "hyena_x") for site in sites)
    together, alone = student(program), student(program)
    taught(host, together, program, [(s,) for s in sites], feed, SHORT)
    for site in reversed(sites):
        taught(host, alone, program, [(site,)], feed, SHORT)
    for name, tensor in together.state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_a_cache_on_disk_changes_nothing(
    host: nn.Module, student: Makes, install: Makes, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = f"{B}.1.ff"
    program = (install(site, "mlp", "mlp", hidden=32),)
    models = student(program), student(program)
    for model, folder in zip(models, (None, tmp_path), strict=True):
        monkeypatch.setattr(cache, "MEMORY_SHARE", 1.0 if folder is None else 0)
        regress([(find_part(model, program, (site,)), SHORT)], host, feed, folder)
    assert list(tmp_path.glob("*.bin"))
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


def test_no_part_ends_worse_than_it_began(host: nn.Module, student: Makes, install: Makes, feed: Feed) -> None:
    site = f"{B}.1.ff"
    program = (install(site, "mlp", "mlp"),)
    model = student(program)
    part = find_part(model, program, (site,))
    names = {"up": "net.0.proj", "down": "net.2"}
    weights = {f"{k}.{w}": host.get_parameter(f"{site}.{v}.{w}") for k, v in names.items() for w in ("weight", "bias")}
    part.module.inherit(weights)  # type: ignore[operator]
    before = {name: tensor.clone() for name, tensor in part.module.state_dict().items()}
    outcome = taught(host, model, program, [(site,)], feed, replace(SHORT, lr=1.0, clip=None))[site]
    assert not outcome.kept
    assert outcome.after == outcome.before
    assert all(torch.equal(before[name], tensor) for name, tensor in part.module.state_dict().items())


def test_frozen_modules_of_a_group_stay(host: nn.Module, student: Makes, parallel: Makes, feed: Feed) -> None:
    program = (parallel("linear"),)
    model = student(program)
    part = find_part(model, program, (f"{B}.0", f"{B}.1"))
    before = {name: tensor.clone() for name, tensor in part.module.state_dict().items()}
    regress([(part, SHORT)], host, feed, frozen={part.name: ["branches.0"]})
    changed = {name for name, tensor in part.module.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed
    assert not any(name.startswith("branches.0.") for name in changed)


@pytest.mark.parametrize(
    ("loss", "expected"), [("l1", 1.5), ("l2", 2.5), ("huber", (0.5 + 2 - 0.5) / 2)], ids=["l1", "l2", "huber"]
)
def test_losses(loss: str, expected: float) -> None:
    seen = Record((), {}, torch.tensor([[[1.0, 2.0]]]))
    settings = replace(SHORT, loss=loss)  # type: ignore[arg-type]
    assert loss_of(torch.zeros(1, 1, 2), seen, settings).item() == pytest.approx(expected)


def test_gates_weigh_the_loss_per_channel() -> None:
    seen = Record((), {}, torch.tensor([[[1.0, 2.0]]]), gate=torch.tensor([[[0.0, 3.0]]]))
    assert loss_of(torch.zeros(1, 1, 2), seen, replace(SHORT, gate_weighted=True)).item() == pytest.approx(18.0)
    with pytest.raises(ArchspecError) as caught:
        loss_of(torch.zeros(1, 1, 2), replace_gate(seen, None), replace(SHORT, gate_weighted=True))
    assert caught.value.diagnostics[0].code == "AS726"


def replace_gate(seen: Record, gate: Tensor | None) -> Record:
    return Record(seen.args, seen.kwargs, seen.output, gate)


def test_gate_weighted_regression_runs_on_cached_gates(
    host: nn.Module, student: Makes, install: Makes, feed: Feed
) -> None:
    site = f"{B}.3.attn1"
    program = (install(site, "attn", "hyena_x"),)
    for size in (0, 2**30):
        settings = replace(SHORT, gate_weighted=True, cache=size, epochs=2)
        outcome = taught(host, student(program), program, [(site,)], feed, settings)[site]
        assert outcome.facts["loss_after"] < outcome.facts["loss_before"]


def test_divergence_from_the_start_is_an_error(host: nn.Module, student: Makes, install: Makes, feed: Feed) -> None:
    site = f"{B}.1.ff"
    program = (install(site, "mlp", "mlp"),)
    model = student(program)
    nn.init.constant_(model.get_submodule(site).readout.weight, float("nan"))
    with pytest.raises(ArchspecError) as caught:
        taught(host, model, program, [(site,)], feed, SHORT)
    assert caught.value.diagnostics[0].code == "AS727"


@pytest.mark.parametrize("size", [0, 2**30], ids=["live", "cached"])
def test_a_part_that_diverges_stops_alone(
    host: nn.Module, student: Makes, install: Makes, feed: Feed, size: int
) -> None:
    good, bad = f"{B}.1.attn1", f"{B}.2.attn1"
    program = tuple(install(site, "attn", "hyena_x") for site in (good, bad))
    model, alone = student(program), student(program)
    before = {name: t.clone() for name, t in model.get_submodule(bad).state_dict().items()}
    settings = replace(SHORT, cache=size)
    wild = replace(settings, lr=1e30, clip=None)
    parts = [(find_part(model, program, (site,)), s) for site, s in ((good, settings), (bad, wild))]
    found = regress(parts, host, feed)
    assert found[bad].facts["diverged"] < 5
    assert not found[bad].kept
    assert "diverged" not in found[good].facts
    for name, tensor in model.get_submodule(bad).state_dict().items():
        assert torch.equal(tensor, before[name])
    taught(host, alone, program, [(good,)], feed, settings)
    for name, tensor in model.get_submodule(good).state_dict().items():
        assert torch.equal(tensor, alone.get_submodule(good).state_dict()[name])


def test_half_precision_models_train_in_single(host: nn.Module, student: Makes, install: Makes, feed: Feed) -> None:
    site = f"{B}.2.attn1"
    program = (install(site, "attn", "hyena_x"),)
    model = student(program)
    model.get_submodule(site).to(torch.bfloat16)
    outcome = taught(host, model, program, [(site,)], feed, SHORT)[site]
    assert outcome.after < outcome.before
    assert {p.dtype for p in model.get_submodule(site).parameters()} == {torch.bfloat16}
