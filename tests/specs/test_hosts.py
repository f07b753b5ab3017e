"""The committed host and its judge: they load in plain libraries, and are as good as their cards say."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from archspec.diagnostics import ArchspecError
from archspec.runtime.measure.evaluate import evaluate

HOSTS = Path(__file__).parents[2] / "specs" / "hosts"
ROOT = HOSTS.parents[1]


def test_files_are_small_and_half_precision() -> None:
    for path in HOSTS.rglob("*.safetensors"):
        assert path.stat().st_size < 3_000_000
        if path.parent.name == "vae":
            continue
        with safe_open(path, "pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        is_text = path.parent.name.startswith("text_encoder")
        if is_text:  # of float32, so that the pipeline is, in numbers that halves hold
            assert all(torch.equal(x, x.half().float()) for x in tensors if x.is_floating_point())
        else:
            assert {x.dtype for x in tensors} <= {torch.float16, torch.int64}


def test_host_loads_in_plain_diffusers() -> None:
    """The transformer needs no archspec at all."""
    code = f"""
import sys, torch
from diffusers import DiTTransformer2DModel
model = DiTTransformer2DModel.from_pretrained({str(HOSTS / "digits" / "transformer")!r}, torch_dtype=torch.float32)
assert sum(p.numel() for p in model.parameters()) == 1233700
assert "archspec" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_pipeline_draws_what_archspec_draws() -> None:
    from diffusers import DiTPipeline

    from archspec.runtime.measure.sample import Request, decode, first_noise, sample
    from archspec.runtime.store.home import home
    from archspec.runtime.store.opening import open_model

    pipeline: Any = DiTPipeline.from_pretrained(HOSTS / "digits", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    _, generators = first_noise(0, 0, 3, ())
    drawn = pipeline([0, 1, 2], guidance_scale=1.0, num_inference_steps=5, generator=[
        torch.Generator().manual_seed(g.initial_seed()) for g in generators
    ], output_type="np").images  # fmt: skip
    place = home(HOSTS / "digits")
    own = decode(place, sample(open_model(place), place, Request(samples=3, steps=5)))
    assert torch.allclose(torch.from_numpy(drawn).permute(0, 3, 1, 2) * 2 - 1, own, atol=1e-5)


def test_classifier_loads_by_auto_class() -> None:
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(HOSTS / "digits-classifier")
    assert type(model).__name__ == "ResNetForImageClassification"
    assert model.config.num_labels == 10


@pytest.mark.slow
def test_quality_is_as_the_card_says() -> None:
    settings = {"samples": 500, "steps": 25, "metrics": ["fd", "agreement"], "data": {"from": "digits"}}
    found = evaluate(HOSTS / "digits", None, settings, ROOT)["result"]
    assert 0.15 < found["fd"] < 0.6  # half the card's samples: the distance of few is larger
    assert found["agreement"] >= 0.97


def test_noise_is_far_from_the_data() -> None:
    from archspec.runtime.data import open_data
    from archspec.runtime.measure.classifier import Classifier
    from archspec.runtime.measure.frechet import frechet_distance

    judge, data = Classifier(HOSTS / "digits-classifier"), open_data({"from": "digits"}, ROOT)
    real = judge.judge(data.batch(range(500))["x"]).features
    noise = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert frechet_distance(real, judge.judge(noise).features) > 50


def test_training_is_a_pure_function_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resumed run draws is what the killed one would have drawn."""
    monkeypatch.syspath_prepend(HOSTS)
    script, hosts = import_module("training"), import_module("class_hosts")
    per_pass = 1437 // script.BATCH
    drawn = torch.cat([script.indices(step, 1437) for step in range(per_pass)])
    assert len(set(drawn.tolist())) == per_pass * script.BATCH
    assert torch.equal(script.indices(30, 1437), script.indices(30, 1437))
    recipe = hosts.HOSTS["digits"]
    assert script.rate(0, recipe.steps) == 0.01
    assert script.rate(script.WARMUP, recipe.steps) == 1
    assert script.rate(recipe.steps, recipe.steps) == pytest.approx(0)
    assert [script.cooled(step, 1000) for step in (0, 99, 700, 800, 900, 1000)] == pytest.approx(
        [0.01, 1, 1, 1, 0.5, 0]
    )
    assert [script.cooled(step, 900, cooling=4 / 9) for step in (500, 700, 900)] == pytest.approx([1, 0.5, 0])
    zeros = [name for name, p in hosts.make_host(recipe).named_parameters() if not p.any()]
    assert sum("norm1.linear" in name for name in zeros) == 12


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HOSTS)
    script = import_module("training")
    monkeypatch.setattr(script, "SAVE_EVERY", 2)

    def run(steps: int, name: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3)
        state = script.State(model, tmp_path / name, script.adamw(model))

        def loss_of(step: int) -> torch.Tensor:
            found: torch.Tensor = model(torch.full((2, 3), 1.0 + step)).pow(2).mean()
            return found

        script.train(model, state, steps, loss_of, lambda step: 1.0)
        return model.weight.detach().clone()

    whole, part = run(5, "whole"), run(3, "part")
    assert not torch.equal(whole, part)
    assert torch.equal(run(5, "part"), whole)


def test_without_apt_fetching_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(HOSTS)
    fetch = import_module("fetch")
    monkeypatch.setattr("archspec.runtime.data.bundled.FASHION_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("ARCHSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArchspecError) as caught:
        fetch.fetch_fashion()
    assert caught.value.diagnostics[0].hints[0] == "apt-get install dataset-fashion-mnist"
    assert "'apt-get'" in capsys.readouterr().err
    assert not list((tmp_path / "cache").iterdir())


def test_cards_say_who_trained_it() -> None:
    licences = {"digits": "CC BY 4.0", "fashion": "MIT licence"}
    for name in ("digits", "digits-64", "digits-classifier", "fashion-64", "fashion-classifier"):
        card = (HOSTS / name / "README.md").read_text()
        assert "Trained by this project" in card
        assert licences[name.partition("-")[0]] in card
    index = json.loads((HOSTS / "digits" / "model_index.json").read_text())
    assert index["vae"] == ["archspec", "IdentityAutoencoder"]
