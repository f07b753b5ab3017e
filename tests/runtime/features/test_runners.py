"""Pipelines of diffusers drawn with by runners: solvers in their place, inversion, injections; tiny random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from archspec.injection import Donor, Graft, Injection, Match
from archspec.runtime.features.donors import Trajectory
from archspec.runtime.features.draw import Picture, draw, invert, prepare, sampler, solver_of
from archspec.runtime.features.runners import Ask, PipelineRunner

HOSTS = Path(__file__).parents[3] / "specs" / "hosts"
SIZE, STEPS = (32, 48), 6
ASK = Ask("a red circle on grass", size=SIZE, steps=STEPS)


@pytest.fixture(scope="module")
def texts() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOSTS)
        yield import_module("shapes_text"), import_module("shapes_host")


@pytest.fixture(scope="module", params=["flux", "pixart"])
def runner(request: pytest.FixtureRequest, texts: Any) -> PipelineRunner:
    words, recipe = texts
    torch.manual_seed(0)
    if request.param == "flux":
        model = recipe.make_host()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        return PipelineRunner(recipe.make_pipeline(model.eval()))
    from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder

    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=32,
        cross_attention_dim=16, caption_channels=128, use_additional_conditions=False,
    )  # fmt: skip
    pipe = PixArtAlphaPipeline(
        tokenizer=words.tokenizer("$A </s>"),
        text_encoder=words.make_t5(),
        vae=IdentityAutoencoder(latent_channels=3, block_out_channels=(3,)),
        transformer=model.eval(),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    return PipelineRunner(pipe)


def picture(seed: int = 0) -> Picture:
    size = (32, 32) if seed < 0 else SIZE
    drawn = torch.randint(0, 255, (*size, 3), generator=torch.Generator().manual_seed(abs(seed)))
    return Picture(drawn.to(torch.uint8).numpy())


def injection(runner: PipelineRunner, **changes: Any) -> Injection:
    flux = runner.packing is not None
    paths = (
        ["transformer_blocks.0.attn", "single_transformer_blocks.1.attn"] if flux else ["transformer_blocks.1.attn1"]
    )
    match, position = (Match(), "matched") if flux else (None, "same")
    graft = Graft("append", tuple(paths), ("it",), match=match, position=position)  # type: ignore[arg-type]
    donors = {"it": Donor("inverted" if flux else "noised")}
    found = Injection((graft,), donors, solver="fireflow" if flux else "host", steps=STEPS)
    return replace(found, **changes)


def asked(runner: PipelineRunner, **changes: Any) -> Ask:
    return replace(ASK, size=SIZE if runner.packing else (32, 32), **changes)


def pictured(runner: PipelineRunner) -> dict[str, Picture]:
    return {"it": picture(1 if runner.packing else -1)}


def test_a_donor_changes_what_a_pipeline_draws(runner: PipelineRunner) -> None:
    ask, job = asked(runner), injection(runner)
    found = draw(job, runner, ask, pictured(runner), samples=2)
    plain = draw(replace(job, grafts=()), runner, ask, pictured(runner), samples=2)
    assert found.images.shape == (2, 3, *(SIZE if runner.packing else (32, 32)))
    assert (found.images - plain.images).abs().max() > 1e-3
    assert int(found.votes["it"].sum()) > 0
    assert torch.equal(plain.images, draw(replace(job, grafts=()), runner, ask, pictured(runner), samples=2).images)


def test_guidance_runs_both_branches(runner: PipelineRunner) -> None:
    ask, job = asked(runner, guidance=2.0), injection(runner)
    donors = prepare(job, runner, ask, pictured(runner))
    both = draw(job, runner, ask, {}, donors=donors)
    one = draw(replace(job, grafts=(replace(job.grafts[0], rows="conditional"),)), runner, ask, {}, donors=donors)
    none = draw(replace(job, grafts=()), runner, ask, {}, donors=donors)
    assert len({float(x.images.sum()) for x in (both, one, none)}) == 3
    assert int(both.votes["it"].sum()) > int(one.votes["it"].sum())


def test_a_cache_gives_the_same_pictures(runner: PipelineRunner) -> None:
    ask, job = asked(runner), injection(runner)
    donors = prepare(job, runner, ask, pictured(runner))
    plain = draw(job, runner, ask, {}, donors=donors)
    kept = draw(replace(job, cache=2**30), runner, ask, {}, donors=donors)
    torch.testing.assert_close(plain.images, kept.images, rtol=0, atol=1e-4)


def test_an_inversion_is_gone_back(runner: PipelineRunner) -> None:
    if runner.packing is None:
        pytest.skip("its host predicts noise")
    ask = asked(runner, prompt="", steps=24)
    job = replace(injection(runner), steps=24)
    start = runner.noise(ask, 3, 1)
    trajectory, condition = invert(runner, ask, start, solver_of(job, runner).inverted())
    assert isinstance(trajectory, Trajectory)
    assert {"encoder_hidden_states", "pooled_projections"} <= set(condition)
    assert len(trajectory.recorded) == 24 + 2
    back = runner.run(ask, trajectory.noise, sampler(job, runner))
    assert (back - start).norm() / start.norm() < 0.02
    assert (trajectory.noise - start).norm() / start.norm() > 0.05
