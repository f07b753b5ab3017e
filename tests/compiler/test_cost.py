"""Prices against formulas by hand, at the size of DiT-XL/2 (no weights are made)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from archspec.compiler.capture.model import build_structure
from archspec.compiler.pricing.cost import CostReport, price
from archspec.compiler.pricing.meter import measure
from archspec.compiler.proof.prove import lowered_model
from archspec.diagnostics import ArchspecError
from archspec.families import describe
from archspec.language.expectations import parse_expectation
from archspec.language.parse import parse
from archspec.runtime.families import family
from archspec.semantics.lower import lower
from archspec.semantics.outcomes import evaluate_expectation
from archspec.semantics.resolve import resolve
from archspec.source import Source

D, L, N = 1152, 28, 256
XL = {"_class_name": "DiTTransformer2DModel", "num_layers": L, "out_channels": 8}
Compiler = Callable[..., Any]


def _price(config: dict[str, Any], *edits: str, tokens: int | None = None) -> CostReport:
    text = "archspec: 1\nname: x\nbase: a/b\nedits:\n" + "".join(f"  - {edit}\n" for edit in edits)
    resolved = resolve(parse(Source("spec.yaml", text)), describe(config))
    return price(resolved, lower(resolved), tokens)


@pytest.fixture(scope="module")
def half_hyena() -> CostReport:
    return _price(XL, "{replace: 'blocks[1::2].attn', with: {op: hyena_x}}")


def _site(report: CostReport, name: str) -> Any:
    return next(site for site in report.sites if site.name == name)


def test_parameters(half_hyena: CostReport) -> None:
    assert half_hyena.host.params == 749_826_464
    assert _site(half_hyena, "blocks[3].attn").host.params == 4 * D * D + 4 * D == 5_313_024
    assert _site(half_hyena, "blocks[3].attn").result.params == 4 * D * D + 4 * D + 15 * D
    assert half_hyena.result.params == 749_826_464 + 14 * 15 * D
    assert half_hyena.host.weights == 4 * 749_826_464


def test_flops_at_256_tokens(half_hyena: CostReport) -> None:
    """reference: MHA 8 N D^2 + 4 N^2 D, MLP 16 N D^2; Hyena-X projections 8 N D^2 and a featurizer of 24 N D."""
    attn, mlp = _site(half_hyena, "blocks[3].attn"), _site(half_hyena, "blocks[3].mlp")
    assert attn.host.flops == 8 * N * D * D + 4 * N * N * D
    assert attn.host.mixing == 4 * N * N * D
    assert mlp.host.flops == mlp.result.flops == 16 * N * D * D
    assert attn.result.mixing == 0
    assert attn.result.flops == 8 * N * D * D + 24 * N * D
    assert attn.operator == "hyena_x"
    assert _site(half_hyena, "blocks[2].attn").operator is None
    assert half_hyena.tokens == N


@pytest.mark.parametrize(
    ("call", "more_params", "convolutions", "published"),
    [("hyena_x", 15, 24, 24 + 2), ("hyena_se", 20, 24 + 8, 24 + 10), ("hyena_y", 5, 8, 10)],
)
def test_gated_convolutions(call: str, more_params: int, convolutions: int, published: int) -> None:
    """2506.05340: projections 8 N D², featurizer 24 N D, inner convolution 8 N D: as here. The paper counts the two
    products of the gates too, 2 N D; element-wise work is not counted here, of no operator."""
    report = _price(XL, f"{{replace: 'blocks[1].attn', with: {call}}}")
    result, host = _site(report, "blocks[1].attn").result, _site(report, "blocks[1].attn").host
    assert result.params - host.params == more_params * D
    assert result.flops == 8 * N * D * D + convolutions * N * D
    assert published - convolutions == 2


def test_gated_mlp() -> None:
    """2506.05340, r = 2: 16 N D² as MLP r = 4. The table then counts the gates, 4 N D, and not the convolution, which
    is 2 · 4 · N · 6 D: we count it, and not the gates."""
    report = _price(XL, "{replace: 'blocks[1].mlp', with: hyena_mlp}")
    result, host = _site(report, "blocks[1].mlp").result, _site(report, "blocks[1].mlp").host
    assert result.params == 8 * D * D + 7 * D + 5 * N
    assert result.params - host.params == 2 * D + 5 * N
    assert result.flops == 16 * N * D * D + 48 * N * D
    with pytest.raises(ArchspecError) as error:
        report.at(1024)
    assert error.value.diagnostics[0].code == "AS350"
    shared = _price(XL, "{replace: 'blocks[1].mlp', with: {op: hyena_mlp, channels: shared}}", tokens=1024)
    assert _site(shared, "blocks[1].mlp").result.flops == 4 * result.flops


def test_what_a_mixer_can_save_is_said_of_slot_and_model(half_hyena: CostReport) -> None:
    """At 256 tokens the attention kernel is 3.6 % of attention and MLP: half of it is 1.8 % of them."""
    assert half_hyena.mixing_share == pytest.approx(N / (N + 6 * D), rel=1e-12)
    assert round(100 * half_hyena.mixing_share, 1) == 3.6
    (edit,) = half_hyena.edits
    change = 24 * N * D - 4 * N * N * D
    attention = 8 * N * D * D + 4 * N * N * D
    assert edit.sites_flops == pytest.approx(change / attention, rel=1e-12)
    assert edit.slot_flops == pytest.approx(change / attention / 2, rel=1e-12)
    assert edit.model_flops == pytest.approx(14 * change / half_hyena.host.flops, rel=1e-12)
    assert -0.018 < edit.model_flops < -0.017


@pytest.mark.parametrize(("tokens", "share"), [(1024, 0.129), (4096, 0.372)])
def test_share_at_other_lengths(half_hyena: CostReport, tokens: int, share: float) -> None:
    report = half_hyena.at(tokens)
    assert report.tokens == tokens
    assert report.mixing_share == pytest.approx(tokens / (tokens + 6 * D), rel=1e-12)
    assert report.mixing_share == pytest.approx(share, abs=5e-4)


def test_mlp_ratio_3_saves_a_quarter_of_the_mlps() -> None:
    report = _price(XL, "{replace: blocks.mlp, with: {op: mlp, ratio: 3}}")
    (edit,) = report.edits
    assert edit.sites_flops == edit.slot_flops == -0.25
    assert edit.model_flops == pytest.approx(-0.16, abs=0.005)


def test_merges_are_charged_to_their_edit() -> None:
    report = _price(XL, "{parallelize: blocks, by: 2}")
    (edit,) = report.edits
    merge = 2 * D * D + D
    assert report.result.params - report.host.params == 14 * merge
    assert edit.model_params == pytest.approx(14 * merge / report.host.params, rel=1e-12)
    assert report.result.flops - report.host.flops == 14 * 2 * N * 2 * D * D
    assert edit.model_flops == pytest.approx(14 * 4 * N * D * D / report.host.flops, rel=1e-12)


def test_ties_cost_time_and_no_weights() -> None:
    report = _price(XL, "{repeat: 'blocks[1:3]', times: 3, tie: true}")
    (edit,) = report.edits
    assert report.result.params == report.host.params
    assert edit.sites_flops == 2.0
    assert edit.sites_params == 0.0
    block = _site(report, "blocks[1]")
    assert block.result.flops == 3 * block.host.flops
    assert report.result.flops == report.host.flops + 4 * block.host.flops


def test_shared_and_dropped_sites() -> None:
    report = _price(XL, "share: blocks[1:3].mlp", "drop: 'blocks[4]'")
    assert report.result.flops == report.host.flops - _site(report, "blocks[4]").host.flops
    assert _site(report, "blocks[4]").result is None
    assert _site(report, "blocks[2].mlp").result.flops == 16 * N * D * D
    assert report.edits[1].sites_flops == -1.0


def test_changes_of_edits_add_up_to_that_of_the_model() -> None:
    report = _price(
        XL,
        "{replace: blocks.mlp, with: {op: mlp, ratio: 3}}",
        "{replace: 'blocks[1::2].attn', with: {op: hyena_x}}",
        "{parallelize: 'blocks[0:4]', by: 2}",
        "{repeat: 'blocks[5]', times: 3}",
        "drop: 'blocks[6]'",
        "freeze: blocks[7]",
    )
    assert sum(edit.model_flops for edit in report.edits) == pytest.approx(
        report.result.flops / report.host.flops - 1, rel=1e-9
    )
    assert sum(edit.model_params for edit in report.edits) == pytest.approx(
        report.result.params / report.host.params - 1, rel=1e-9
    )
    assert report.edits[2].model_flops == pytest.approx(2 * 4 * N * D * D / report.host.flops, rel=1e-9)
    assert report.edits[5].model_flops == 0


def test_expectations(half_hyena: CostReport) -> None:
    def holds(text: str) -> bool:
        expectation = parse_expectation(text)
        return evaluate_expectation(expectation, *half_hyena.value(expectation.metric, expectation.args)).holds

    assert holds("flops(tokens=256) <= 0.983x")
    assert not holds("flops(tokens=256) <= 0.98x")
    assert holds("flops(tokens=1024) < 1000G")
    assert holds("activations(tokens=256) <= 16MiB")
    assert not holds("activations(tokens=1024) <= 16MiB")


def test_examples(half_hyena: CostReport) -> None:
    """FLOPs are those of all examples; parameters are the same."""
    for metric, times in (("flops", 4), ("params", 1), ("weights", 1)):
        host, result = half_hyena.value(metric)
        assert half_hyena.value(metric, {"batch": 4}) == (times * host, times * result), metric
    assert half_hyena.value("activations", {"batch": 4}) > half_hyena.value("activations")
    assert half_hyena.value("flops", {"batch": 2, "tokens": 1024}) == half_hyena.at(1024, 2).value("flops")


def test_impossible_numbers_of_tokens(half_hyena: CostReport) -> None:
    with pytest.raises(ArchspecError) as error:
        half_hyena.at(300)
    assert error.value.diagnostics[0].code == "AS403"


def test_json_is_plain_and_complete(half_hyena: CostReport) -> None:
    import json

    data = json.loads(json.dumps(half_hyena.to_json()))
    assert data["host"]["params"] == 749_826_464
    assert len(data["sites"]) == 3 * L
    assert half_hyena.totals()["flops"] == {"host": half_hyena.host.flops, "result": half_hyena.result.flops}
    prices = half_hyena.prices()
    assert prices.sites["transformer_blocks.1.attn1"] == 8 * N * D * D + 24 * N * D


class _Chain(nn.Module):
    """x: 40 bytes -> 400 -> 400 -> 40; the first is released when the third is made."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 10))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.parts(x)
        return y + 1


def test_activations_are_what_lives_at_once() -> None:
    found = measure(_Chain(), {"x": torch.zeros(1, 10)})
    assert found.at("").peak == 800
    assert found.at("parts.1").peak == 400
    assert found.at("").flops == 2 * (10 * 100 + 100 * 10)
    assert found.at("nothing").flops == 0


def test_alike_blocks_are_charged_alike(tiny_llama: Path, compiler: Compiler) -> None:
    done = compiler(tiny_llama, "freeze: blocks[0]")
    report = price(done.resolved, done.program)
    blocks = [site.host for site in report.sites if site.slot == "block"]
    assert len(set(blocks)) == 1
    assert report.host == report.result
    assert report.host.flops > sum(block.flops for block in blocks)


@pytest.mark.parametrize("name", ["sd3", "flux", "gpt2"])
def test_unusual_blocks_cost_what_torch_counts(name: str, compiler: Compiler, request: pytest.FixtureRequest) -> None:
    """Two streams, fused maps: host and result, whole and site by site, against the counter of torch on a real run."""
    folder = request.getfixturevalue(f"tiny_{name}")
    last = "single_blocks[2:4]" if name == "flux" else "blocks[2:4]"
    slot = "mlp" if name == "gpt2" else "context_mlp"
    edits = [f"{{parallelize: '{last}', by: 2}}", f"{{replace: 'blocks[0].{slot}', with: {{op: mlp, ratio: 2}}}}"]
    if name == "flux":
        edits += ["{replace: 'single_blocks[0:2].mlp', with: {op: mlp, ratio: 3}}"]
    done = compiler(folder, *edits)
    report = price(done.resolved, done.program, 16)
    host = build_structure(done.resolved.structure, "cpu")
    counted = _counted(host, name)
    assert report.host.flops == counted[""]
    for site in report.sites:
        single = site.path.endswith("proj_mlp")  # with those columns of the block's last map that read its neurons
        own = counted[site.path.replace("proj_mlp", "proj_out")] * 4 / 5 if single else 0
        assert site.host.flops == counted.get(site.path, 0) + own, site.path
    assert report.result.flops == _counted(lowered_model(done.resolved, done.program, "cpu"), name)[""]
    assert report.host.params == sum(p.numel() for p in host.parameters())
    assert {s.slot for s in report.sites if s.host.mixing} >= {"block", "attn"}


def _counted(model: Any, name: str) -> dict[str, int]:
    """Return module path -> FLOPs of a run, attention on the CPU's kernel of mathematics."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(**family(name).example(model, tokens=16))
    head = type(model).__name__
    found = {p.removeprefix(f"{head}."): sum(c.values()) for p, c in counter.get_flop_counts().items()}
    return found | {"": counter.get_total_flops()}


@pytest.mark.parametrize("tokens", [256, 1024])
def test_mixers_linear_in_tokens(tokens: int) -> None:
    """Mamba-2 as published (E = 2, d_s = 64): 2506.05340 counts 2 N (E D) d_s, and a scan in chunks of Q = 32 makes two
    products of that size (into the state and out of it; the first chunk reads none) and those within a chunk. Linear
    attention: a state of features x (values + 1) per head, written and read."""
    report = _price(
        XL,
        "{replace: 'blocks[0].attn', with: mamba2}",
        "{replace: 'blocks[1].attn', with: {op: linear_attention, feature: relu2, conv: 3, layout: grid, gate: true}}",
        tokens=tokens,
    )
    mamba, linear = (_site(report, f"blocks[{i}].attn").result for i in (0, 1))
    inner, state, chunk = 2 * D, 64, 32
    assert mamba.params == 8_290_864
    maps = 2 * tokens * (D * (2 * inner + 2 * state + inner // 16) + inner * D + 4 * (inner + 2 * state))
    published = 2 * tokens * inner * state
    assert mamba.flops == maps + 2 * published - 2 * chunk * inner * state + 2 * tokens * chunk * (inner + state)
    assert linear.flops == 10 * tokens * D * D + 2 * 2 * tokens * (2 * D) * 73 + 2 * tokens * D * 9
    assert mamba.mixing == linear.mixing == 0


def test_activations_of_the_scan_grow_with_the_tokens_alone() -> None:
    """No tensor of tokens x tokens, and of chunk x chunk those of one chunk at a time."""
    edit = "{replace: 'blocks[*].attn', with: mamba2}"
    few, many = (_site(_price(XL, edit, tokens=n), "blocks[3].attn").result.activations for n in (1024, 4096))
    assert many < 4 * few
