"""DiT as its paper and its published files have it (arXiv 2212.09748, Sec. 3), written from the equations: the oracle
that converted files are held against, and the maker of files in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, silu, softmax

WIDTH, HEADS, DEPTH, PATCH, SIDE, CHANNELS, CLASSES = 32, 2, 4, 2, 8, 4, 10
State = dict[str, Tensor]


def positions(width: int, side: int) -> Tensor:
    """(side * side, width): half for columns, half for rows, each half sines then cosines (MAE's table)."""

    def one(at: Tensor) -> Tensor:
        rates = torch.pow(10000, -torch.arange(width // 4, dtype=torch.float64) / (width // 4))
        angles = at.flatten()[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1)

    rows, columns = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    return torch.cat([one(columns), one(rows)], 1).float()


def published(generator: torch.Generator) -> State:
    """A state in the published layout, with random weights (1 / sqrt(fan), so that nothing saturates)."""

    def draw(*shape: int) -> Tensor:
        fan = torch.empty(shape)[0].numel() if len(shape) > 1 else 100
        return torch.randn(shape, generator=generator) / torch.tensor(float(fan)).sqrt()

    def pair(name: str, rows: int, columns: int) -> State:
        return {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}

    state = {
        "pos_embed": positions(WIDTH, SIDE // PATCH)[None],
        "x_embedder.proj.weight": draw(WIDTH, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": draw(WIDTH),
        "y_embedder.embedding_table.weight": draw(CLASSES + 1, WIDTH),
        **pair("t_embedder.mlp.0", WIDTH, 256),
        **pair("t_embedder.mlp.2", WIDTH, WIDTH),
        **pair("final_layer.linear", PATCH * PATCH * 2 * CHANNELS, WIDTH),
        **pair("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH),
    }
    for i in range(DEPTH):
        state |= pair(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH) | pair(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
        state |= pair(f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH) | pair(f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
        state |= pair(f"blocks.{i}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
    return state


def inside(state: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def full(state: State, name: str, x: Tensor) -> Tensor:
    return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def conv(state: State, name: str, x: Tensor) -> Tensor:
    """Causal depthwise convolution, x (batch, length, channels): y_i = b + sum_j w_j x_(i-K+1+j)."""
    weight, length = state[f"{name}.weight"][:, 0], x.shape[1]
    padded = torch.nn.functional.pad(x, (0, 0, weight.shape[1] - 1, 0))
    taps = [weight[:, j] * padded[:, j : j + length] for j in range(weight.shape[1])]
    return state[f"{name}.bias"] + torch.stack(taps).sum(0)


def heads(x: Tensor) -> Tensor:
    return torch.unflatten(x, -1, (HEADS, -1)).transpose(1, 2)


def attend(qkv: Tensor, window: int | None = None) -> Tensor:
    q, k, v = qkv.chunk(3, -1)
    scores = heads(q) @ heads(k).transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
    at = torch.arange(q.shape[1])
    if window is not None:
        scores = scores.masked_fill((at[:, None] - at).abs() > window, float("-inf"))
    return (softmax(scores, -1) @ heads(v)).transpose(1, 2).flatten(2)


def scan(state: State, x: Tensor) -> Tensor:
    """Mamba-2 of one group (arXiv 2405.21060, Sec. 7), token by token; rows of in_proj are z, x, B, C, dt."""
    heads, inner = len(state["D"]), len(state["norm.weight"])
    z, u, dt = torch.split(x @ state["in_proj.weight"].T, [inner, len(state["conv1d.bias"]), heads], -1)
    u = silu(conv(state, "conv1d", u))
    size = (u.shape[-1] - inner) // 2
    v, b, c = torch.split(u, [inner, size, size], -1)
    v = torch.unflatten(v, -1, (heads, -1))
    step = torch.nn.functional.softplus(dt + state["dt_bias"])
    h, rows = torch.zeros(len(x), heads, inner // heads, size), []
    for i in range(x.shape[1]):
        decay = torch.exp(-state["A_log"].exp() * step[:, i])
        h = decay[..., None, None] * h + (step[:, i, :, None] * v[:, i])[..., None] * b[:, i, None, None]
        rows.append((h * c[:, i, None, None]).sum(-1) + state["D"][:, None] * v[:, i])
    y = torch.stack(rows, 1).flatten(2) * silu(z)
    return (y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state["norm.weight"]) @ state["out_proj.weight"].T


def channels(state: State, x: Tensor) -> Tensor:
    """What stands in the MLP's place."""
    if "fc1.weight" in state:
        return full(state, "fc2", gelu(full(state, "fc1", x), approximate="tanh"))
    u = full(state, "in_proj", x)  # a convolution along the features, the tokens being its channels
    q, k, v = conv(state, "short_filter", u.transpose(1, 2)).transpose(1, 2).chunk(3, -1)
    return full(state, "out_proj", q * (k * v))


def mixer(state: State, x: Tensor, window: int) -> Tensor:
    """What stands in the attention's place, told by its tensors; arXiv 2506.05340, Tab. 3."""
    if "qkv.weight" in state:
        return full(state, "proj", attend(full(state, "qkv", x)))
    if "Wqkv.weight" in state:
        return full(state, "out_proj", attend(full(state, "Wqkv", x), window))
    if "A_log" in state:
        return scan(state, x)
    u = full(state, "in_proj", x)
    q, k, v = (conv(state, "short_filter", u) if "short_filter.weight" in state else u).chunk(3, -1)
    kv = conv(state, "inner_filter", k * v) if "inner_filter.weight" in state else k * v
    return full(state, "out_proj", q * kv)


def run(state: State, x: Tensor, t: Tensor, y: Tensor, window: int = 2) -> Tensor:
    """(batch, channels, side, side) to twice the channels. As in diffusers, frequencies are spaced over 127 steps and
    the norm before the MLP has epsilon 1e-5; DiT itself has 128 and 1e-6."""
    side = SIDE // PATCH
    h = torch.nn.functional.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=PATCH)
    h = h.flatten(2).transpose(1, 2) + state["pos_embed"]
    angles = t[:, None].float() * torch.exp(-torch.arange(128) / 127 * torch.tensor(10000.0).log())
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    c = full(state, "t_embedder.mlp.2", silu(full(state, "t_embedder.mlp.0", waves)))
    c = silu(c + state["y_embedder.embedding_table.weight"][y])
    for i in range(DEPTH):
        block = inside(state, f"blocks.{i}.")
        a, b, g, d, e, f = full(block, "adaLN_modulation.1", c)[:, None].chunk(6, -1)
        h = h + g * mixer(inside(block, "attn."), layer_norm(h, (WIDTH,), eps=1e-6) * (1 + b) + a, window)
        z = layer_norm(h, (WIDTH,), eps=1e-5) * (1 + e) + d
        h = h + f * channels(inside(block, "mlp."), z)
    a, b = full(state, "final_layer.adaLN_modulation.1", c)[:, None].chunk(2, -1)
    h = full(state, "final_layer.linear", layer_norm(h, (WIDTH,), eps=1e-6) * (1 + b) + a)
    h = h.view(len(x), side, side, PATCH, PATCH, 2 * CHANNELS)
    return torch.einsum("nhwpqc->nchpwq", h).reshape(len(x), 2 * CHANNELS, SIDE, SIDE)


@pytest.fixture
def state() -> State:
    return published(torch.Generator().manual_seed(0))


@pytest.fixture
def saved(state: State, tmp_path: Path) -> Path:
    """The state as the file of a published DiT."""
    path = tmp_path / "dit.pt"
    torch.save(state, path)
    return path
