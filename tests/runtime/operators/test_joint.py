"""Operators over two streams: as defined, with maps for each, wherever the host calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from archspec.host.structure import Port, SiteShape
from archspec.instructions import Install, from_json, to_json
from archspec.operators import OPERATORS, signature
from archspec.runtime.model.initialize import initialize
from archspec.runtime.operators import build_operator
from archspec.runtime.operators.base import Context, Operator, reset

TEXT = 6
GRID = SiteShape(24, 35, (5, 7), heads=3, kv_heads=3, head_dim=8, qk_norm=True, beside="whole")
SITES = {
    "grid": GRID,
    "ends": replace(GRID, beside="read"),
    "turned": replace(GRID, tokens=None, grid=None, rotary=True),
}
JOINT = Port("x", 2, rotary="angles", mask="mask", interleaved=True, streams=(("x", 0), ("text", 1)))
PORTS = {"ends": replace(JOINT, streams=(("x", 0), ("text", None)))}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("attention", {}),
    ("local_attention", {"window": 1}),
    ("local_attention", {"window": 2, "layout": "grid"}),
    ("local_attention", {"window": 34}),
    ("linear_attention", {}),
    ("linear_attention", {"conv": 3, "layout": "grid", "gate": True, "feature": "relu2"}),
    ("linear_attention", {"causal": True, "decay": True, "conv": 2}),
    ("hyena_x", {}),
    ("hyena_x", {"layout": "grid", "kernel": 3}),
    ("hyena_se", {"causal": False}),
    ("hyena_se", {"layout": "grid", "kernel": 2, "inner_kernel": 3, "inner_filters": "random"}),
    ("hyena_y", {"filters": "random"}),
    ("hyena_y", {"layout": "grid", "kernel": 3, "filters": "random"}),
    ("mamba2", {"bias": True}),
    ("mamba2", {"causal": False, "expand": 1, "head_dim": 8, "groups": 3, "state": 8, "bias": True, "out_bias": True}),
    ("mlp", {"gated": True}),
    ("identity", {}),
    ("zero", {}),
]
CASES = [
    (site, name, given)
    for site in SITES
    for name, given in VARIANTS
    if not (site == "turned" and given.get("layout") == "grid")
]
everywhere = pytest.mark.parametrize(("site", "name", "given"), CASES, ids=[f"{n}@{s}{g or ''}" for s, n, g in CASES])


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(site: str, name: str, given: dict[str, Any]) -> Operator:
    shape = SITES[site]
    config = signature(name)(**given).complete(shape)
    assert not list(config.problems(shape))
    install = Install("a.b", "joint_attn", name, 1, config.settings(), shape, PORTS.get(site, JOINT))
    (again,) = from_json(to_json((install,)))
    assert isinstance(again, Install)
    operator = build_operator(again, "cpu", torch.float64)
    reset(operator, 3)
    return operator


def turned(shape: SiteShape, tokens: int) -> tuple[Tensor, Tensor] | None:
    """As FLUX makes them: (tokens, head_dim), each angle twice in a row."""
    if not shape.rotary:
        return None
    angles = torch.arange(tokens)[:, None] * 0.3 ** torch.arange(4, dtype=torch.float64)
    angles = angles.repeat_interleave(2, 1)
    return angles.cos(), angles.sin()


def context(shape: SiteShape, tokens: int, mask: Tensor | None = None) -> Context:
    angles = turned(shape, tokens)
    batched = (angles[0][None], angles[1][None]) if angles else None
    return Context(batched, mask, interleaved=True, before=TEXT)


def state(operator: Operator) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in operator.state_dict().items()}


@everywhere
def test_equals_its_reference(site: str, name: str, given: dict[str, Any]) -> None:
    operator, shape = made(site, name, given), SITES[site]
    x = normal(2, TEXT + 35, 24)
    at = context(shape, TEXT + 35)
    wanted = operator.reference(x, state(operator), operator.config, shape, at)
    torch.testing.assert_close(operator.mix(x, at), wanted, rtol=1e-12, atol=1e-13)
    mask = torch.rand(2, 1, 1, TEXT + 35, generator=torch.Generator().manual_seed(1)) > 0.3
    at = context(shape, TEXT + 35, mask)
    wanted = operator.reference(x, state(operator), operator.config, shape, at)
    torch.testing.assert_close(operator.mix(x, at), wanted, rtol=1e-12, atol=1e-13)


@everywhere
def test_is_called_as_the_host_calls(site: str, name: str, given: dict[str, Any]) -> None:
    operator, shape = made(site, name, given), SITES[site]
    x, text = normal(2, 35, 24), normal(2, TEXT, 24, seed=1)
    own, other = operator(x=x, text=text, angles=turned(shape, TEXT + 35))
    whole = operator.mix(torch.cat((text, x), 1), context(shape, TEXT + 35))
    assert torch.equal(own, whole[:, -35:])
    assert (other is None) == (site == "ends")
    assert other is None or torch.equal(other, whole[:, :TEXT])
    by_place = operator(x, text, None, angles=turned(shape, TEXT + 35))
    assert torch.equal(by_place[0], own)
    none = operator(x=x, text=text[:, :0], angles=turned(shape, 35))
    assert none[0].shape == own.shape


@everywhere
def test_tensors_are_the_state(site: str, name: str, given: dict[str, Any]) -> None:
    operator = made(site, name, given)
    found = {key: tuple(value.shape) for key, value in operator.state_dict().items()}
    assert found == dict(operator.config.weights(SITES[site]))
    assert len(list(operator.parameters())) == len(found)
    assert len(operator.readouts) == (0 if operator.readout is None else 1 if site == "ends" else 2)


@everywhere
def test_every_parameter_learns(site: str, name: str, given: dict[str, Any]) -> None:
    operator, shape = made(site, name, given), SITES[site]
    if not list(operator.parameters()):
        return
    loss = operator.mix(normal(2, TEXT + 35, 24), context(shape, TEXT + 35)).square().sum()
    torch.autograd.backward(loss)
    for key, parameter in operator.named_parameters():
        local = key.removeprefix("beside.")
        read = site == "ends" and key.startswith("beside.")  # nothing comes out of the text, so its queries do nothing
        if read and (local.startswith(("q", "gate", "up")) or "mlp" in name or "kernel" in given):
            continue
        if local == "k.bias" and name != "linear_attention" and not shape.qk_norm:
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-9, key


@everywhere
def test_fakes_and_low_precision(site: str, name: str, given: dict[str, Any]) -> None:
    operator, shape = made(site, name, given), SITES[site]
    x, text, angles = normal(2, 35, 24), normal(2, TEXT, 24, seed=1), turned(shape, TEXT + 35)
    exact = operator(x=x, text=text, angles=angles)[0]
    half = operator.to(torch.bfloat16)(x=x.bfloat16(), text=text.bfloat16(), angles=angles)[0]
    assert half.dtype == torch.bfloat16
    assert (half.double() - exact).abs().max() <= 0.15 * exact.abs().max()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fake = operator.double()(x=mode.from_tensor(x), text=mode.from_tensor(text), angles=angles)
    assert fake[0].shape == exact.shape


def teacher(shape: SiteShape) -> dict[str, Tensor]:
    """An attention with maps for each stream."""
    found: dict[str, Tensor] = {}
    for number, prefix in enumerate(("", "beside.")):
        for role in "qkvo":
            found[f"{prefix}{role}.weight"] = normal(24, 24, seed=10 * number + ord(role)) / 5
            found[f"{prefix}{role}.bias"] = normal(24, seed=20 * number + ord(role))
        for role in ("q_norm", "k_norm"):
            found[f"{prefix}{role}.weight"] = 1 + 0.1 * normal(8, seed=number + len(role) + ord(role[0]))
    if shape.beside == "read":
        del found["beside.o.weight"], found["beside.o.bias"]
    return found


INHERITING = [case for case in CASES if case[1] not in ("mlp", "identity", "zero")]


@pytest.mark.parametrize(("site", "name", "given"), INHERITING)
def test_each_stream_inherits_its_own(site: str, name: str, given: dict[str, Any]) -> None:
    """As an operator of one stream does that inherits this stream's weights, from the same draw."""
    operator, shape = made(site, name, given), SITES[site]
    if any(operator.config.obstacles(shape)):
        return
    weights, one = teacher(shape), replace(shape, beside=None)
    install = Install("a.b", "attn", name, 1, operator.config.settings(), one, Port("x"))
    first = [parted(state(operator), prefix) for prefix in ("", "beside.")]
    operator.inherit(parted(weights, ""))
    operator.lend(parted(weights, "beside."))
    angles = turned(one, 35)
    at = Context((angles[0][None], angles[1][None]) if angles else None, interleaved=True)
    for prefix, before in zip(("", "beside."), first, strict=True):
        alone, again = (build_operator(install, "cpu", torch.float64) for _ in range(2))
        alone.load_state_dict(before)
        alone.inherit(parted(weights, prefix))
        again.load_state_dict(parted(state(operator), prefix))
        torch.testing.assert_close(again.mix(normal(1, 35, 24), at), alone.mix(normal(1, 35, 24), at))


def parted(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of one stream, of the second where it has its own."""
    own = {name: t.clone() for name, t in tensors.items() if not name.startswith("beside.")}
    others = {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name not in own}
    return own | others if prefix else own


@pytest.mark.parametrize("site", SITES)
def test_attention_is_the_teacher(site: str) -> None:
    """The definition of the joint attention, from the weights of both streams."""
    operator, shape = made(site, "attention", {}), SITES[site]
    weights = teacher(shape)
    initialize(operator, "inherit", weights, 0)
    x, text = normal(2, 35, 24), normal(2, TEXT, 24, seed=1)
    parts: dict[str, list[Tensor]] = {role: [] for role in "qkv"}
    for tokens, prefix in ((text, "beside."), (x, "")):
        for role in "qkv":
            y = tokens @ weights[f"{prefix}{role}.weight"].T + weights[f"{prefix}{role}.bias"]
            y = y.view(2, -1, 3, 8).transpose(1, 2)
            if role != "v":
                y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{prefix}{role}_norm.weight"]
            parts[role].append(y)
    q, k, v = (torch.cat(parts[role], 2) for role in "qkv")
    angles = turned(shape, TEXT + 35)
    if angles:
        q, k = (z * angles[0] + torch.stack((-z[..., 1::2], z[..., ::2]), -1).flatten(-2) * angles[1] for z in (q, k))
    y = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1) @ v
    y = y.transpose(1, 2).flatten(2)
    own, other = operator(x=x, text=text, angles=angles)
    torch.testing.assert_close(own, y[:, TEXT:] @ weights["o.weight"].T + weights["o.bias"])
    if site != "ends":
        torch.testing.assert_close(other, y[:, :TEXT] @ weights["beside.o.weight"].T + weights["beside.o.bias"])


def test_text_is_global_to_windows() -> None:
    operator = made("grid", "local_attention", {"window": 1, "layout": "grid"})
    x = normal(1, TEXT + 35, 24).requires_grad_()
    y = operator.mix(x, context(GRID, TEXT + 35))
    middle = TEXT + 2 * 7 + 3
    for token in (0, middle):
        (grad,) = torch.autograd.grad(y[0, token].sum(), x, retain_graph=True)
        seen = (grad[0] != 0).any(-1)
        assert bool(seen[:TEXT].all())
        near = {TEXT + 7 * row + column for row in (1, 2, 3) for column in (2, 3, 4)}
        assert set(range(TEXT, TEXT + 35)) & set(seen.nonzero().flatten().tolist()) == (
            near if token == middle else set(range(TEXT, TEXT + 35))
        )


REFUSED = {"low_rank": {"rank": 4}, "moe": {"experts": 4}, "mix_ffn": {}}


def test_the_others_say_why() -> None:
    served = {name for name, _ in VARIANTS}
    for name in OPERATORS:
        if "attn" in signature(name).slots:
            assert bool(signature(name).single) == (name in REFUSED)
            assert (name in served) != (name in REFUSED)


@pytest.mark.parametrize("beside", [None, "whole"])
def test_the_second_stream_comes_first(beside: Any, make_one: Callable[[Any], Operator]) -> None:
    """Causal operators let the image read the text, not the text the image."""
    operator = make_one(beside)
    x = normal(1, TEXT + 35, 24).requires_grad_()
    y = operator.mix(x, Context(before=TEXT if beside else 0))
    (grad,) = torch.autograd.grad(y[0, TEXT - 1].sum(), x, retain_graph=True)
    assert not bool((grad[0, TEXT:] != 0).any())
    (grad,) = torch.autograd.grad(y[0, -1].sum(), x)
    assert bool((grad[0, :TEXT] != 0).any())


@pytest.fixture
def make_one() -> Callable[[Any], Operator]:
    def build(beside: Any) -> Operator:
        shape = replace(GRID, beside=beside)
        config = signature("mamba2")().complete(shape)
        operator = build_operator(Install("a", "attn", "mamba2", 1, config.settings(), shape, JOINT), "cpu")
        reset(operator, 0)
        return operator.double()

    return build
