"""Measurements against cases whose answer is known, and of the digits host against its card."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from archspec.diagnostics import ArchspecError
from archspec.runtime.data.examples import Arrays
from archspec.runtime.measure.classifier import Classifier, find_classifier
from archspec.runtime.measure.evaluate import evaluate, perplexity
from archspec.runtime.measure.frechet import frechet_distance
from archspec.runtime.measure.latency import compare_latency
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model

ROOT = Path(__file__).parents[2]
DIGITS, JUDGE = ROOT / "specs/hosts/digits", ROOT / "specs/hosts/digits-classifier"
QUICK: dict[str, Any] = {"samples": 80, "steps": 2, "data": {"from": "digits"}}


def standard(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Features whose mean is exactly 0 and whose covariance is exactly the unit matrix."""
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    root: torch.Tensor = torch.linalg.cholesky(x.T @ x / (count - 1))
    white: torch.Tensor = torch.linalg.solve_triangular(root, x.T, upper=False).T
    return white


def test_equal_sets_have_no_distance() -> None:
    x = standard(100, 8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, standard(300, 8, seed=1)) == pytest.approx(0, abs=1e-9)


def test_known_gaussians_are_exact() -> None:
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    scale, shift = torch.tensor([1.0, 2, 3, 0.5]).double(), torch.tensor([1.0, 0, -2, 0]).double()
    a, b = standard(60, 4), standard(90, 4, seed=1) * scale + shift
    assert frechet_distance(a, b) == pytest.approx(float(5 + (scale - 1).square().sum()), rel=1e-9)


def test_correlated_gaussians_agree_with_scipy() -> None:
    from scipy.linalg import sqrtm

    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double()
    a, b = standard(60, 4), standard(60, 4, seed=1) @ mix
    root = sqrtm(torch.cov(b.T).numpy()).real  # of the unit matrix times it
    expected = 4 + float(torch.cov(b.T).trace()) - 2 * float(root.trace())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_too_few_samples() -> None:
    with pytest.raises(ArchspecError, match="AS710"):
        frechet_distance(standard(100, 8), torch.zeros(8, 8))


def test_judge_reads_the_test_split() -> None:
    from archspec.runtime.data.bundled import load_bundled

    images, labels = load_bundled("digits", "test")
    verdict = Classifier(JUDGE).judge(torch.from_numpy(images))
    assert verdict.features.shape == (360, 64)
    assert verdict.features.dtype == torch.float64
    assert float((verdict.classes == torch.from_numpy(labels)).float().mean()) >= 0.99


def test_judge_features_are_the_pooled_ones() -> None:
    judge = Classifier(JUDGE)
    pixels = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with torch.no_grad():
        pooled = judge.model.resnet(judge.prepare(pixels)).pooler_output.flatten(1)
    assert torch.allclose(judge.judge(pixels).features, pooled.double())


def test_no_classifier(tmp_path: Path) -> None:
    for written, data in ((None, "mine"), ("nothing/here/at-all", None)):
        with pytest.raises(ArchspecError, match="AS711"):
            find_classifier(written, data, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArchspecError, match="AS711"):
        Classifier(tmp_path)


def test_host_against_itself() -> None:
    report = evaluate(DIGITS, DIGITS, QUICK, ROOT)
    assert set(report["result"]) == {"fd", "agreement", "paired", "paired_rmse", "latency"}
    assert report["result"]["paired"] == 0
    assert report["result"]["fd"] == report["host"]["fd"]
    assert report["settings"]["data"] == {"from": "digits"}
    spread = report["spread"]["host.latency"]
    assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert spread["median"] == report["host"]["latency"]


def test_paired_error_grows_with_damage(tmp_path: Path) -> None:
    """Noise of 1, 3 and 10 % on the weights: order kept, and the distance to the data with it."""
    import shutil

    errors, distances = [], []
    for part in (0.01, 0.03, 0.1):
        folder = tmp_path / str(part)
        shutil.copytree(DIGITS, folder)
        model: Any = open_model(home(DIGITS))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p += part * p.std(unbiased=False) * torch.randn(p.shape, generator=generator)
        model.save_pretrained(folder / "transformer")
        found = evaluate(folder, DIGITS, QUICK | {"steps": 5, "metrics": ["paired", "fd"]}, ROOT)["result"]
        errors.append(found["paired"])
        distances.append(found["fd"])
    assert 0 < errors[0] < errors[1] < errors[2] < 1
    assert distances[2] > distances[0]


def test_metrics_that_cannot_be_measured() -> None:
    for metric, host in (("perplexity", DIGITS), ("paired", None)):
        with pytest.raises(ArchspecError, match=f"AS713.*{metric}"):
            evaluate(DIGITS, host, QUICK | {"metrics": [metric]}, ROOT)


def test_perplexity_of_a_host_that_knows_nothing(tiny_llama: Path) -> None:
    place = home(tiny_llama)
    model: Any = open_model(place)
    torch.nn.init.zeros_(model.lm_head.weight)
    data = Arrays({"input_ids": torch.randint(0, 64, (5, 7))}, "")
    assert perplexity(model, place, data, 5, batch=2) == pytest.approx(64, rel=1e-5)
    assert math.isfinite(perplexity(open_model(place), place, data, 3))


def test_language_model_report(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"input_ids": [1, 2, 3, 4]}\n' * 40)
    report = evaluate(tiny_llama, tiny_llama, {"samples": 2, "data": {"from": "t.jsonl"}}, tmp_path)
    assert set(report["result"]) == {"perplexity", "latency"}
    assert report["result"]["perplexity"] == report["host"]["perplexity"]


def test_latency_is_the_median_and_takes_turns() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    found = compare_latency(runs, torch.device("cpu"), rounds=6, warm_up=2)
    assert len(calls) == 2 * 8
    assert all(set(calls[i : i + 2]) == {"a", "b"} for i in range(0, 16, 2))
    assert found["a"].rounds == 6
