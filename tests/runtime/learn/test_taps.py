from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from archspec.runtime.families import family
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.taps import Record, Tap, record, watch

ATTN, FF = "transformer_blocks.1.attn1", "transformer_blocks.2.ff"
GROUP = Tap("group", "transformer_blocks.1", "transformer_blocks.2")


def keywords(feed: Feed) -> Any:
    return next(iter(feed.batches(8)))[1]


def test_a_record_replays_the_site(host: nn.Module, feed: Feed) -> None:
    for name, seen in record(host, [Tap.at(ATTN), Tap.at(FF)], keywords(feed)).items():
        again = host.get_submodule(name)(*seen.args, **seen.kwargs)
        assert torch.equal(again, seen.output)


def test_a_group_spans_from_its_first_input_to_its_last_output(host: nn.Module, feed: Feed) -> None:
    seen = record(host, [GROUP], keywords(feed))["group"]
    blocks = host.get_submodule("transformer_blocks")
    hidden = blocks.get_submodule("1")(*seen.args, **seen.kwargs)
    rest = {**seen.kwargs}
    rest.pop("hidden_states", None)
    assert torch.equal(blocks.get_submodule("2")(hidden, **rest), seen.output)


@pytest.mark.parametrize("gates", [False, True])
def test_records_are_given_one_at_a_time_and_none_is_kept(host: nn.Module, feed: Feed, gates: bool) -> None:
    taps = [Tap.at(f"transformer_blocks.{i}.{slot}") for i in range(4) for slot in ("attn1", "ff")]
    whole = record(host, taps, keywords(feed), gates=gates)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    names, most = [], 0

    def see(name: str, seen: Record) -> None:
        nonlocal most
        kept = _Kept(seen)
        seen.kwargs["kept"] = kept  # lives as long as the record does
        alive.add(kept)
        most = max(most, len(alive))
        names.append(name)
        assert torch.equal(seen.output, whole[name].output)
        assert (seen.gate is None) == (whole[name].gate is None) == (not gates)
        host.get_submodule(name)(*seen.args)  # no tap sees that

    watch(host, taps, keywords(feed), see, gates=gates)
    assert names == [tap.name for tap in taps]
    assert most == 1


class _Kept:
    def __init__(self, seen: Record) -> None:
        self.shape = seen.output.shape


def test_taps_may_lie_inside_one_another(host: nn.Module, feed: Feed) -> None:
    found = record(host, [GROUP, Tap.at(ATTN), Tap.at(FF)], keywords(feed))
    assert set(found) == {"group", ATTN, FF}


def test_gates_are_those_of_the_modulation(host: nn.Module, feed: Feed) -> None:
    gates: dict[str, torch.Tensor] = {}
    norm = host.get_submodule("transformer_blocks.1.norm1")
    handle = norm.register_forward_hook(lambda _, __, y: gates.update(attn=y[1], mlp=y[4]))
    mlp = "transformer_blocks.1.ff"
    found = record(host, [Tap.at(ATTN), Tap.at(mlp)], keywords(feed), gates=True)
    handle.remove()
    for name, gate in ((ATTN, gates["attn"]), (mlp, gates["mlp"])):
        seen = found[name].gate
        assert seen is not None
        assert torch.equal(seen, gate.unsqueeze(1))


@pytest.mark.parametrize("last", [1, 3])
def test_each_stream_has_its_gate(tiny_sd3: Path, last: int) -> None:
    from diffusers import SD3Transformer2DModel

    host = SD3Transformer2DModel.from_pretrained(tiny_sd3).eval()
    block = f"transformer_blocks.{last}"
    gates: list[torch.Tensor] = []
    handles = [
        host.get_submodule(f"{block}.{name}").register_forward_hook(lambda _, __, y: gates.append(y[1]))
        for name in ("norm1", "norm1_context")
    ]
    streams = (("hidden_states", 0), ("encoder_hidden_states", 1 if last == 1 else None))
    tap = Tap("joint", f"{block}.attn", f"{block}.attn", streams)
    seen = record(host, [tap], family("sd3").example(host, batch=2), gates=True)["joint"]
    for handle in handles:
        handle.remove()
    assert seen.gate is not None
    if last == 1:
        assert seen.gate.shape == seen.output.shape
        assert torch.equal(seen.gate[:, :16], gates[0][:, None].expand(-1, 16, -1))
        assert torch.equal(seen.gate[:, 16:], gates[1][:, None].expand(-1, seen.gate.shape[1] - 16, -1))
    else:
        assert torch.equal(seen.gate, gates[0][:, None])


def test_a_host_without_gates_has_none(tiny_llama: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    seen = record(model, [Tap.at("model.layers.1.mlp")], {"input_ids": torch.arange(8)[None]}, gates=True)
    assert seen["model.layers.1.mlp"].gate is None


def test_the_run_ends_at_the_last_tap(host: nn.Module, feed: Feed) -> None:
    reached: list[str] = []
    handle = host.get_submodule("transformer_blocks.3").register_forward_hook(lambda *_: reached.append("end"))
    record(host, [Tap.at(ATTN)], keywords(feed))
    assert not reached
    record(host, [Tap.at(ATTN)], keywords(feed), stop=False)
    handle.remove()
    assert reached == ["end"]


def test_no_hook_stays_behind(host: nn.Module, feed: Feed) -> None:
    record(host, [GROUP, Tap.at(ATTN)], keywords(feed), gates=True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in host.modules())


@pytest.mark.parametrize("last", [1, 3])
def test_streams_are_laid_one_behind_the_other(tiny_sd3: Path, last: int) -> None:
    """The last block ends the context: of a group up to it the image alone comes out."""
    from diffusers import SD3Transformer2DModel

    host = SD3Transformer2DModel.from_pretrained(tiny_sd3).eval()
    streams = (("hidden_states", 1), ("encoder_hidden_states", 0))
    tap = Tap("group", f"transformer_blocks.{last - 1}", f"transformer_blocks.{last}", streams)
    seen = record(host, [tap], family("sd3").example(host, batch=2))["group"]
    assert seen.streams == (streams if last == 1 else streams[:1])
    image, text = seen.kwargs["hidden_states"], seen.kwargs["encoder_hidden_states"]
    assert torch.equal(seen.given, torch.cat([image, text], 1) if last == 1 else image)
    with torch.no_grad():
        text, image = host.get_submodule(tap.first)(**seen.kwargs)
        rest = {**seen.kwargs, "hidden_states": image, "encoder_hidden_states": text}
        text, image = host.get_submodule(tap.last)(**rest)
    assert torch.equal(seen.output, torch.cat([image, text], 1) if last == 1 else image)
    assert torch.equal(seen.tokens((text, image)), seen.output)
