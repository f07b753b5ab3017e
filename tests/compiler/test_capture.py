"""Capture: replay equals the host to 0.0, at other batch sizes too; real sizes need no weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archspec.compiler.capture import capture, relative
from archspec.compiler.capture.model import randomize
from archspec.compiler.capture.tracer import first_tensors
from archspec.compiler.rewrite.graph import HostGraph
from archspec.compiler.rewrite.interpret import interpret
from archspec.diagnostics import ArchspecError
from archspec.families import identify
from archspec.runtime.families import family
from archspec.runtime.model.hosts import build, read_config

KNOWN = ("dit", "pixart", "sana", "sd3", "flux", "llama", "mistral", "qwen2", "qwen3", "gpt2")
HOSTS = [*((f"tiny_{name}", name) for name in KNOWN), ("tiny_plain", "unknown")]
HOSTS += [("tiny_bert", "bert"), ("tiny_encoder", "bert"), ("tiny_vit", "vit")]


def _host(folder: Path) -> Any:
    config = read_config(folder)
    model = build(config, *identify(config), device="cpu")
    randomize(model, 0)
    return model


def _replay(graph: HostGraph, example: dict[str, Any]) -> Tensor:
    def nothing_new(call: object, node: object) -> nn.Module:
        raise AssertionError("a captured graph has nothing new")

    found = interpret(graph, example, nothing_new)
    first: Tensor = found[0] if isinstance(found, tuple) else found
    return first


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize(("fixture", "name"), HOSTS)
def test_replay_equals_the_host(fixture: str, name: str, batch: int, request: pytest.FixtureRequest) -> None:
    model = _host(request.getfixturevalue(fixture))
    graph = capture(model, family(name).example(model, batch=2))
    example = family(name).example(model, batch=batch, seed=7)
    with torch.no_grad():
        wanted = first_tensors(model(**example))
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    assert wanted.abs().max() > 0.01
    assert (_replay(graph, example) - wanted).abs().max() == 0.0


@pytest.mark.parametrize(("fixture", "name"), HOSTS)
def test_the_model_is_left_as_it_was(fixture: str, name: str, request: pytest.FixtureRequest) -> None:
    model = _host(request.getfixturevalue(fixture))
    before = {n: (id(t), t.sum().item()) for n, t in (*model.named_parameters(), *model.named_buffers())}
    capture(model, family(name).example(model))
    assert {n: (id(t), t.sum().item()) for n, t in (*model.named_parameters(), *model.named_buffers())} == before


def test_blocks_are_leaves_and_have_graphs(tiny_dit: Path) -> None:
    model = _host(tiny_dit)
    graph = capture(model, family("dit").example(model))
    blocks = [f"transformer_blocks.{i}" for i in range(4)]
    assert [n.target for n in graph.root.graph.find_nodes(op="call_module") if n.target in blocks] == blocks
    assert list(graph.bodies) == blocks
    inside = [n.target for n in graph.bodies[blocks[2]].graph.find_nodes(op="call_module")]
    assert inside == [f"{blocks[2]}.{part}" for part in ("norm1", "attn1", "norm3", "ff")]


def test_sites_stay_single_nodes_however_deep(tiny_dit: Path) -> None:
    model = _host(tiny_dit)
    graph = capture(model, family("dit").example(model), ["transformer_blocks.0.ff.net.2"])
    inside = [n.target for n in graph.bodies["transformer_blocks.1"].graph.find_nodes(op="call_module")]
    assert "transformer_blocks.1.ff.net.2" in inside
    assert "transformer_blocks.1.ff" not in inside


def test_every_module_has_its_call_though_alike_blocks_run_once(tiny_dit: Path) -> None:
    model = _host(tiny_dit)
    graph = capture(model, family("dit").example(model))
    for index in range(4):
        assert graph.calls[f"transformer_blocks.{index}.attn1.to_q"].result.shape == (1, 16, 32)


def test_the_read_of_block_0_from_outside_is_in_the_root(tiny_dit: Path) -> None:
    model = _host(tiny_dit)
    graph = capture(model, family("dit").example(model))
    targets = [str(n.target) for n in graph.root.graph.find_nodes(op="call_module")]
    assert any(target.startswith("transformer_blocks.0.norm1.emb.") for target in targets)


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) if x.sum() > 0 else x


class _Failing(_Branching):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x[..., :3])
        return y


class _Sizes(nn.Module):
    """Python that plain symbolic tracing cannot follow."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("offset", torch.zeros(4))

    def forward(self, x: Tensor, parts: tuple[Tensor, Tensor], flag: bool = True) -> dict[str, Tensor]:
        if not isinstance(x, Tensor) or len(x.shape) != 2 or x.shape[0] < 1:
            raise TypeError("x")
        batch, *_ = x.shape
        rows = torch.arange(batch, device=x.device)[:, None].to(x.dtype)
        out = x.new_zeros(batch, 4)
        out[:, 1:] = x[:, 1:]
        for part in parts:
            out = out + part / int(x.shape[1])
        return {"out": out * self.scale + self.offset + rows if flag else x}


def test_control_flow_on_shapes_setitem_and_factories() -> None:
    model, x = _Sizes(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    graph = capture(model, {"x": x, "parts": (x, 2 * x)})
    for given in (x, torch.cat([x, -x, x])):
        example = {"x": given, "parts": (given, 3 * given)}
        assert torch.equal(_replay(graph, example), model(**example)["out"])


def test_a_host_that_branches_on_data_is_refused() -> None:
    with pytest.raises(ArchspecError, match="branches on the content") as error:
        capture(_Branching(), {"x": torch.ones(1, 2, 4)})
    assert error.value.diagnostics[0].code == "AS405"


def test_a_host_that_does_not_run_is_refused() -> None:
    with pytest.raises(ArchspecError, match="cannot capture _Failing") as error:
        capture(_Failing(), {"x": torch.ones(1, 2, 4)})
    assert error.value.diagnostics[0].code == "AS406"


BIG: list[tuple[str, dict[str, Any], str, int]] = [
    ("DiTTransformer2DModel", {"num_layers": 28, "out_channels": 8}, "dit", 28),
    ("SD3Transformer2DModel", {}, "unknown", 18),
    ("FluxTransformer2DModel", {}, "unknown", 57),
]


@pytest.mark.parametrize(("architecture", "config", "name", "blocks"), BIG, ids=[b[0] for b in BIG])
def test_real_sizes_need_no_weights(architecture: str, config: dict[str, Any], name: str, blocks: int) -> None:
    model = build(config, "diffusers", architecture)
    start = time.process_time()
    graph = capture(model, family(name).example(model, device="meta"))
    assert time.process_time() - start < 20  # seconds; about 1 on an idle machine
    assert len(graph.bodies) == blocks
    assert len(graph.root.graph.nodes) < 60 + 6 * blocks
    assert all(p.is_meta for p in model.parameters())


def test_relative_paths() -> None:
    assert relative("h.1.attn.q", {"h.0", "h.1"}) == "attn.q"
    assert relative("h.1", {"h.0", "h.1"}) == "h.1"
