"""The search: exact, honest about what cannot be had, and a spec in the end."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archspec.compiler.driver import prepare
from archspec.compiler.search.price import Priced
from archspec.compiler.search.search import Watch, search
from archspec.compiler.search.solve import solve
from archspec.diagnostics import ArchspecError, Collector
from archspec.host.locate import Located, structure_of
from archspec.language.expectations import parse_expectation
from archspec.operators import signature
from archspec.runtime.learn.fit import FitSettings
from archspec.runtime.probing.replacement import Trial, scores, standing
from archspec.runtime.probing.timing import changes
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model

HOSTS = Path(__file__).parents[2] / "specs" / "hosts"
SPEC = """
name: s
base: {{from: {base}, subfolder: transformer}}
data: digits
search:
  sites: blocks[0:3].attn | blocks[0:3].mlp
  candidates: [{{op: local_attention, window: 1, layout: grid}}, {{op: mlp, ratio: 2}}, zero]
  budget: [{budget}]
  samples: 64
"""


def priced(text: str, host: float, *tables: dict[str, float]) -> Priced:
    return Priced(parse_expectation(text), host, tables)


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [f"p{k}" for k in range(5)]

    def table(low: float, high: float, some: bool = False) -> dict[str, float]:
        kept = [path for path in paths if not some or path != "p2"]
        return {path: float(rng.uniform(low, high)) for path in kept}

    errors = [table(0, 1), table(0, 1, some=True)]
    budget = [priced("flops <= 0.8x", 10.0, table(-1, 0), table(-2, 0.5, some=True))]
    budget += [priced("params <= 11", 10.0, table(-1, 1), table(0, 1, some=True))]
    found = solve(paths, errors, budget, Collector())
    sums = []
    for choice in product((None, 0, 1), repeat=5):
        pairs = [(path, place) for path, place in zip(paths, choice, strict=True) if place is not None]
        if any(path not in errors[place] for path, place in pairs):
            continue
        if all(p.host + sum(p.changes[place][path] for path, place in pairs) <= p.bound + 1e-9 for p in budget):
            sums.append(sum(errors[place][path] for path, place in pairs))
    if not sums:
        assert found is None
        return
    assert found is not None
    assert found.score == pytest.approx(min(sums))
    assert found.values[0] <= 8 + 1e-6


def test_what_cannot_be_had_is_told() -> None:
    paths, errors = ["a", "b"], [{"a": 1.0, "b": 1.0}]
    alone, problems = [priced("flops <= 0.5x", 10.0, {"a": -1.0, "b": -2.0})], Collector()
    assert solve(paths, errors, alone, problems) is None
    assert [(d.code, d.hints) for d in problems] == [("AS820", ("the least that can be had is 0.7x",))]
    both = [priced("flops <= 0.8x", 10.0, {"a": -1.0, "b": -2.0}), priced("params <= 10", 10.0, {"a": 1.0, "b": 1.0})]
    problems = Collector()
    assert solve(paths, errors, both, problems) is None
    assert all("the other bounds exclude it" in d.message for d in problems)


def spec(folder: Path, budget: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(SPEC.format(base=HOSTS / "digits", budget=budget))
    return path


@pytest.mark.slow
def test_from_a_spec_to_a_spec_and_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = spec(tmp_path, "flops <= 0.95x"), tmp_path / "found.yaml"
    from archspec.runtime.probing import replacement

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    advanced: list[int] = []
    real = replacement.scores
    calls: list[str] = []

    def counted(host: Any, trials: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(trials[0].config.name)
        return stop() if len(calls) == 2 else real(host, trials, *args, **kwargs)

    monkeypatch.setattr(replacement, "scores", counted)
    with pytest.raises(KeyboardInterrupt):
        search(path, out, "cpu", Watch(advance=advanced.append))
    assert not out.exists()
    found = search(path, out, "cpu")
    assert calls == ["local_attention", "mlp", "mlp", "zero"], "what was scored is not scored again"
    assert found.choice.values[0] <= 0.95 * found.budget[0].host
    ready = prepare(out)
    assert ready.cost.result.flops == found.choice.values[0]
    text = out.read_text()
    assert "1  local_attention(window=1, layout=grid)" in text
    assert ready.spec.search is None
    again = search(spec(tmp_path, "params <= 0.99x, weights <= 0.98x"), out, "cpu")
    assert len(calls) == 4
    cost = prepare(out).cost
    assert list(again.choice.values) == [cost.result.params, cost.result.weights], "the host's weights are float16"
    assert cost.host.weights < 4 * cost.host.params
    assert json.loads(json.dumps(again.to_json()))["sites"][0]["scores"].keys() == {
        *("local_attention(window=1, layout=grid)", "mlp(ratio=2)", "zero")
    }
    with pytest.raises(ArchspecError, match="cannot be met"):
        search(spec(tmp_path, "flops <= 0.1x"), out, "cpu")
    assert prepare(out).cost.result.params == again.choice.values[0], "what was found before stands"


def test_a_spec_without_search(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nbase: {{from: {HOSTS / 'digits'}, subfolder: transformer}}\ndata: digits\n")
    with pytest.raises(ArchspecError) as caught:
        search(path, tmp_path / "found.yaml", "cpu")
    assert caught.value.diagnostics[0].code == "AS664"


def test_what_has_no_search_is_told_before_its_data(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nbase: {{from: {HOSTS / 'digits'}, subfolder: transformer}}\n")
    with pytest.raises(ArchspecError) as caught:
        search(path, tmp_path / "found.yaml", "cpu")
    assert caught.value.diagnostics[0].code == "AS664"


@pytest.mark.parametrize("name", ["s.yaml", "../linked.yaml", "child.yaml"])
def test_a_search_does_not_write_over_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither over the spec, by whatever name, nor over one that it extends; and nothing is measured before."""
    from archspec.compiler.search import search as searching

    monkeypatch.setattr(searching, "_host", lambda *_: pytest.fail("the host was read"))
    (tmp_path / "in").mkdir()
    path = spec(tmp_path / "in", "flops <= 0.95x")
    (tmp_path / "linked.yaml").symlink_to(path)
    child = path.with_name("child.yaml")
    child.write_text("extends: s.yaml\nname: child\n")
    before = {file: file.read_text() for file in (path, child)}
    with pytest.raises(ArchspecError) as caught:
        search(child, path.parent / name, "cpu")
    assert caught.value.diagnostics[0].code == "AS825"
    assert caught.value.diagnostics[0].hints == ("name another file: `-o child-found.yaml`",)
    assert {file: file.read_text() for file in (path, child)} == before


class Feed:
    seed, batch, device, held_out = 0, 2, "cpu", 2
    dataset, objective = None, None

    def __init__(self, config: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (2, config["in_channels"], config["sample_size"], config["sample_size"])
        self.keywords = {
            "hidden_states": torch.randn(shape, generator=generator),
            "timestep": torch.tensor([3, 700]),
            "class_labels": torch.tensor([1, 4]),
        }

    def batches(self, count: int, purpose: str = "train") -> Any:
        yield 0, self.keywords


def test_a_score_is_the_error_of_one_replacement(tiny_dit: Path) -> None:
    host, structure = open_model(home(tiny_dit)), structure_of(Located(tiny_dit))
    feed: Any = Feed(structure.config)
    sites = [site for site in structure.sites if site.slot == "attn"][:2]
    trials = [Trial(site, signature("zero")().complete(site.shape)) for site in sites]
    found = scores(host, trials, feed, FitSettings(2), 0)
    with torch.no_grad():
        wanted = host(**feed.keywords).sample
        with standing(host, sites[1], _Zero()):
            without = host(**feed.keywords).sample
        assert torch.equal(host(**feed.keywords).sample, wanted), "the host is put back"
    assert found[sites[1].path] == pytest.approx(
        float((without - wanted).square().sum() / wanted.square().sum()), rel=1e-5
    )
    same = [Trial(site, signature("attention")().complete(site.shape)) for site in sites]
    assert max(scores(host, same, feed, FitSettings(2), 0).values()) < 1e-6


class _Zero(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


class Texts(Feed):
    def __init__(self) -> None:
        self.keywords = {
            "input_ids": torch.arange(10).view(2, 5) + 3,
            "attention_mask": torch.ones(2, 5, dtype=torch.long),
        }


def test_a_site_of_two_modules_is_replaced_whole(tiny_bert: Path) -> None:
    host, structure = open_model(home(tiny_bert)), structure_of(Located(tiny_bert))
    feed: Any = Texts()
    trials = [
        Trial(site, signature(name)().complete(site.shape))
        for site in structure.sites
        for name in ("attention", "mlp")
        if site.slot == {"attention": "attn", "mlp": "mlp"}[name] and site.index == 1
    ]
    assert all(trial.site.exit for trial in trials)
    assert max(scores(host, trials, feed, FitSettings(2), 0).values()) < 1e-6
    whole, found = changes(host, [trials], feed.keywords, torch.device("cpu"))
    assert whole > 0
    assert found[0].keys() == {trial.site.path for trial in trials}
