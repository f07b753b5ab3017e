"""Every registered operator keeps the contract at every site whose slot it can fill."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from archspec.host.structure import Port, SiteShape
from archspec.instructions import Install, from_json, to_json
from archspec.operators import OPERATORS, signature
from archspec.runtime.operators import build_operator, module_class
from archspec.runtime.operators.base import reset

SLOTS = {"dit.attn": "attn", "dit.mlp": "mlp", "llama.attn": "attn", "llama.mlp": "mlp", "qwen.attn": "attn"}
CASES = [(name, site) for name in OPERATORS for site, slot in SLOTS.items() if slot in signature(name).slots]
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *((name, site, {}) for name, site in CASES),
    ("local_attention", "dit.attn", {"window": 1, "layout": "grid"}),
    ("local_attention", "dit.attn", {"causal": True}),
    ("local_attention", "dit.attn", {"window": 19}),
    ("linear_attention", "dit.attn", {"causal": True, "feature": "relu"}),
    ("linear_attention", "dit.attn", {"feature": "relu"}),
    ("linear_attention", "dit.attn", {"feature": "relu2", "gate": True}),
    ("linear_attention", "dit.attn", {"conv": 3, "layout": "grid"}),
    ("linear_attention", "dit.attn", {"conv": 4}),
    ("linear_attention", "qwen.attn", {"conv": 4, "gate": True, "decay": True}),
    ("linear_attention", "llama.attn", {"decay": True, "feature": "relu2"}),
    ("attention", "dit.attn", {"heads": 6, "kv_heads": 2}),
    ("attention", "dit.attn", {"heads": 2, "head_dim": 16, "bias": False, "causal": True}),
    ("hyena_x", "dit.attn", {"causal": False}),
    ("hyena_x", "dit.attn", {"causal": False, "kernel": 5, "filters": "identity"}),
    ("hyena_x", "dit.attn", {"layout": "grid", "kernel": 3}),
    ("hyena_x", "dit.attn", {"layout": "grid", "kernel": 2}),
    ("hyena_x", "llama.attn", {"kernel": 1}),
    ("mamba2", "dit.attn", {"causal": False, "chunk": 7}),
    ("mamba2", "dit.attn", {"state": 5, "groups": 3, "conv": 1, "bias": True, "out_bias": True}),
    ("mamba2", "llama.attn", {"expand": 1, "head_dim": 6, "state": 6, "groups": 4, "chunk": 3}),
    ("hyena_se", "dit.attn", {"filters": "identity", "inner_filters": "random"}),
    ("hyena_se", "dit.attn", {"causal": False, "kernel": 2, "inner_kernel": 5}),
    ("hyena_se", "dit.attn", {"causal": False, "kernel": 2, "inner_kernel": 2}),
    ("hyena_se", "dit.attn", {"layout": "grid", "kernel": 2, "inner_kernel": 3}),
    ("hyena_se", "dit.attn", {"kernel": 12, "inner_kernel": 9, "inner": 5, "bias": False, "out_bias": False}),
    ("hyena_se", "llama.attn", {"kernel": 1, "inner_kernel": 3}),
    ("hyena_y", "dit.attn", {"causal": False, "kernel": 5, "filters": "random"}),
    ("hyena_y", "dit.attn", {"layout": "grid", "kernel": 3}),
    ("hyena_y", "dit.attn", {"inner": 30, "bias": False}),
    ("hyena_y", "llama.attn", {"kernel": 1}),
    ("hyena_mlp", "dit.mlp", {"channels": "shared", "filters": "identity"}),
    ("hyena_mlp", "dit.mlp", {"kernel": 1, "hidden": 7, "bias": False, "out_bias": False}),
    ("hyena_mlp", "dit.mlp", {"kernel": 90, "ratio": 0.5}),
    ("hyena_mlp", "llama.mlp", {"channels": "shared", "out_bias": True}),
    ("mlp", "dit.mlp", {"ratio": 3}),
    ("mlp", "llama.mlp", {"hidden": 7, "gated": False}),
    ("mix_ffn", "vit.mlp", {}),
    ("linear_attention", "vit.attn", {"conv": 3, "layout": "grid"}),
    ("hyena_x", "vit.attn", {"layout": "grid", "kernel": 3}),
    ("mix_ffn", "dit.mlp", {"gated": True, "activation": "silu", "early": True}),
    ("mix_ffn", "dit.mlp", {"layout": "raster", "kernel": 4, "filters": "identity"}),
    ("mix_ffn", "dit.mlp", {"causal": True, "kernel": 2, "ratio": 0.5, "bias": False}),
    ("mix_ffn", "dit.mlp", {"kernel": 1}),
    ("mix_ffn", "llama.mlp", {"kernel": 5, "out_bias": True}),
    ("moe", "dit.mlp", {"experts": 8, "top_k": 1}),
    ("moe", "llama.mlp", {"experts": 3, "top_k": 3}),
    ("moe", "llama.mlp", {"experts": 9, "top_k": 5, "gated": False, "bias": True, "out_bias": True}),
    ("low_rank", "llama.mlp", {"rank": 24}),
]
MIXERS = [name for name in OPERATORS if "attn" in signature(name).slots and name not in ("identity", "zero")]
IDS = [f"{name}@{site}{params or ''}" for name, site, params in VARIANTS]
everywhere = pytest.mark.parametrize(("name", "site", "params"), VARIANTS, ids=IDS)


def test_every_operator_has_a_case() -> None:
    assert {name for name, _ in CASES} == set(OPERATORS)


@everywhere
def test_equals_its_reference(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    y = made.mix()
    assert y.shape == made.x.shape
    torch.testing.assert_close(y, made.reference(), rtol=1e-12, atol=1e-13)


@everywhere
def test_tensors_are_the_state(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    state = {key: tuple(value.shape) for key, value in made.operator.state_dict().items()}
    assert state == dict(made.config.tensors(made.shape))
    assert len(list(made.operator.parameters())) == len(state), "tensors are shared or hidden"


@everywhere
def test_features_and_readout(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    if made.operator.readout is None:
        assert not list(made.operator.parameters())
        return
    h = made.operator.features(made.x, made.context)
    assert h.shape == (*made.x.shape[:2], made.operator.readout.in_features)
    close = {"rtol": 1e-13, "atol": 1e-14} if name == "moe" else {"rtol": 0, "atol": 0}  # it adds up in another order
    torch.testing.assert_close(made.operator.readout(h), made.mix(), **close)


@everywhere
def test_facts_are_proved_by_gradients(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    """The output at token i depends on token j exactly where causality and reach say that it may."""
    made = rig(name, site, batch=1, **params)
    x = made.x.clone().requires_grad_()
    tokens = x.shape[1]
    for key, parameter in made.operator.named_parameters():
        if "conv" in key:  # filters that pass through hide what they could see
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
    y = made.mix(x).sum(-1)[0]
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for i in range(tokens):
        if y[i].requires_grad:
            (grad,) = torch.autograd.grad(y[i], x, retain_graph=True, allow_unused=True)
            seen[i] = False if grad is None else (grad[0] != 0).any(-1)
    offset = torch.arange(tokens) - torch.arange(tokens)[:, None]
    facts = made.config.facts(made.shape)
    assert facts.causal == (not seen[offset > 0].any())
    far = int(offset[seen].abs().max()) if seen.any() else 0
    assert far == (tokens - 1 if facts.reach is None else facts.reach)
    other = replace(made.shape, tokens=7, grid=(1, 7))
    assert facts.token_bound == (made.config.tensors(other) != made.config.tensors(made.shape))


@everywhere
def test_every_parameter_learns(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    if not list(made.operator.parameters()):
        return
    made.mix().square().sum().backward()
    for key, parameter in made.operator.named_parameters():
        if key in ("k.bias", "body.k.expand.bias") and not made.shape.rotary and name != "linear_attention":
            continue  # the softmax cancels a constant added to all scores of a row
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-9, key


@everywhere
def test_checkpointed_gradients_are_the_same(
    rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]
) -> None:
    made = rig(name, site, **params)
    plain, again = made.x.clone().requires_grad_(), made.x.clone().requires_grad_()
    made.mix(plain).sin().sum().backward() if name != "zero" else None
    y = checkpoint(lambda x: made.mix(x), again, use_reentrant=False)
    if name != "zero":
        y.sin().sum().backward()
        torch.testing.assert_close(plain.grad, again.grad, rtol=0, atol=0)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(
    rig: Callable[..., Any], name: str, site: str, params: dict[str, Any], dtype: torch.dtype
) -> None:
    made = rig(name, site, **params)
    exact = made.mix()
    made.operator.to(dtype)
    turned = made.context.rotary and tuple(part.to(dtype) for part in made.context.rotary)
    y = made.mix(made.x.to(dtype), rotary=turned)
    assert y.dtype == dtype
    scale = exact.abs().max().clamp(min=1e-6)
    assert (y.double() - exact).abs().max() / scale < (2e-6 if dtype == torch.float32 else 3e-2) * 4


@everywhere
def test_fake_and_meta(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    turned = made.context.rotary and tuple(mode.from_tensor(part.float()) for part in made.context.rotary)
    with mode:
        fake = module_class(name)(made.config, made.shape)
        x = torch.empty(2, made.x.shape[1], made.shape.width)
        made.operator, made.x = fake, x
        assert made.mix(rotary=turned).shape == x.shape
    meta = build_operator(_install(made.config, made.shape))
    assert all(p.is_meta for p in meta.parameters())
    turned = made.context.rotary and tuple(part.float().to("meta") for part in made.context.rotary)
    made.operator = meta
    assert made.mix(torch.empty(2, x.shape[1], made.shape.width, device="meta"), rotary=turned).is_meta
    reset(meta, 0)


def _install(config: Any, shape: SiteShape) -> Install:
    return Install("a.b", "attn", config.name, config.version, config.settings(), shape, Port(), 0)


@everywhere
def test_survives_its_instruction(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    (install,) = from_json(to_json((_install(made.config, made.shape),)))
    assert isinstance(install, Install)
    assert None not in install.config.values()
    state = torch.get_rng_state()
    again = build_operator(install, "cpu", torch.float64)
    assert torch.equal(torch.get_rng_state(), state), "building drew from the global random state"
    assert again.config == made.config
    again.load_state_dict(made.operator.state_dict())
    made_y = made.mix()
    made.operator = again
    torch.testing.assert_close(made.mix(), made_y, rtol=0, atol=0)


@everywhere
def test_copies_are_independent(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    y, twin = made.mix(), copy.deepcopy(made.operator)
    for parameter in twin.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(made.mix(), y, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "site"), CASES, ids=[f"{n}@{s}" for n, s in CASES])
def test_padding_mask_equals_reference(rig: Callable[..., Any], name: str, site: str) -> None:
    made = rig(name, site)
    mask = torch.ones(2, made.x.shape[1], dtype=torch.bool)
    mask[0, :5] = False
    real = mask[..., None].expand_as(made.x)
    expected = made.reference(mask=mask)
    for form in (mask, mask.long(), _additive(mask)[:, None], _additive(mask)[:, None, None]):
        torch.testing.assert_close(made.mix(mask=form)[real], expected[real], rtol=1e-12, atol=1e-13)
    assert torch.isfinite(made.mix(mask=mask)).all()


def _additive(mask: torch.Tensor) -> torch.Tensor:
    return (~mask).double() * -10000.0


@pytest.mark.parametrize("name", OPERATORS)
def test_host_ports(rig: Callable[..., Any], name: str) -> None:
    """A port names the arguments, and says how the tensor is returned."""
    site = "dit.mlp" if "mlp" in signature(name).slots else "dit.attn"
    made = rig(name, site)
    operator, y = made.operator, made.mix()
    operator.port = Port(input="hidden_states", returns=3, mask="attention_mask")
    first, *rest = operator(made.x, attention_mask=None, temb=object())
    assert rest == [None, None]
    torch.testing.assert_close(first, y, rtol=0, atol=0)
    torch.testing.assert_close(operator(hidden_states=made.x)[0], y, rtol=0, atol=0)


def test_lora_targets_the_maps_by_name(rig: Callable[..., Any]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    ends = {"project", "readout"}
    for name, targets in (("attention", {"q", "v", "readout"}), ("hyena_x", ends), ("hyena_se", ends)):
        made = rig(name, "dit.attn")
        host = torch.nn.ModuleDict({"attn1": made.operator})
        inject_adapter_in_model(LoraConfig(r=2, target_modules=sorted(targets)), host)
        assert {n.split(".")[1] for n, _ in host.named_parameters() if "lora_A" in n} == targets
        assert host["attn1"](made.x).shape == made.x.shape


@pytest.mark.parametrize("site", ["dit.attn", "llama.attn"])
@pytest.mark.parametrize("name", MIXERS)
def test_compiles_to_one_graph(rig: Callable[..., Any], name: str, site: str) -> None:
    torch._dynamo.reset()
    made = rig(name, site)
    made.operator.port = Port(rotary="rotary")
    compiled: Any = torch.compile(made.operator, backend="aot_eager", fullgraph=True)
    y = compiled(made.x, rotary=made.context.rotary)
    torch.testing.assert_close(y, made.mix(), rtol=1e-12, atol=1e-13)
    y.sum().backward()


@everywhere
def test_autocast(rig: Callable[..., Any], name: str, site: str, params: dict[str, Any]) -> None:
    made = rig(name, site, **params)
    exact = made.mix()
    made.operator.float()
    turned = made.context.rotary and tuple(part.float() for part in made.context.rotary)
    with torch.autocast("cpu", torch.bfloat16):
        y = made.mix(made.x.float(), rotary=turned)
    assert (y.double() - exact).abs().max() < 0.1 * exact.abs().max().clamp(min=1e-6)


def test_modules_do_not_need_transformers() -> None:
    """A diffusion host without a cache loads its operators without importing transformers, lark or yaml."""
    code = (
        "import sys; from archspec.operators import OPERATORS\n"
        "from archspec.runtime.operators import module_class\n"
        "import archspec.runtime.model.initialize, archspec.runtime.learn.least_squares\n"
        "for name in OPERATORS: module_class(name)\n"
        "bad = {'transformers', 'diffusers', 'lark', 'jsonschema', 'networkx', 'yaml'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
