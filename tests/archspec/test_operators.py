from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import archspec.operators
from archspec.host.structure import SiteShape
from archspec.language.fields import declared
from archspec.operators import OPERATORS, restore, signature

DIT = SiteShape(width=48, tokens=16, grid=(4, 4), heads=4, kv_heads=4, head_dim=12)
DIT_MLP = SiteShape(width=48, tokens=16, grid=(4, 4), hidden=192, activation="gelu_pytorch_tanh")
LLAMA = SiteShape(width=32, heads=4, kv_heads=2, head_dim=8, causal=True, rotary=True, bias=False, out_bias=False)
QWEN3 = replace(LLAMA, qk_norm=True)
LLAMA_MLP = SiteShape(width=32, causal=True, hidden=86, activation="silu", gated=True, bias=False, out_bias=False)
XL = SiteShape(width=1152, tokens=256, grid=(16, 16), heads=16, kv_heads=16, head_dim=72)
XL_MLP = SiteShape(width=1152, tokens=256, grid=(16, 16), hidden=4608, activation="gelu_pytorch_tanh")
UNKNOWN = SiteShape(width=48)
NEEDED: dict[str, dict[str, Any]] = {"local_attention": {"window": 2}, "low_rank": {"rank": 4}, "moe": {"experts": 2}}
AT_ANY_LENGTH: dict[str, dict[str, Any]] = {"hyena_mlp": {"channels": "shared"}}

OF_DIT: dict[str, Any] = {"groups": 4, "head_dim": 12, "state": 12, "expand": 1, "bias": True, "out_bias": True}
"""Mamba-2 with the heads of DIT."""


def make(name: str, site: SiteShape, **params: Any) -> Any:
    needed = NEEDED.get(name, {}) | ({} if site.tokens else AT_ANY_LENGTH.get(name, {}))
    return signature(name)(**{**needed, **params}).complete(site)


def complaints(name: str, site: SiteShape, **params: Any) -> list[tuple[str | None, str]]:
    found = list(make(name, site, **params).problems(site))
    assert all(p.hint for p in found), "every problem says what to write"
    return [(p.field, p.message) for p in found]


def test_table_and_files_agree() -> None:
    folder = Path(archspec.operators.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "gated", "heads"}
    assert files == set(OPERATORS)
    assert list(OPERATORS) == sorted(OPERATORS)
    for name in OPERATORS:
        found = signature(name)
        assert found.name == name
        assert found.__module__ == f"archspec.operators.{name}"
        assert found.source
        assert found.slots
        assert found.inits
        assert all(field.metadata["doc"] for field in declared(found))


def test_signatures_do_not_import_torch() -> None:
    code = (
        "import sys; from archspec.operators import OPERATORS, signature\n"
        "for name in OPERATORS: signature(name)\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("site", [DIT, DIT_MLP, LLAMA, LLAMA_MLP], ids=["dit", "dit_mlp", "llama", "llama_mlp"])
def test_completion_leaves_nothing_open_and_is_idempotent(name: str, site: SiteShape) -> None:
    slot = "mlp" if site.hidden else "attn"
    if slot not in signature(name).slots:
        return
    config = make(name, site)
    assert complaints(name, site) == []
    assert None not in config.settings().values()
    assert config.complete(site) == config
    assert restore(name, config.settings()) == config
    assert config.default_init(site) in config.inits


def test_parameter_counts_are_those_of_the_paper() -> None:
    """2506.05340: attention 5,313,024; Hyena-X +0.33 %, SE +0.43 %, Y +0.11 %; MLP r=4, r=3 and Hyena-X of DiT-XL/2."""

    def count(name: str, site: SiteShape, **params: Any) -> int:
        shapes = make(name, site, **params).tensors(site).values()
        total = 0
        for shape in shapes:
            size = 1
            for n in shape:
                size *= n
            total += size
        return total

    assert count("attention", XL) == 5_313_024
    assert count("hyena_x", XL, kernel=4) == 5_313_024 + 15 * 1152
    assert count("hyena_se", XL) == 5_313_024 + 20 * 1152
    assert count("hyena_y", XL) == 5_313_024 + 5 * 1152
    assert count("hyena_mlp", XL_MLP) == 8 * 1152**2 + 7 * 1152 + 5 * 256
    assert count("hyena_mlp", XL_MLP, channels="shared") == 8 * 1152**2 + 7 * 1152 + 5
    assert count("mlp", XL_MLP) == 8 * 1152**2 + 5 * 1152
    assert count("mlp", XL_MLP, ratio=3) == 6 * 1152**2 + 4 * 1152
    assert count("local_attention", XL, window=4) == 5_313_024
    assert count("moe", XL_MLP, experts=16) == count("mlp", XL_MLP) + 16 * 1153
    assert count("mix_ffn", XL_MLP) == count("mlp", XL_MLP) + 10 * 4608
    assert count("mamba2", XL) == 8_290_864
    assert count("identity", XL) == count("zero", XL) == 0


@pytest.mark.parametrize(
    ("name", "site", "params", "field", "message"),
    [
        ("attention", UNKNOWN, {}, "heads", "the number of heads of this site is not known"),
        ("moe", DIT_MLP, {"experts": 5}, "experts", "5 experts do not divide the inner width 192"),
        ("moe", DIT_MLP, {"top_k": 3}, "top_k", "top_k is 3 and there are 2 experts"),
        ("mix_ffn", LLAMA_MLP, {"layout": "grid"}, "layout", "the tokens of this site form no 2-D grid"),
        ("mix_ffn", DIT_MLP, {"layout": "grid", "causal": True}, "layout", "a 2-D kernel is not causal"),
        ("mix_ffn", LLAMA_MLP, {"causal": False}, "causal", "the host is causal and this operator"),
        ("attention", DIT, {"heads": 5}, "heads", "5 heads do not divide the width 48"),
        ("attention", DIT, {"heads": 96}, "heads", "96 heads leave no feature of 48"),
        ("attention", DIT, {"kv_heads": 3}, "kv_heads", "3 key/value heads do not divide 4 heads"),
        ("attention", DIT, {"heads": 0}, "heads", "heads is 0"),
        (
            "attention",
            LLAMA,
            {"causal": False},
            "causal",
            "the host is causal and this operator would see later tokens",
        ),
        ("attention", DIT, {"rotary": True}, "rotary", "the host gives this site no rotary embeddings"),
        ("attention", LLAMA, {"heads": 8}, "head_dim", "the host's rotary embeddings are 8 wide"),
        ("local_attention", DIT, {"window": 0}, "window", "window is 0"),
        ("local_attention", DIT, {"window": -3}, "window", "window is -3"),
        ("local_attention", LLAMA, {"layout": "grid"}, "layout", "the tokens of this site form no 2-D grid"),
        ("local_attention", DIT, {"layout": "grid", "causal": True}, "layout", "a 2-D window is not causal"),
        ("linear_attention", LLAMA, {"causal": False}, "causal", "the host is causal and this operator would see"),
        ("linear_attention", DIT, {"decay": True}, "decay", "a decay is of what came before"),
        ("linear_attention", DIT, {"layout": "grid"}, "layout", "the layout is that of the convolution"),
        (
            "linear_attention",
            LLAMA,
            {"layout": "grid", "conv": 3},
            "layout",
            "the tokens of this site form no 2-D grid",
        ),
        (
            "linear_attention",
            DIT,
            {"layout": "grid", "conv": 3, "causal": True},
            "layout",
            "a 2-D kernel is not causal",
        ),
        ("linear_attention", DIT, {"eps": 0}, "eps", "eps is 0"),
        ("linear_attention", DIT, {"conv": 129}, "conv", "conv is 129"),
        ("mamba2", DIT, {"head_dim": 36}, "head_dim", "head_dim 36 does not divide the inner width 96"),
        ("mamba2", DIT, {"groups": 4}, "groups", "4 groups do not divide 6 heads"),
        ("mamba2", DIT, {"expand": 1.01}, "expand", "expand 1.01 of width 48 is no whole number of channels"),
        ("mamba2", DIT, {"expand": -1}, "expand", "expand -1 of width 48 is no whole number of channels"),
        ("mamba2", DIT, {"state": 0}, "state", "state is 0"),
        ("mamba2", DIT, {"chunk": 0}, "chunk", "chunk is 0"),
        ("mamba2", LLAMA, {"causal": False}, "causal", "the host is causal and this operator would see later tokens"),
        ("hyena_x", DIT, {"kernel": 0}, "kernel", "kernel is 0"),
        ("hyena_x", DIT, {"kernel": 129}, "kernel", "kernel is 129"),
        ("hyena_x", LLAMA, {"causal": False}, "causal", "the host is causal and this operator would see later tokens"),
        ("hyena_x", LLAMA, {"layout": "grid"}, "layout", "the tokens of this site form no 2-D grid"),
        ("hyena_x", DIT, {"layout": "grid", "causal": True}, "causal", "a 2-D kernel is not causal"),
        ("hyena_se", DIT, {"inner_kernel": 0}, "inner_kernel", "inner_kernel is 0"),
        ("hyena_se", LLAMA, {"causal": False, "kernel": 1}, "causal", "the host is causal and this operator would see"),
        ("hyena_y", DIT, {"layout": "grid", "causal": True}, "causal", "a 2-D kernel is not causal"),
        ("hyena_y", LLAMA, {"layout": "grid"}, "layout", "the tokens of this site form no 2-D grid"),
        (
            "hyena_mlp",
            LLAMA_MLP,
            {"channels": "tokens"},
            "channels",
            "its weights hold the number of tokens, and this site takes any number",
        ),
        ("hyena_mlp", DIT_MLP, {"ratio": 1e6}, "ratio", "an inner width of 48000000 is more than 1048576"),
        ("mlp", DIT_MLP, {"ratio": 1e6}, "ratio", "an inner width of 48000000 is more than 1048576"),
        ("hyena_mlp", DIT_MLP, {"ratio": 3, "hidden": 5}, "ratio", "ratio 3 of width 48 is not an inner width of 5"),
        ("hyena_mlp", DIT_MLP, {"kernel": 0}, "kernel", "kernel is 0"),
        ("mlp", DIT_MLP, {"ratio": 0.001}, "ratio", "ratio 0.001 of width 48 is not an inner width of 192"),
        ("mlp", DIT_MLP, {"ratio": 3, "hidden": 5}, "ratio", "ratio 3 of width 48 is not an inner width of 5"),
        ("mlp", DIT_MLP, {"ratio": -1}, "ratio", "ratio -1 of width 48 is not an inner width of -48"),
        ("mlp", DIT_MLP, {"activation": "geluu"}, "activation", "unknown activation 'geluu'"),
        ("low_rank", DIT, {"rank": 0}, "rank", "rank is 0"),
        ("low_rank", DIT, {"rank": 49}, "rank", "rank 49 is more than the width 48"),
        ("low_rank", UNKNOWN, {}, None, "neither the heads nor the inner width of this site are known"),
    ],
)
def test_problems(name: str, site: SiteShape, params: dict[str, Any], field: str | None, message: str) -> None:
    found = complaints(name, site, **params)
    assert any(f == field and m.startswith(message) for f, m in found), found


def test_hints_name_the_right_word() -> None:
    (problem,) = make("mlp", DIT_MLP, activation="geluu").problems(DIT_MLP)
    assert problem.hint == "did you mean 'gelu'?"


def test_causal_operators_fit_bidirectional_hosts() -> None:
    for name in ("attention", "local_attention", "linear_attention", "hyena_x", "hyena_se", "hyena_y", "mamba2"):
        assert complaints(name, DIT, causal=True) == []
        assert make(name, DIT, causal=True).facts(DIT).causal


def test_a_short_same_kernel_that_looks_back_only_is_causal() -> None:
    assert complaints("hyena_x", LLAMA, causal=False, kernel=2) == []
    assert complaints("hyena_x", LLAMA, causal=False, kernel=3) != []
    assert complaints("hyena_se", LLAMA, causal=False, kernel=2, inner_kernel=2) == []
    assert complaints("hyena_se", LLAMA, causal=False, kernel=2, inner_kernel=3) != []


def test_receptive_fields_are_those_of_the_paper() -> None:
    """2506.05340, kernels of 4: i-6 ... i of Hyena-SE, i-3 ... i of Hyena-X and Hyena-Y."""
    for name, before in (("hyena_se", 6), ("hyena_x", 3), ("hyena_y", 3)):
        facts = make(name, XL).facts(XL)
        assert (facts.causal, facts.reach, make(name, XL).reach) == (True, before, (before, 0))
    grid = make("hyena_se", XL, layout="grid", kernel=3, inner_kernel=5).facts(XL)
    assert grid.reach == 3 * 16 + 3
    assert make("hyena_se", DIT, kernel=9, inner_kernel=8).facts(DIT).reach is None
    for channels in ("tokens", "shared"):
        facts = make("hyena_mlp", XL_MLP, channels=channels).facts(XL_MLP)
        assert (facts.causal, facts.reach, facts.token_bound) == (True, 0, channels == "tokens")


@pytest.mark.parametrize(
    ("name", "site", "params", "field"),
    [
        ("attention", DIT, {"heads": 6}, "heads"),
        ("attention", DIT, {"head_dim": 10}, "head_dim"),
        ("attention", LLAMA, {"heads": 6, "kv_heads": 3, "head_dim": 8}, "heads"),
        ("attention", SiteShape(width=48, heads=6, kv_heads=2, head_dim=8), {"kv_heads": 3}, "kv_heads"),
        ("attention", DIT, {"bias": False}, "bias"),
        ("attention", DIT, {"out_bias": False}, "out_bias"),
        ("attention", QWEN3, {"qk_norm": False}, "qk_norm"),
        ("hyena_x", DIT, {"inner": 24}, "inner"),
        ("hyena_x", DIT, {"bias": False}, "bias"),
        ("mamba2", DIT, OF_DIT | {"groups": 2}, "groups"),
        ("mamba2", DIT, OF_DIT | {"state": 16}, "state"),
        ("mamba2", DIT, OF_DIT | {"expand": 2}, "expand"),
        ("mamba2", DIT, OF_DIT | {"bias": False}, "bias"),
        ("mamba2", DIT, OF_DIT | {"out_bias": False}, "out_bias"),
        ("mamba2", UNKNOWN, {}, None),
        ("hyena_se", DIT, {"out_bias": False}, "out_bias"),
        ("hyena_y", DIT, {"bias": False}, "bias"),
        ("hyena_y", LLAMA, {"bias": False}, "bias"),
        ("mlp", LLAMA_MLP, {"gated": False}, "gated"),
        ("mlp", DIT_MLP, {"activation": "relu"}, "activation"),
        ("mlp", DIT, {}, None),
    ],
)
def test_obstacles_to_inheritance(name: str, site: SiteShape, params: dict[str, Any], field: str | None) -> None:
    config = make(name, site, **params)
    assert list(config.problems(site)) == []
    assert [p.field for p in config.obstacles(site)] == [field]
    assert config.default_init(site) != "inherit"


def test_no_obstacles_where_the_teacher_fits() -> None:
    fits: list[tuple[str, SiteShape, dict[str, Any]]] = [
        ("attention", LLAMA, {}),
        ("attention", QWEN3, {}),
        ("attention", LLAMA, {"qk_norm": True}),
        ("attention", LLAMA, {"kv_heads": 4}),
        ("attention", LLAMA, {"kv_heads": 1}),
        ("attention", LLAMA, {"bias": True, "out_bias": True}),
        ("local_attention", DIT, {"window": 4}),
        ("hyena_x", LLAMA, {}),
        ("mamba2", DIT, OF_DIT),
        ("mamba2", LLAMA, {"groups": 4, "head_dim": 8, "state": 8, "expand": 1}),
        ("hyena_x", LLAMA, {"bias": False}),
        ("hyena_se", LLAMA, {"bias": False}),
        ("hyena_y", LLAMA, {}),
        ("mlp", LLAMA_MLP, {"hidden": 8}),
        ("mlp", DIT_MLP, {"ratio": 6}),
        ("low_rank", LLAMA_MLP, {}),
    ]
    for name, site, params in fits:
        config = make(name, site, **params)
        assert list(config.obstacles(site)) == []
        assert config.inherits(site)


def test_heads_of_a_wide_projection_are_kept() -> None:
    """Qwen3: heads x head_dim is not the width."""
    wide = SiteShape(width=40, heads=4, kv_heads=2, head_dim=16, causal=True, rotary=True, bias=False, out_bias=False)
    assert dict(make("attention", wide).tensors(wide)) == {
        "q.weight": (64, 40),
        "k.weight": (32, 40),
        "v.weight": (32, 40),
        "readout.weight": (40, 64),
    }
    assert make("hyena_x", wide).inner == 64


def test_reach_of_everything_is_none() -> None:
    assert make("local_attention", DIT, window=14).facts(DIT).reach == 14
    assert make("local_attention", DIT, window=15).facts(DIT).reach is None
    assert make("local_attention", DIT, window=1, layout="grid").facts(DIT).reach == 5
    assert make("local_attention", DIT, window=3, layout="grid").facts(DIT).reach is None
    assert make("local_attention", LLAMA, window=10**9).facts(LLAMA).reach == 10**9


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("local_attention", {"window": "9"}),
        ("local_attention", {"window": 2.0}),
        ("local_attention", {"window": True}),
        ("local_attention", {"window": 2, "layout": "torus"}),
        ("local_attention", {"window": 2, "layout": ["raster"]}),
        ("local_attention", {}),
        ("hyena_x", {"kernel": None}),
        ("hyena_x", {"causal": 1}),
        ("hyena_se", {"inner_filters": "none"}),
        ("hyena_y", {"inner_kernel": 4}),
        ("hyena_mlp", {"channels": "features"}),
        ("mlp", {"ratio": "big"}),
        ("mlp", {"activation": 3}),
        ("attention", {"depth": 3}),
    ],
)
def test_configs_of_checkpoints_are_checked(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        restore(name, config)


def test_an_integer_is_a_ratio() -> None:
    assert restore("mlp", {"ratio": 3}) == restore("mlp", {"ratio": 3.0})
    with pytest.raises(KeyError):
        restore("mamba", {})
