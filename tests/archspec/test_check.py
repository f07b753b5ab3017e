"""Checks and static figures: what tests/diagnostics cannot show (values, fakes, hosts of no family)."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archspec.diagnostics import Severity
from archspec.families import describe
from archspec.host.structure import Site, SiteShape, Structure, TensorHeader
from archspec.language.expectations import parse_expectation
from archspec.language.parse import parse
from archspec.language.partial import Partial
from archspec.quantity import quantity
from archspec.semantics.check import check, check_without_host
from archspec.semantics.check.facts import Figures, host_figures, result_figures
from archspec.semantics.lower import lower
from archspec.semantics.outcomes import MEASURED, PRICED, STATIC, evaluate_expectation
from archspec.semantics.resolve import ResolvedSpec, resolve
from archspec.source import Source

DIT: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 1,
    "out_channels": 1,
    "num_layers": 6,
    "sample_size": 8,
    "patch_size": 1,
    "num_embeds_ada_norm": 10,
}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


def resolved(edits: str, structure: Structure | None = None, rest: str = "") -> ResolvedSpec:
    text = f"name: x\nbase: ./host\nedits: [{edits}]\n{rest}"
    return resolve(parse(Source("spec.yaml", text)), structure or describe(DIT))


def codes(spec: ResolvedSpec) -> list[str]:
    return [d.code for d in check(spec)]


def after(edits: str, structure: Structure | None = None) -> Figures:
    spec = resolved(edits, structure)
    return result_figures(spec, lower(spec))


def with_headers(structure: Structure, dtype: str, size: int) -> Structure:
    """Return the structure with headers made of the shapes that its config calls for."""
    from archspec.families import expected_tensors

    shapes = expected_tensors(structure)
    assert shapes is not None
    tensors, at = {}, 0
    for name, shape in shapes.items():
        end = at + size * math.prod(shape)
        tensors[name] = TensorHeader(dtype, shape, "model.safetensors", at, end)
        at = end
    return replace(structure, tensors=tensors)


def test_host_figures_of_a_dit() -> None:
    structure = with_headers(describe(DIT), "F32", 4)
    figures = host_figures(structure)
    assert figures.depth == 6
    assert figures.params == sum(h.count for h in (structure.tensors or {}).values())
    assert figures.weights == 4 * (figures.params or 0)
    assert (figures.causal, figures.reach) == (False, math.inf)


def test_params_are_known_from_the_config_alone_and_weights_are_not() -> None:
    bare, full = host_figures(describe(DIT)), host_figures(with_headers(describe(DIT), "F32", 4))
    assert bare.params == full.params
    assert bare.weights is None


def test_an_mlp_of_ratio_three_saves_exactly_its_neurons() -> None:
    before = host_figures(describe(DIT)).params or 0
    saved = 6 * (2 * 64 * 64 + 64)  # 64 of 256 neurons: a row, a column and a bias each
    assert after('{replace: "blocks[*].mlp", with: {op: mlp, ratio: 3}}').params == before - saved


def test_new_tensors_have_the_data_type_of_their_site() -> None:
    half = with_headers(describe(DIT), "F16", 2)
    figures = after('{replace: "blocks[*].attn", with: hyena_x}', half)
    assert figures.weights == 2 * (figures.params or 0)


def test_shared_weights_count_once_and_copies_count_again() -> None:
    before = host_figures(describe(DIT)).params or 0
    attention = 4 * (64 * 64 + 64)
    assert after('{share: "blocks[0:3].attn"}').params == before - 2 * attention
    tied, copied = after('{repeat: "blocks[0]", tie: true}'), after('{repeat: "blocks[0]"}')
    assert tied.params == before
    assert (copied.params or 0) > before
    assert tied.depth == copied.depth == 7


@pytest.mark.parametrize(
    ("edits", "depth"),
    [
        ('{drop: "blocks[1]"}', 5),
        ('{parallelize: "blocks[0:4]", by: 2}', 4),
        ('{parallelize: "blocks[0:6]", by: 3}', 2),
        ('{repeat: "blocks[0:2]", times: 3}', 10),
        ('{drop: "blocks[0]"}, {parallelize: "blocks[0:3]", by: 2}', 4),
    ],
)
def test_depth(edits: str, depth: int) -> None:
    assert after(edits).depth == depth


@pytest.mark.parametrize(
    ("edits", "reach"),
    [
        ('{replace: "blocks[*].attn", with: {op: local_attention, window: 2}}', 12),
        ('{replace: "blocks[1:].attn", with: {op: local_attention, window: 2}}', math.inf),
        ('{replace: "blocks[*].attn", with: {op: local_attention, window: 2}}, {parallelize: "blocks", by: 2}', 6),
        ('{replace: "blocks[*].attn", with: {op: local_attention, window: 2}}, {repeat: "blocks[0]", times: 3}', 16),
        ('{replace: "blocks[*].attn", with: {op: local_attention, window: 2}}, {drop: "blocks[5]"}', 10),
        ('{replace: "blocks[*].attn", with: mlp}', 0),
        ('{replace: "blocks[0]", with: identity}, {replace: "blocks[1:].attn", with: mlp}', 0),
    ],
)
def test_reaches_add_up_in_sequence_and_the_widest_counts_side_by_side(edits: str, reach: float) -> None:
    assert after(edits).reach == reach


def test_causality_is_that_of_every_block() -> None:
    llama = describe(LLAMA)
    assert host_figures(llama).causal is True
    assert after('{replace: "blocks[*].attn", with: hyena_x}', llama).causal is True
    assert after('{replace: "blocks[*].attn", with: {op: hyena_x, causal: true}}').causal is True
    assert after('{replace: "blocks[0].attn", with: {op: hyena_x, causal: true}}').causal is False


def plain_host(**shapes: tuple[int, ...]) -> Structure:
    """Return a host of no known family: two blocks with one module each."""
    names = {"h.0.mix.weight": (8, 8), "h.0.norm.weight": (8,), "h.1.mix.weight": (8, 8), "h.1.norm.weight": (8,)}
    tensors = {n: TensorHeader("F32", shapes.get(n, s), "m", 0, 4 * math.prod(s)) for n, s in names.items()}
    sites = tuple(
        site
        for i in range(2)
        for site in (
            Site(f"h.{i}", "block", SiteShape(8), index=i),
            Site(f"h.{i}.mix", "module", SiteShape(0), index=i),
            Site(f"h.{i}.norm", "module", SiteShape(0), index=i),
        )
    )
    return Structure("unknown", "Plain", "transformers", {}, {"blocks": "h"}, sites, tensors)


def test_sites_of_unknown_shape_are_left_to_the_compiler() -> None:
    spec = resolved("{replace: '\"h.*.mix\"', with: {op: attention, heads: 7}}", plain_host())
    assert codes(spec) == []


def test_sharing_compares_tensors_where_shapes_are_unknown() -> None:
    alike = resolved("{share: '\"h.*.mix\"'}", plain_host())
    assert codes(alike) == []
    unlike = resolved("{share: '\"h.*.mix\"'}", plain_host(**{"h.1.mix.weight": (8, 4)}))
    (found,) = check(unlike)
    assert (found.code, "their tensors differ" in found.message) == ("AS257", True)
    mixed = resolved("{share: '\"h.0.*\"'}", plain_host())
    assert codes(mixed) == ["AS257"]


def test_sharing_compares_widths() -> None:
    host = describe(DIT)
    narrow = tuple(
        replace(s, shape=replace(s.shape, width=32)) if s.path.startswith("transformer_blocks.1") else s
        for s in host.sites
    )
    (found,) = check(resolved('{share: "blocks[0:3].attn"}', replace(host, sites=narrow)))
    assert found.message == "blocks[1].attn cannot share with blocks[0].attn: its width is 32, not 64"


@pytest.mark.parametrize(
    "edits",
    [
        '{replace: "blocks[*].attn", with: hyena_x}, {share: "blocks[0:3].attn"}',
        '{replace: "blocks[0:2].attn", with: hyena_x}, {share: "blocks[0:2]"}',
        '{replace: "blocks[3]", with: identity}, {drop: "blocks[1]"}, {repeat: "blocks[2]"}',
        '{drop: "blocks[1]"}, {parallelize: "blocks[0:3]", by: 2}',
        '{parallelize: "blocks[0:2]", by: 2}, {replace: "blocks[0:2].attn", with: hyena_x}',
    ],
)
def test_edits_that_agree_are_fine(edits: str) -> None:
    assert codes(resolved(edits)) == []


def test_a_block_whose_part_the_host_reads_from_outside_stays() -> None:
    assert codes(resolved('{drop: "blocks[0:2]"}')) == ["AS503"]
    assert codes(resolved('{replace: "blocks[0]", with: identity}')) == ["AS503"]
    assert codes(resolved('{drop: "blocks[0]"}', describe(LLAMA))) == []


def test_a_spec_without_edits_is_fine() -> None:
    assert codes(resolved("")) == []


def test_defaults_never_warn() -> None:
    rest = "data: digits\ndistill: {}\nfinetune: {}\neval: {}\n"
    assert codes(resolved('{replace: "blocks[0].attn", with: hyena_x}', rest=rest)) == []
    assert codes(resolved('{replace: "blocks[0].attn", with: hyena_x}', describe(LLAMA), rest)) == []


def test_fitted_settings_are_read_by_least_squares() -> None:
    edits = '{replace: "blocks[0].attn", with: hyena_x, init: {kind: least_squares, ridge: 0.1, samples: 8}}'
    assert codes(resolved(edits, rest="data: digits")) == []


def test_paths_start_at_the_folder_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "classifier").mkdir()
    for name, wanted in (("./classifier", []), ("./other", ["AS325"]), ("some/hub-id", []), (str(tmp_path), [])):
        text = f"name: x\nbase: ./host\ndata: digits\neval: {{classifier: {name}}}\n"
        spec = parse(Source(str(tmp_path / "spec.yaml"), text))
        assert codes(resolve(spec, describe(DIT))) == wanted


def test_without_a_host_the_spec_itself_is_checked() -> None:
    text = 'name: x\nbase: a/b\nedits: [{drop: "blocks[0]"}]\nfinetune: {steps: 10, warmup: 10}\n'
    found = [(d.code, d.severity) for d in check_without_host(Partial(parse(Source("s.yaml", text))))]
    assert found == [("AS320", Severity.ERROR), ("AS323", Severity.WARNING)]


def test_an_expectation_that_holds_says_nothing() -> None:
    spec = resolved('{drop: "blocks[3]"}', rest="expect: [depth == 5, params < 1x, 'not causal', reach == all]")
    assert codes(spec) == []


def test_what_only_a_run_can_tell_is_left_to_later_stages() -> None:
    spec = resolved('{drop: "blocks[3]"}', rest="expect: [flops(tokens=64) <= 1, activations <= 1B, weights <= 1B]")
    assert codes(spec) == []


def test_evaluate_expectation() -> None:
    broken = evaluate_expectation(parse_expectation("params <= 0.9x"), 1_000_000, 950_000)
    assert not broken.holds
    assert broken.diagnostic().code == "AS330"
    assert "it is 950k, and 0.9x of the base's 1M is 900k" in broken.diagnostic().message
    assert evaluate_expectation(parse_expectation("fd <= 8"), None, 7.5).holds
    with pytest.raises(ValueError, match="base"):
        evaluate_expectation(parse_expectation("fd <= 1.1x"), None, 7.5)


def test_every_metric_is_known_at_one_stage() -> None:
    from archspec.language.expectations import METRICS

    assert set(METRICS) == STATIC | PRICED | MEASURED
    assert not STATIC & PRICED
    assert not (STATIC | PRICED) & MEASURED


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "count", "0"),
        (999, "count", "999"),
        (1500, "count", "1.50k"),
        (2 * 2**40, "bytes", "2.00TiB"),
        (0.985, "fraction", "98.5%"),
        (0.0125, "seconds", "12.5ms"),
        (True, "flag", "true"),
        (12, "tokens", "12"),
    ],
)
def test_quantities_read_well(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text
