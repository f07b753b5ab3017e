"""Building hosts from configs, and the inputs of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from archspec.diagnostics import ArchspecError
from archspec.families import FAMILIES as LANGUAGE
from archspec.families import identify
from archspec.runtime.families import FAMILIES, family
from archspec.runtime.model.hosts import build, host_class, read_config

KNOWN = ("dit", "pixart", "sana", "sd3", "flux", "llama", "mistral", "qwen2", "qwen3", "gpt2")
HOSTS = [*((f"tiny_{name}", name) for name in KNOWN), ("tiny_plain", "unknown")]
HOSTS += [("tiny_bert", "bert"), ("tiny_encoder", "bert"), ("tiny_vit", "vit")]


def _host(folder: Path, device: str = "meta") -> Any:
    config = read_config(folder)
    return build(config, *identify(config), device=device)


@pytest.mark.parametrize(("fixture", "name"), HOSTS)
def test_example_runs(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    model = _host(request.getfixturevalue(fixture), "cpu")
    example = family(name).example(model, batch=2, seed=3)
    with torch.no_grad():
        output = model(**example)[0]
    assert output.shape[0] == 2
    again = family(name).example(model, batch=2, seed=3)
    key = next(k for k, v in example.items() if isinstance(v, torch.Tensor))
    assert torch.equal(example[key], again[key])
    other = family(name).example(model, batch=2, seed=4)
    assert not torch.equal(example[key], other[key])


@pytest.mark.parametrize(("fixture", "name"), HOSTS)
def test_meta_host_has_no_weights_but_real_buffers(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    model = _host(request.getfixturevalue(fixture))
    assert all(p.is_meta for p in model.parameters())
    assert not any(b.is_meta for b in model.buffers())
    assert not model.training
    assert all(v.is_meta for v in family(name).example(model, device="meta").values() if hasattr(v, "is_meta"))


def test_ties_hold_on_meta(tiny_llama: Path) -> None:
    config = read_config(tiny_llama) | {"tie_word_embeddings": True}
    for device in ("meta", "cpu"):
        model: Any = build(config, *identify(config), device=device)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_every_family_is_reached_by_its_name() -> None:
    assert set(FAMILIES) == {*LANGUAGE, "unknown"}
    assert family("DiT") is FAMILIES["dit"]


@pytest.mark.parametrize("tokens", [16, 64])
def test_tokens_are_what_was_asked(tokens: int, tiny_dit: Path) -> None:
    model = _host(tiny_dit, "cpu")
    seen = []
    model.transformer_blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    with torch.no_grad():
        model(**family("dit").example(model, tokens=tokens))
    assert seen == [tokens]


def _code(error: pytest.ExceptionInfo[ArchspecError]) -> str:
    return error.value.diagnostics[0].code


def test_tokens_that_are_no_square(tiny_dit: Path) -> None:
    model = _host(tiny_dit)
    with pytest.raises(ArchspecError, match="300 is no square") as error:
        family("dit").example(model, tokens=300)
    assert _code(error) == "AS403"
    assert "289 or 324" in error.value.diagnostics[0].hints[0]


@pytest.mark.parametrize("name", ["os.system", "AutoModel", "nonsense", "DiTTransformer2D"])
def test_only_model_classes_are_built(name: str) -> None:
    with pytest.raises(ArchspecError) as error:
        host_class("diffusers", name)
    assert _code(error) == "AS401"


def test_other_libraries_are_refused() -> None:
    with pytest.raises(ArchspecError, match="unknown library 'os'"):
        host_class("os", "system")


def test_config_that_the_class_refuses(tiny_dit: Path) -> None:
    config = read_config(tiny_dit) | {"norm_type": "strange"}
    with pytest.raises(ArchspecError, match="strange") as error:
        build(config, *identify(config))
    assert _code(error) == "AS402"
