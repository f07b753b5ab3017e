"""Pipelines of diffusers drawn with by runners: solvers in their place, inversion, injections; tiny random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from archspec.diagnostics import ArchspecError
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
        yield import_module("shapes_text"), import_module("shapes_host"), import_module("shapes_vae")


@pytest.fixture(scope="module", params=["flux", "pixart", "sd3"])
def runner(request: pytest.FixtureRequest, texts: Any) -> PipelineRunner:
    words, recipe, codec = texts
    torch.manual_seed(0)
    if request.param == "flux":
        model = recipe.make_host()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        return PipelineRunner(recipe.make_pipeline(model.eval(), codec.make_vae().eval()))
    if request.param == "sd3":
        return PipelineRunner(make_sd3(words))
    from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder

    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=32,
        cross_attention_dim=16, caption_channels=128, use_additional_conditions=False,
    )  # fmt: skip
    torch.nn.init.normal_(model.proj_out.weight, std=0.02)  # noise that is predicted is not far from none
    pipe = PixArtAlphaPipeline(
        tokenizer=words.tokenizer("$A </s>"),
        text_encoder=words.make_t5(),
        vae=IdentityAutoencoder(latent_channels=3, block_out_channels=(3,)),
        transformer=model.eval(),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    return PipelineRunner(pipe)


def make_sd3(words: Any) -> Any:
    """The pipeline of SD3 with its three encoders, each of random weights."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from archspec.runtime.ecosystem.identity_autoencoder import IdentityAutoencoder

    model = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=3, out_channels=3, num_layers=2, attention_head_dim=8,
        joint_attention_dim=128, num_attention_heads=2, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=32,
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(words.VOCABULARY), hidden_size=16, intermediate_size=32, num_hidden_layers=2, projection_dim=16,
        num_attention_heads=2, max_position_embeddings=words.TOKENS, pad_token_id=0, bos_token_id=1, eos_token_id=3,
    )  # fmt: skip
    clips = [CLIPTextModelWithProjection(config).eval() for _ in range(2)]
    return StableDiffusion3Pipeline(
        transformer=model.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=IdentityAutoencoder(latent_channels=3, block_out_channels=(3,)),
        text_encoder=clips[0],
        tokenizer=words.tokenizer("<s> $A </s>"),
        text_encoder_2=clips[1],
        tokenizer_2=words.tokenizer("<s> $A </s>"),
        text_encoder_3=words.make_t5(),
        tokenizer_3=words.tokenizer("$A </s>"),
    )


def picture(seed: int = 0) -> Picture:
    size = (32, 32) if seed < 0 else SIZE
    drawn = torch.randint(0, 255, (*size, 3), generator=torch.Generator().manual_seed(abs(seed)))
    return Picture(drawn.to(torch.uint8).numpy())


def injection(runner: PipelineRunner, **changes: Any) -> Injection:
    sites = {
        "FluxTransformer2DModel": ("transformer_blocks.0.attn", "single_transformer_blocks.1.attn"),
        "PixArtTransformer2DModel": ("transformer_blocks.1.attn1",),
        "SD3Transformer2DModel": ("transformer_blocks.0.attn", "transformer_blocks.1.attn"),
    }[type(runner.model).__name__]
    match, position = (Match(), "matched") if runner.packing else (None, "same")
    graft = Graft("append", sites, ("it",), match=match, position=position)  # type: ignore[arg-type]
    return replace(Injection((graft,), {"it": Donor("inverted")}, solver="fireflow", steps=STEPS), **changes)


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
    ask = asked(runner, prompt="", steps=24)
    job = replace(injection(runner), solver="fireflow", steps=24)
    start = runner.noise(ask, 3, 1)
    trajectory, condition = invert(runner, ask, start, solver_of(job, runner).inverted())
    assert isinstance(trajectory, Trajectory)
    noise = "PixArt" in type(runner.model).__name__
    assert {"encoder_hidden_states", *([] if noise else ["pooled_projections"])} <= set(condition)
    assert len(trajectory.recorded) == (24 + 1 if noise else 24 + 2)  # the last timestep that DDIM visits is its end
    back = runner.run(ask, trajectory.noise, sampler(job, runner))
    assert (back - start).norm() / start.norm() < 0.02
    assert (trajectory.noise - start).norm() / start.norm() > 0.05


@pytest.mark.parametrize("state", ["noised", "clean"])
def test_donors_of_other_states_are_drawn_with_the_hosts_own_scheduler(runner: PipelineRunner, state: Any) -> None:
    ask, job = asked(runner), injection(runner, solver="host", donors={"it": Donor(state)})
    found = draw(job, runner, ask, pictured(runner))
    plain = draw(replace(job, grafts=()), runner, ask, pictured(runner))
    assert (found.images - plain.images).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "config", "solver"),
    [
        ("DPMSolverMultistepScheduler", {}, "host"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "fireflow"),
        ("DDIMScheduler", {"prediction_type": "sample"}, "host"),
    ],
)
def test_what_cannot_be_gone_back_is_told(texts: Any, name: str, config: dict[str, Any], solver: Any) -> None:
    import diffusers

    pipe = make_sd3(texts[0])
    pipe.scheduler = getattr(diffusers, name)(**config)
    runner = PipelineRunner(pipe)
    with pytest.raises(ArchspecError, match="AS761"):
        solver_of(injection(runner, solver=solver), runner)
