"""Objectives: a perfect predictor has no loss, draws hang on the generator alone, labels drop once per example."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from archspec.diagnostics import ArchspecError
from archspec.runtime.objectives import (
    Conditioning,
    Epsilon,
    Flow,
    NextToken,
    draw_times,
    make_objective,
    quiet_label_dropout,
)
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int = 6) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(count, 1, 4, 4, generator=rng(9), dtype=torch.float64), "label": torch.arange(count)}


def pipeline(model: Path, folder: Path, **scheduler: Any) -> Path:
    """Put a model folder into a pipeline with this scheduler."""
    shutil.copytree(model, folder / "transformer")
    (folder / "model_index.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def test_flow_oracle() -> None:
    """From x_t and the target the clean image and the noise follow exactly, at the time that the timestep says."""
    objective, batch = Flow(Conditioning(null=10)), images()
    keywords, target = objective.inputs(batch, rng())
    t = (keywords["timestep"].double() / 1000).reshape(-1, 1, 1, 1)
    assert torch.allclose(keywords["hidden_states"] - t * target, batch["x"], atol=1e-6)
    assert float(objective.loss(target, target)) == 0
    assert float(objective.loss(target + 2, target)) == pytest.approx(4)
    assert torch.equal(keywords["class_labels"], batch["label"])


def test_epsilon_oracle() -> None:
    alphas = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)
    objective, batch = Epsilon(alphas, channels=1), images()
    keywords, noise = objective.inputs(batch, rng())
    kept = alphas[keywords["timestep"]].reshape(-1, 1, 1, 1)
    clean = (keywords["hidden_states"] - (1 - kept).sqrt() * noise) / kept.sqrt()
    assert torch.allclose(clean, batch["x"], atol=1e-9)
    assert float(objective.loss(noise, noise)) == 0
    with_variance = torch.cat([noise, torch.full_like(noise, 7)], dim=1)
    assert torch.equal(objective.output((with_variance,)), noise)


def test_epsilon_noises_as_diffusers_does() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler()
    objective, batch = Epsilon(scheduler.alphas_cumprod, channels=1), images()
    keywords, noise = objective.inputs(batch, rng(1))
    expected = scheduler.add_noise(batch["x"], noise, keywords["timestep"])
    assert torch.allclose(keywords["hidden_states"], expected, atol=1e-6)


def test_next_token_oracle() -> None:
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    objective = NextToken()
    keywords, target = objective.inputs({"input_ids": ids, "attention_mask": mask}, rng())
    assert target[0, 3] == -100
    certain = torch.full((2, 4, 8), -1e4)
    certain.scatter_(2, ids.roll(-1, dims=1)[..., None], 0.0)
    assert float(objective.loss(certain, target)) == 0
    assert float(objective.loss(torch.zeros(2, 4, 8), target)) == pytest.approx(math.log(8))
    assert keywords["use_cache"] is False


def test_next_token_loss_is_transformers_own(tiny_llama: Path) -> None:
    place = home(tiny_llama)
    model: Any = open_model(place)
    ids = torch.randint(0, 64, (2, 9), generator=rng())
    keywords, target = make_objective(place).inputs({"input_ids": ids}, rng())
    with torch.no_grad():
        own = NextToken().loss(NextToken().output(model(**keywords)), target)
        theirs = model(input_ids=ids, labels=ids).loss
    assert torch.allclose(own, theirs, atol=1e-6)


@pytest.mark.parametrize("objective", [Flow(Conditioning(null=10, dropout=0.5)), Epsilon(torch.linspace(1, 0, 9), 1)])
def test_draws_hang_on_the_generator_alone(objective: Any) -> None:
    first, again, other = (objective.inputs(images(), rng(seed))[0] for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden_states"], other["hidden_states"])


def test_labels_drop_at_the_stated_rate() -> None:
    batch = {"x": torch.zeros(4000, 1, 1, 1), "label": torch.zeros(4000, dtype=torch.long)}
    labels = Conditioning(null=10, dropout=0.3).apply(batch, rng())["class_labels"]
    assert set(labels.unique().tolist()) == {0, 10}
    assert float((labels == 10).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_times() -> None:
    uniform, normal = (draw_times(20_000, kind, rng()) for kind in ("uniform", "logit_normal"))
    for times in (uniform, normal):
        assert 0 <= float(times.min()) <= float(times.max()) < 1
        assert float(times.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.003)
    assert float(torch.logit(normal).std()) == pytest.approx(1, abs=0.02)


def test_captions_reach_pixart(tiny_pixart: Path) -> None:
    place = home(tiny_pixart)
    objective, model = make_objective(place, label_dropout=1.0), open_model(place)
    batch = {
        "x": torch.randn(2, 4, 8, 8, generator=rng()),
        "caption": torch.randn(2, 5, 24, generator=rng()),
        "caption_mask": torch.ones(2, 5),
    }
    keywords, noise = objective.inputs(batch, rng())
    assert float(keywords["encoder_hidden_states"].abs().max()) == 0
    with torch.no_grad():
        assert objective.output(model(**keywords)).shape == noise.shape
        keywords, _ = objective.inputs({"x": batch["x"]}, rng())
        assert objective.output(model(**keywords)).shape == noise.shape
    assert keywords["encoder_hidden_states"].shape == (2, 120, 24)


def test_told_from_the_scheduler(tiny_dit: Path, tiny_llama: Path, tmp_path: Path) -> None:
    assert make_objective(home(tiny_llama)).name == "lm"
    assert make_objective(home(tiny_dit)).name == "epsilon"
    flow = pipeline(tiny_dit, tmp_path / "a", _class_name="FlowMatchEulerDiscreteScheduler")
    assert make_objective(home(flow)).name == "flow"
    solver = pipeline(tiny_dit, tmp_path / "b", prediction_type="flow_prediction", lambda_min_clipped=-math.inf)
    assert make_objective(home(solver)).name == "flow"
    ddim = pipeline(tiny_dit, tmp_path / "c", prediction_type="epsilon", beta_start=0.01, beta_end=0.02)
    objective = make_objective(home(ddim))
    assert isinstance(objective, Epsilon)
    assert float(objective.alphas[0]) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("kind", "host"), [("lm", "tiny_dit"), ("flow", "tiny_llama"), ("auto", "tiny_plain"), ("mlm", "tiny_vit")]
)
def test_objective_that_does_not_fit(kind: str, host: str, request: pytest.FixtureRequest) -> None:
    place = home(request.getfixturevalue(host))
    with pytest.raises(ArchspecError, match="AS712"):
        make_objective(place, kind)


def test_other_predictions_are_refused(tiny_dit: Path, tmp_path: Path) -> None:
    folder = pipeline(tiny_dit, tmp_path / "p", prediction_type="v_prediction")
    with pytest.raises(ArchspecError, match="v_prediction"):
        make_objective(home(folder))


def test_quiet_label_dropout(tiny_dit: Path) -> None:
    """In training mode the host answers alike twice only when its own dropout is off."""
    model: Any = open_model(home(tiny_dit)).train()
    keywords = {
        "hidden_states": torch.randn(64, 4, 8, 8, generator=rng()),
        "timestep": torch.full((64,), 500),
        "class_labels": torch.zeros(64, dtype=torch.long),
    }
    with torch.no_grad():
        noisy = [model(**keywords).sample for _ in range(2)]
        quiet_label_dropout(model)
        quiet = [model(**keywords).sample for _ in range(2)]
    assert not torch.equal(*noisy)
    assert torch.equal(*quiet)
