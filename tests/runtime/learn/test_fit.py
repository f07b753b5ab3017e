from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertModel

from archspec.diagnostics import ArchspecError
from archspec.host.excerpt import Excerpt
from archspec.host.locate import Located, structure_of
from archspec.instructions import Entry, Install, Relist
from archspec.operators import restore
from archspec.runtime.data.examples import Arrays
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.fit import FitSettings, Teacher, fit, token_weights
from archspec.runtime.learn.least_squares import GramAccumulator, gram_bytes
from archspec.runtime.learn.parts import find_part
from archspec.runtime.learn.taps import Record, Tap, record
from archspec.runtime.model.apply import apply
from archspec.runtime.objectives import Features

B = "transformer_blocks"
MLP = f"{B}.1.ff"
DONOR = {
    "up.weight": f"{MLP}.net.0.proj.weight",
    "up.bias": f"{MLP}.net.0.proj.bias",
    "down.weight": f"{MLP}.net.2.weight",
    "down.bias": f"{MLP}.net.2.bias",
}
Makes = Callable[..., Any]


def inherited(host: nn.Module, part: Any) -> None:
    part.module.inherit({name: host.get_parameter(path) for name, path in DONOR.items()})


def test_a_readout_that_can_be_exact_becomes_exact(host: nn.Module, student: Makes, install: Makes, feed: Feed) -> None:
    program = (install(MLP, "mlp", "mlp"),)
    part = find_part(student(program), program, (MLP,))
    inherited(host, part)
    assert len(part.readouts) == 1
    nn.init.normal_(part.readouts[0].weight)
    outcome = fit([part], Teacher(host), feed, FitSettings(samples=256, ridge=0.0))[part.name]
    assert outcome.before > 0.5
    assert outcome.after < 1e-5
    torch.testing.assert_close(part.readouts[0].weight, host.get_parameter(DONOR["down.weight"]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("merge", ["linear", "residual_linear"])
def test_a_merge_is_exact_where_the_second_block_does_nothing(
    host: nn.Module, student: Makes, parallel: Makes, feed: Feed, merge: str
) -> None:
    program = (parallel(merge),)
    modulation: Any = host.get_submodule(f"{B}.1.norm1.linear")  # zeros give gates of zero, so the pair is block 0
    nn.init.zeros_(modulation.weight)
    nn.init.zeros_(modulation.bias)
    part = find_part(student(program), program, (f"{B}.0", f"{B}.1"))
    outcome = fit([part], Teacher(host), feed, FitSettings(samples=192, ridge=1e-8))[part.name]
    assert outcome.after < 1e-3 < outcome.before
    assert outcome.kept


def test_turns_hold_fewer_bytes_and_find_the_same(
    host: nn.Module, student: Makes, install: Makes, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gram matrices are counted as they are made and as they go."""
    paths = [f"{B}.{i}.ff" for i in range(4)]
    program = tuple(install(path, "mlp", "mlp", hidden=64) for path in paths)
    donors = {path: {name: Excerpt(home.replace(MLP, path)) for name, home in DONOR.items()} for path in paths}
    held = most = 0
    empty = GramAccumulator.empty

    def counted(*size: Any) -> GramAccumulator:
        nonlocal held, most
        made = empty(*size)
        held += made.bytes
        most = max(most, held)
        weakref.finalize(made, gone, made.bytes)
        return made

    def gone(size: int) -> None:
        nonlocal held
        held -= size

    monkeypatch.setattr(GramAccumulator, "empty", counted)
    found, peaks = [], []
    for turns in ([paths], [paths[:3], paths[3:]], [[path] for path in paths]):
        model, most = student(program), 0
        for turn in turns:
            parts = [find_part(model, program, (path,)) for path in turn]
            outcomes = fit(parts, Teacher(host), feed, FitSettings(samples=64), {p: donors[p] for p in turn})
            assert all(outcome.kept for outcome in outcomes.values())
        found.append({name: t.clone() for name, t in model.state_dict().items()})
        peaks.append(most)
    assert held == 0
    assert peaks == [turn * gram_bytes(128, 32) for turn in (4, 3, 1)]
    for other in found[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in found[0].items())


def test_chosen_neurons_are_better_than_those_of_large_norm(
    host: nn.Module, student: Makes, install: Makes, feed: Feed
) -> None:
    program = (install(MLP, "mlp", "mlp", hidden=64),)
    errors = []
    for donors in (None, {MLP: {role: Excerpt(name) for role, name in DONOR.items()}}):
        part = find_part(student(program), program, (MLP,))
        inherited(host, part)
        errors.append(fit([part], Teacher(host), feed, FitSettings(samples=256), donors)[MLP].after)
    assert errors[1] < 0.9 * errors[0]


def test_a_fit_that_is_worse_on_held_out_examples_is_not_kept(
    host: nn.Module, student: Makes, install: Makes, feed: Feed
) -> None:
    program = (install(MLP, "mlp", "mlp"),)
    part = find_part(student(program), program, (MLP,))
    inherited(host, part)
    before = copy.deepcopy(part.module.state_dict())
    outcome = fit([part], Teacher(host), feed, FitSettings(samples=2, ridge=1e-9))[MLP]
    assert not outcome.kept
    assert outcome.final == outcome.before < outcome.after
    assert all(torch.equal(before[name], tensor) for name, tensor in part.module.state_dict().items())


def test_a_sequential_fit_is_one_on_what_the_edited_model_feeds_it(host: nn.Module, student: Makes, feed: Feed) -> None:
    pairs = ((0, 1), (2, 3))
    program = (Relist(B, 4, 32, tuple(Entry("parallel", pair, "residual_linear") for pair in pairs)),)
    model = student(program)
    first, second = (find_part(model, program, [f"{B}.{i}" for i in pair]) for pair in pairs)
    settings = FitSettings(samples=1024)
    fit([first, second], Teacher(host), feed, settings)  # each on the host's own activations
    outcome = fit([second], Teacher(host, model), feed, settings)[second.name]
    assert outcome.after < outcome.before
    assert fit([first], Teacher(host, model), feed, settings)[first.name].after == pytest.approx(
        fit([first], Teacher(host), feed, settings)[first.name].after, rel=1e-6
    )  # nothing before the first differs from the host


def test_parts_of_a_wave_do_not_change_one_another(
    host: nn.Module, student: Makes, install: Makes, parallel: Makes, feed: Feed
) -> None:
    sites = [f"{B}.{i}.ff" for i in range(3)]
    program = tuple(install(site, "mlp", "mlp", hidden=32) for site in sites)
    together, alone = student(program), student(program)
    fit([find_part(together, program, (s,)) for s in sites], Teacher(host), feed, FitSettings(samples=128))
    for site in reversed(sites):
        fit([find_part(alone, program, (site,))], Teacher(host), feed, FitSettings(samples=128))
    for name, tensor in together.state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_gates_weigh_examples(host: nn.Module, student: Makes, install: Makes, feed: Feed) -> None:
    program = (install(MLP, "mlp", "mlp", hidden=32),)

    def weighted_error(gate_weighted: bool) -> float:
        part = find_part(student(program), program, (MLP,))
        fit([part], Teacher(host), feed, FitSettings(samples=512, gate_weighted=gate_weighted))
        total = 0.0
        for _, keywords in feed.batches(512):
            seen = record(host, [Tap.at(MLP)], keywords, gates=True)[MLP]
            wrong = (part.run(seen).detach() - seen.output).square().mean(-1)
            total += float((token_weights(seen) * wrong).sum())
        return total

    assert weighted_error(True) < weighted_error(False)


def test_no_gate_is_an_error() -> None:
    with pytest.raises(ArchspecError) as caught:
        token_weights(Record((), {}, torch.ones(1, 2, 3)))
    assert caught.value.diagnostics[0].code == "AS726"


def test_a_part_without_readout_is_taught_otherwise(student: Makes, parallel: Makes, install: Makes) -> None:
    program = (parallel("sum"),)
    assert find_part(student(program), program, (f"{B}.0", f"{B}.1")).readouts == ()
    installed: tuple[Install | Relist, ...] = (install(MLP, "mlp", "mlp"),)
    assert len(find_part(student(installed), installed, (MLP,)).readouts) == 1


def test_padding_counts_nowhere(tiny_encoder: Path) -> None:
    """A fit to texts with padding is one to the texts alone, and so are its errors."""
    host = BertModel.from_pretrained(tiny_encoder).eval().requires_grad_(False)
    site = next(s for s in structure_of(Located(tiny_encoder)).sites if s.slot == "mlp" and s.index == 0)
    config = restore("mlp", {"hidden": 24}).complete(site.shape)
    program = (Install(site.path, "mlp", "mlp", 1, config.settings(), site.shape, site.port),)
    ids = torch.randint(1, 64, (150, 6), generator=torch.Generator().manual_seed(0))
    padded = {"input_ids": F.pad(ids, (0, 4)), "attention_mask": F.pad(torch.ones_like(ids), (0, 4))}
    outcomes, readouts = [], []
    for columns in ({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, padded):
        student = apply(copy.deepcopy(host), program)
        part = find_part(student, program, (site.path,))
        inherit: Any = part.module.inherit
        inherit({name: host.get_parameter(weight.tensor) for name, weight in site.teacher.items()})
        feed = Feed(Arrays(columns, "texts"), Features(), seed=1, batch=32)
        outcomes.append(fit([part], Teacher(host), feed, FitSettings(samples=96))[part.name])
        assert len(part.readouts) == 1
        readouts.append(part.readouts[0].weight)
        assert part.tap.last == site.paths[1]
    assert outcomes[0].after < outcomes[0].before
    assert outcomes[1].after == pytest.approx(outcomes[0].after, rel=1e-3)
    assert outcomes[1].before == pytest.approx(outcomes[0].before, rel=1e-4)
    torch.testing.assert_close(readouts[1], readouts[0], rtol=1e-2, atol=1e-3)
