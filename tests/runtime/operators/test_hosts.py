"""Self-grafts of real host classes: the same operator with the teacher's weights changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from torch import nn
from transformers import BertForMaskedLM, GPT2LMHeadModel, LlamaForCausalLM, ViTForImageClassification

from archspec.host.locate import Located, structure_of
from archspec.host.structure import Site
from archspec.instructions import Install
from archspec.operators import signature
from archspec.runtime.model.excerpts import taken
from archspec.runtime.model.initialize import initialize, path_seed
from archspec.runtime.operators import build_operator


def graft(model: nn.Module, site: Site, operator: str, kind: str, params: Mapping[str, Any]) -> None:
    config = signature(operator)(**params).complete(site.shape)
    assert list(config.problems(site.shape)) == []
    install = Install(site.path, site.slot, operator, 1, config.settings(), site.shape, site.port, site.index)
    made = build_operator(install, "cpu", torch.float32)
    weights = model.state_dict()
    initialize(made, kind, {k: taken(v, weights[v.tensor]) for k, v in site.teacher.items()}, path_seed(0, site.path))
    parent, _, leaf = site.path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, made)
    if site.exit:
        parent, _, leaf = site.exit.path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Identity())


def dit(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"hidden_states": x, "timestep": torch.tensor([3, 700]), "class_labels": torch.tensor([1, 4])}
    return DiTTransformer2DModel.from_pretrained(folder).eval(), inputs


def pixart(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": torch.randn(2, 5, 24, generator=generator),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return PixArtTransformer2DModel.from_pretrained(folder).eval(), inputs


def padded() -> dict[str, Any]:
    """Two texts, the first padded on the left."""
    tokens = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def llama(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    return LlamaForCausalLM.from_pretrained(folder).eval(), padded()


def gpt2(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    return GPT2LMHeadModel.from_pretrained(folder).eval(), padded()


def bert(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    return BertForMaskedLM.from_pretrained(folder).eval(), padded()


def vit(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return ViTForImageClassification.from_pretrained(folder).eval(), {"pixel_values": pixels}


HOSTS = {
    "tiny_dit": dit,
    "tiny_pixart": pixart,
    "tiny_llama": llama,
    "tiny_gpt2": gpt2,
    "tiny_bert": bert,
    "tiny_vit": vit,
}
hosts = pytest.mark.parametrize("host", HOSTS)


def run(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        y: torch.Tensor = model(**inputs)[0]
    return y


@hosts
@pytest.mark.parametrize(
    ("slot", "operator", "params", "atol"),
    [
        ("attn", "attention", {}, 0.0),
        ("attn", "local_attention", {"window": 16}, 0.0),
        ("attn", "low_rank", {"rank": 32}, 2e-5),
        ("mlp", "mlp", {}, 0.0),
        ("mlp", "mlp", {"hidden": 150}, 1e-6),
        ("mlp", "low_rank", {"rank": 32}, 2e-5),
    ],
)
def test_inheriting_the_same_changes_nothing(
    request: pytest.FixtureRequest, host: str, slot: str, operator: str, params: dict[str, Any], atol: float
) -> None:
    folder = request.getfixturevalue(host)
    model, inputs = HOSTS[host](folder)
    expected = run(model, inputs)
    sites = [site for site in structure_of(Located(folder)).sites if site.slot == slot]
    assert len(sites) == 4
    for site in sites:
        graft(model, site, operator, "inherit", params)
    if slot == "mlp" and host == "tiny_gpt2":
        atol = max(atol, 1e-5)  # its maps are Conv1D's, whose products some CPUs sum in another order
    torch.testing.assert_close(run(model, inputs), expected, rtol=atol, atol=atol)


@hosts
@pytest.mark.parametrize("slot", ["attn", "mlp"])
def test_zero_and_identity_initialization_agree(request: pytest.FixtureRequest, host: str, slot: str) -> None:
    """A read-out of zeros is the same model as one without the branch, and another than the host."""
    folder = request.getfixturevalue(host)
    plain, inputs = HOSTS[host](folder)
    expected, results = run(plain, inputs), []
    for operator, params in (("zero", {}), ("attention" if slot == "attn" else "mlp", {}), ("low_rank", {"rank": 3})):
        model, _ = HOSTS[host](folder)
        for site in structure_of(Located(folder)).sites:
            if site.slot == slot:
                graft(model, site, operator, "identity", params)
        results.append(run(model, inputs))
    assert (results[0] - expected).abs().max() > 1e-3
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
