"""Gate sensitivity against finite differences in double precision, and where it must be nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archspec.diagnostics import ArchspecError
from archspec.host.locate import Located, structure_of
from archspec.host.probes import with_probe
from archspec.host.structure import Port, Site, SiteShape, Structure
from archspec.language.selectors import parse_selector, select
from archspec.runtime.families import family
from archspec.runtime.objectives import Features, first_tensor
from archspec.runtime.probing.gates import derivatives
from archspec.runtime.probing.measures import parse_measures
from archspec.runtime.probing.probe import measure, passes, usual
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model
from tests.command import run

DIGITS = Path(__file__).parents[3] / "specs" / "hosts" / "digits"

STEP = 1e-2
TOLERANCE = dict.fromkeys(("sd3", "flux", "llama"), 0.0001)
"""Relative; their RMS norms compute in float32 whatever the host's type is. Of the others 1e-7."""


class Squares:
    """Mean squared error, in the precision of the host."""

    name = "squares"

    def inputs(self, batch: Any, generator: Any) -> tuple[dict[str, Any], Tensor]:
        raise NotImplementedError

    def output(self, answer: Any) -> Tensor:
        return first_tensor(answer)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()


class Feed:
    """The same two examples again and again."""

    batch = 2

    def __init__(self, keywords: Mapping[str, Any], objective: Any = None) -> None:
        self.keywords, self.objective = keywords, objective or Squares()

    def batches(self, count: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        yield from ((start, self.keywords) for start in range(0, count, self.batch))

    def tasks(self, count: int) -> Iterator[tuple[int, Mapping[str, Any], Tensor]]:
        yield from ((start, keywords, torch.zeros(())) for start, keywords in self.batches(count))


def double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def one(value: Any, example: int, batch: int) -> Any:
    """Return an example's part of a keyword."""
    whole = isinstance(value, Tensor) and value.ndim and len(value) == batch
    return value[example : example + 1] if whole else value


def loss_at(host: nn.Module, site: Site, gate: float, keywords: Mapping[str, Any], target: Tensor) -> float:
    """The loss with a gate at one site, by the definition; written without the code under test."""
    held: list[dict[str, Tensor]] = []
    names = [name for name, _ in site.port.streams] or [site.port.input]

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        held.append({name: args[i] if i < len(args) else kwargs[name] for i, name in enumerate(names)})

    def after(module: Any, given: Any, output: Any) -> Any:
        x, foreign = held.pop(), site.port.foreign
        if foreign:  # what the last map makes of others' features, and its bias, are not the site's
            rest = nn.functional.linear(given[0][..., :foreign], module.weight[:, :foreign], module.bias)
            return rest + gate * (output - rest)
        if not isinstance(output, tuple):
            return scaled(output, x[names[0]])
        streams = site.port.streams or ((names[0], site.port.output),)
        places = {index: name for name, index in streams if index is not None}
        return tuple(scaled(part, x[places[i]]) if i in places else part for i, part in enumerate(output))

    def scaled(y: Tensor, x: Tensor) -> Tensor:
        return x + gate * (y - x) if site.slot == "block" else gate * y

    handles = [
        host.get_submodule(site.paths[0]).register_forward_pre_hook(before, with_kwargs=True),
        host.get_submodule(site.paths[-1]).register_forward_hook(after),
    ]
    with torch.no_grad():
        found = float((first_tensor(host(**keywords)) - target).square().mean())
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["dit", "pixart", "sd3", "flux", "llama", "bert", "vit"])
def test_it_is_the_derivative(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{name}")
    host, structure = open_model(home(folder)).double(), structure_of(Located(folder))
    batch = 2
    keywords = {key: double(value) for key, value in family(name).example(host, batch=batch, seed=1).items()}
    sites = [s for s in structure.sites if s.role in ("attn", "cross_attn", "mlp", "block") and s.index == 1]
    before = {key: value.clone() for key, value in host.state_dict().items()}
    with torch.no_grad():
        one_answer = first_tensor(host(**keywords))[0]
    target = torch.arange(one_answer.numel()).double().cos().reshape(one_answer.shape)
    found = derivatives(host, sites, Squares(), keywords, target)
    assert {site.path for site in sites} == set(found)
    alone = {key: one(value, 1, batch) for key, value in keywords.items()}
    tolerance = TOLERANCE.get(name, 1e-7)
    for site in sites:
        losses = [loss_at(host, site, 1 + k * STEP, alone, target) for k in (-2, -1, 1, 2)]
        slope = (losses[0] - 8 * losses[1] + 8 * losses[2] - losses[3]) / (12 * STEP)  # error of order STEP^4
        assert float(found[site.path][1]) == pytest.approx(slope, rel=tolerance, abs=tolerance), site.path
    assert any(float(slope.abs().max()) > 1e-5 for slope in found.values())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in host.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in host.modules())
    assert all(torch.equal(value, before[key]) for key, value in host.state_dict().items())


class Block(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.mlp = nn.Linear(3, 3, bias=False)
        self.mlp.weight.data = weight * torch.eye(3)

    def forward(self, hidden_states: Tensor) -> Tensor:
        y: Tensor = hidden_states + self.mlp(hidden_states)
        return y


class Host(nn.Module):
    """x -> (1 + a) (1 + 0) (1 + c) x: the second block does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(0.5), Block(0.0), Block(-0.25)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


def by_hand() -> tuple[Host, Structure]:
    shape = SiteShape(3)
    sites = [
        Site(f"blocks.{i}{part}", slot, shape, Port(port), index=i)
        for i in range(3)
        for part, slot, port in (("", "block", "hidden_states"), (".mlp", "mlp", "input"))
    ]
    return Host(), Structure("unknown", "Host", "", {}, {"blocks": "blocks"}, tuple(sites))


def test_what_does_nothing_is_worth_nothing() -> None:
    """L = mean (1 + g a)^2 (1 + g c)^2 x^2 of each example, so dL/dg of the first is 2 a (1 + a) (1 + c)^2 x^2."""
    host, structure = by_hand()
    x = torch.tensor([[[1.0, 2.0, 2.0]], [[3.0, 0.0, 0.0]]])
    asked = parse_measures(["gate_sensitivity", "gate_sensitivity_squared"])
    found = measure(host, structure, Feed({"hidden_states": x}), asked, 4)  # type: ignore[arg-type]
    slopes = {0: 2 * 0.5 * 1.5 * 0.75**2 * 3.0, 1: 0.0, 2: 2 * 0.25 * 0.75 * 1.5**2 * 3.0}  # mean x^2 is 3 in both
    for index, slope in slopes.items():
        for path in (f"blocks.{index}", f"blocks.{index}.mlp"):
            assert found["gate_sensitivity"][path] == pytest.approx({"mean": slope, "error": 0}, abs=1e-6)
            assert found["gate_sensitivity_squared"][path]["mean"] == pytest.approx(slope**2, rel=1e-6)
    assert found["gate_sensitivity"]["blocks.1"]["mean"] == 0


def test_examples_do_not_cancel_one_another() -> None:
    """An objective that one example makes larger by what the other makes smaller has a slope of 0 and a sensitivity."""

    class Signed(Squares):
        def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
            return prediction.mean()

    host, structure = by_hand()
    x = torch.ones(2, 1, 3) * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
    feed: Any = Feed({"hidden_states": x}, Signed())
    found = measure(host, structure, feed, parse_measures(["gate_sensitivity"]), 2)
    assert found["gate_sensitivity"]["blocks.0"]["mean"] == pytest.approx(0.5 * 0.75)


def test_a_host_without_a_task_has_none(tiny_encoder: Path) -> None:
    host, structure = open_model(home(tiny_encoder)), structure_of(Located(tiny_encoder))
    feed: Any = Feed({}, Features())
    with pytest.raises(ArchspecError, match="AS716"):
        measure(host, structure, feed, parse_measures(["gate_sensitivity"]), 2)
    assert "gate_sensitivity" not in [a.name for a in usual(Features())]
    known = usual(Squares())
    assert "gate_sensitivity" in [a.name for a in known]
    assert (passes(known), passes(usual(Features())), passes(parse_measures(["gate_sensitivity"]))) == (2, 1, 1)


def test_a_file_of_it_ranks_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to what a spec edits."""
    host, out = DIGITS.absolute(), tmp_path / "digits.json"
    words = ("--data", "digits", "-m", "gate_sensitivity", "-n", "8", "--batch", "4", "-o", out)
    assert run(monkeypatch, "probe", host, *words) == 0
    figures = json.loads(out.read_text())["measures"]["gate_sensitivity"]
    blocks = {path: figure["mean"] for path, figure in figures.items() if path.count(".") == 1}
    assert len(blocks) == 6
    assert all(mean > 0 for mean in blocks.values())
    structure = with_probe(structure_of(Located(host / "transformer")), out.name, tmp_path)
    (chosen,) = select(parse_selector("bottom 1 of blocks by gate_sensitivity"), structure)
    assert chosen.path == min(blocks, key=lambda path: blocks[path])
