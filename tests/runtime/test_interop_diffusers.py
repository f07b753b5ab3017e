"""Compiled models in plain diffusers: pipelines, saving, training, adapters, the codec of pixel hosts."""

from __future__ import annotations

import filecmp
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import archspec
from archspec.runtime.families import family

Make = Callable[..., Path]
HYENA = '  - {replace: "blocks[1::2].attn", with: {op: hyena_x, kernel: 4}, init: random}\n'
MLP = '  - {replace: "blocks[*].mlp", with: {op: mlp, ratio: 3}}\n'
EDITS = {
    "operators": HYENA + MLP,
    "convolutions": '  - {replace: "blocks[0].attn", with: hyena_se}\n'
    '  - {replace: "blocks[2].attn", with: {op: hyena_y, layout: grid, kernel: 3}}\n'
    '  - {replace: "blocks[*].mlp", with: hyena_mlp}\n',
    "parallel": '  - {parallelize: "blocks[0:4]", by: 2, merge: linear}\n',
    "sum": '  - {parallelize: "blocks[1:3]", by: 2, merge: sum}\n',
    "tied": '  - {repeat: "blocks[1]", times: 3, tie: true}\n',
    "copied": '  - {repeat: "blocks[1]", times: 2}\n',
    "shared": '  - {share: "blocks[1:4].mlp"}\n',
    "dropped": '  - {drop: "blocks[0]"}\n',
    "inserted": '  - {insert: "blocks[1] | blocks[3]", with: {op: local_attention, window: 2}, init: random}\n',
    "skipped": '  - {skip: "blocks[0:2]", to: "blocks[2:4]", init: random}\n  - {insert: "blocks[0]", with: hyena_x}\n',
    "skipped sums": '  - {skip: "blocks[1]", to: "blocks[3]", merge: sum}\n' + MLP,
    "all": HYENA + MLP + '  - {parallelize: "blocks[0:2]", by: 2}\n  - {repeat: "blocks[3]", times: 2, tie: true}\n',
}


def example(model: Any, name: str) -> dict[str, Any]:
    return family(name).example(model, batch=2, seed=3)


def run(model: Any, name: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**example(model, name)).sample
    return found


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("host", ["dit", "pixart"])
def test_saved_and_loaded_again_to_the_bit(
    request: pytest.FixtureRequest, make: Make, tmp_path: Path, host: str, edits: str
) -> None:
    out = make(request.getfixturevalue(f"tiny_{host}"), EDITS[edits])
    model: Any = archspec.load(out)
    assert type(model) is getattr(archspec, json.loads((out / "config.json").read_text())["_class_name"])
    wanted = run(model, host)
    assert bool(wanted.isfinite().all())
    plain = type(model).from_pretrained(out)
    assert torch.equal(run(plain, host), wanted)
    plain.save_pretrained(tmp_path / "again")
    again: Any = archspec.load(tmp_path / "again")
    assert torch.equal(run(again, host), wanted)
    again.save_pretrained(tmp_path / "third")
    names = ["config.json", "diffusion_pytorch_model.safetensors"]
    same, *_ = filecmp.cmpfiles(tmp_path / "again", tmp_path / "third", names, shallow=False)
    assert "diffusion_pytorch_model.safetensors" in same


def test_what_is_not_edited_is_the_host(tiny_dit: Path, make: Make) -> None:
    from diffusers import DiTTransformer2DModel

    host = DiTTransformer2DModel.from_pretrained(tiny_dit)
    model: Any = archspec.load(make(tiny_dit, '  - {freeze: "blocks[0]"}\n'))
    assert torch.equal(run(model, "dit"), run(host, "dit"))


def test_dead_tensors_of_a_linked_file_are_passed_over(
    tiny_dit: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    out = make(tiny_dit, HYENA, link=True)
    assert (out / "diffusion_pytorch_model.safetensors.index.json").exists()
    plain = make(tiny_dit, HYENA)
    caplog.clear()
    import diffusers

    diffusers.utils.logging.enable_propagation()
    try:
        model = archspec.GraftedDiTTransformer2DModel.from_pretrained(out)
    finally:
        diffusers.utils.logging.disable_propagation()
    assert "not used" not in caplog.text
    assert "newly initialized" not in caplog.text
    wanted = run(archspec.load(plain), "dit")
    assert torch.equal(run(model, "dit"), wanted)
    assert torch.equal(run(archspec.load(out), "dit"), wanted)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of a host that works on pixels, as the bundled digits host."""
    from diffusers import DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", solver_order=1)
    folder = tmp_path_factory.mktemp("pipe") / "pixels"
    DiTPipeline(transformer, archspec.IdentityAutoencoder(), scheduler).save_pretrained(folder)
    return folder


def test_a_compiled_pipeline_loads_by_its_index(pipeline: Path, make: Make, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    out = make(pipeline, HYENA, subfolder="transformer")
    index = json.loads((out / "model_index.json").read_text())
    assert index["transformer"] == ["archspec", "GraftedDiTTransformer2DModel"]
    assert index["vae"] == ["archspec", "IdentityAutoencoder"]
    assert {p.name for p in out.iterdir()} >= {"archspec.lock.json", "plan.json", "README.md", "scheduler", "vae"}
    pipe = DiffusionPipeline.from_pretrained(out)
    assert type(pipe.transformer).__name__ == "GraftedDiTTransformer2DModel"
    assert torch.equal(run(pipe.transformer, "dit"), run(archspec.load(out), "dit"))
    pipe.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again")
    images = [
        p(class_labels=[1, 2], guidance_scale=1.0, num_inference_steps=3, output_type="np", generator=seeded()).images
        for p in (pipe, again)
    ]
    assert images[0].shape == (2, 8, 8, 1)
    assert (images[0] == images[1]).all()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_plain_diffusers_samples_a_pixel_host_by_euler_steps(pipeline: Path) -> None:
    """The scheduler's first-order steps are x + (s' - s) v: Euler's, from noise to data."""
    from diffusers import DiTPipeline

    pipe = DiTPipeline.from_pretrained(pipeline)
    found = pipe(class_labels=[3], guidance_scale=1.0, num_inference_steps=8, output_type="np", generator=seeded())
    sigmas, times = pipe.scheduler.sigmas, pipe.scheduler.timesteps
    assert sigmas[0] == pytest.approx(0.999)
    assert sigmas[-1] == 0
    x = torch.randn(1, 1, 8, 8, generator=seeded())
    with torch.no_grad():
        for time, now, then in zip(times, sigmas[:-1], sigmas[1:], strict=True):
            label = torch.tensor([3])
            x = x + (then - now) * pipe.transformer(x, timestep=time[None], class_labels=label).sample
    wanted = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(found.images - wanted).max() < 1e-5


def test_the_identity_codec_changes_nothing() -> None:
    codec, x = archspec.IdentityAutoencoder(), torch.randn(2, 1, 4, 4)
    encoded = codec.encode(x)
    assert encoded.latent_dist.sample() is x is encoded.latent_dist.mode()
    assert codec.decode(x).sample is x is codec.decode(x, return_dict=False)[0] is codec(x).sample
    assert codec.encode(x, return_dict=False)[0].sample() is x
    assert codec.config.scaling_factor == 1.0


@pytest.mark.parametrize("edits", ["all", "skipped"])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_dit: Path, make: Make, edits: str) -> None:
    model: Any = archspec.load(make(tiny_dit, EDITS[edits]))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(**example(model, "dit")).sample.square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    wanted = gradients()
    assert wanted.keys() == {name for name, _ in model.named_parameters()}
    model.enable_gradient_checkpointing()
    found = gradients()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_lora_trains_nothing_else(tiny_dit: Path, make: Make, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    out = make(tiny_dit, EDITS["all"])
    base: Any = archspec.load(out)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["to_q", "to_v", "merge"]))
    before = {name: p.clone() for name, p in model.named_parameters()}
    inputs = example(base, "dit")
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):  # LoRA's B starts at zero, so A moves with the second step
        optimizer.zero_grad()
        model(**inputs).sample.square().mean().backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed == {name for name in before if "lora_" in name}
    assert any("branches" in name for name in changed)
    assert any("merge" in name for name in changed)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(archspec.load(out), tmp_path / "adapter")
    torch.testing.assert_close(run(again, "dit"), run(model, "dit"), rtol=0, atol=0)


def test_grafted_classes_pickle_by_name(tiny_dit: Path, make: Make) -> None:
    cls = archspec.GraftedDiTTransformer2DModel
    assert pickle.loads(pickle.dumps(cls)) is cls
    model: Any = archspec.load(make(tiny_dit, EDITS["tied"]))
    assert torch.equal(run(pickle.loads(pickle.dumps(model)), "dit"), run(model, "dit"))


def test_an_unknown_class_is_an_attribute_error() -> None:
    for name in ("GraftedNothing", "GraftedNothingConfig", "nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(archspec, name)
    assert not hasattr(archspec, "GraftedDiTPipeline")


ORDERS = {
    "archspec first": "import archspec; from diffusers import DiffusionPipeline",
    "diffusers first": "from diffusers import DiffusionPipeline; import archspec",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports(pipeline: Path, make: Make, order: str) -> None:
    out = make(pipeline, HYENA, subfolder="transformer")
    code = f"{ORDERS[order]}; print(type(DiffusionPipeline.from_pretrained({str(out)!r}).transformer).__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "GraftedDiTTransformer2DModel", found.stderr


def test_importing_archspec_is_cheap() -> None:
    code = (
        "import sys, archspec; print([m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
