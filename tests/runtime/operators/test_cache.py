"""Decoding with transformers' caches equals the full forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from archspec.diagnostics import InternalError
from archspec.host.structure import Port, SiteShape
from archspec.operators import OPERATORS, signature
from archspec.runtime.operators import build_operator, module_class

ATTENTION = [name for name in OPERATORS if "attn" in signature(name).slots]
PORT = Port("hidden_states", 2, "position_embeddings", "attention_mask", "past_key_values")
PARAMS: dict[str, dict[str, Any]] = {"local_attention": {"window": 3}, "low_rank": {"rank": 5}}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("steps", [[1] * 20, [7, 1, 1, 5, 6], [19, 1], [2, 18]], ids=str)
def test_steps_equal_the_whole(rig: Callable[..., Any], name: str, steps: list[int]) -> None:
    made, cache, parts, start = rig(name, "llama.attn"), DynamicCache(), [], 0
    for count in steps:
        parts.append(made.at(start, start + count, cache=cache))
        start += count
        assert cache.get_seq_length() == start
    torch.testing.assert_close(torch.cat(parts, 1), made.mix(), rtol=1e-10, atol=1e-11)


KEPT = [("local_attention", 3), ("hyena_x", 3), ("hyena_se", 6), ("hyena_y", 3), ("zero", 1), ("identity", 1)]


@pytest.mark.parametrize(("name", "most"), KEPT)
def test_windows_keep_no_more_than_they_need(rig: Callable[..., Any], name: str, most: int) -> None:
    made, cache = rig(name, "llama.attn", **PARAMS.get(name, {})), DynamicCache()
    for start in range(20):
        made.at(start, start + 1, cache=cache)
    assert cache.layers[0].keys.shape[-2] <= most + 1  # and the latest token, which may be rolled back
    assert cache.get_seq_length() == 20


def test_linear_attention_keeps_one_state(rig: Callable[..., Any]) -> None:
    made, cache = rig("linear_attention", "llama.attn"), DynamicCache()
    made.at(0, 12, cache=cache)
    before = cache.layers[0].keys.shape
    made.at(12, 13, cache=cache)
    assert cache.layers[0].keys.shape == before == (2, 4, 6, 7)


def test_another_operators_state_is_refused(rig: Callable[..., Any]) -> None:
    cache = DynamicCache()
    rig("attention", "llama.attn").at(0, 3, cache=cache)
    with pytest.raises(InternalError, match="layer 0 of the cache"):
        rig("hyena_x", "llama.attn").at(3, 4, cache=cache)


def llama(name: str, *places: int, **params: Any) -> LlamaForCausalLM:
    """A tiny Llama with the attention of these layers replaced, in double precision."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).double().eval()
    shape = SiteShape(width=32, heads=4, kv_heads=2, head_dim=8, causal=True, rotary=True, bias=False, out_bias=False)
    for place in places:
        from archspec.instructions import Install

        settings = signature(name)(**{**PARAMS.get(name, {}), **params}).complete(shape).settings()
        install = Install("", "attn", name, 1, settings, shape, PORT, place)
        operator = build_operator(install, "cpu", torch.float64)
        torch.nn.init.normal_(operator.readout.weight, std=0.5) if operator.readout is not None else None
        model.model.layers[place].self_attn = operator
    return model


PROMPT = torch.tensor([[5, 9, 33, 2, 17, 40], [8, 8, 51, 3, 22, 7]])


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("places", [(0,), (1,), (0, 1, 2)], ids=str)
def test_generation_with_and_without_cache(name: str, places: tuple[int, ...]) -> None:
    model = llama(name, *places)
    options = {"max_new_tokens": 12, "attention_mask": torch.ones_like(PROMPT)}
    with torch.no_grad():
        for extra in ({"do_sample": False}, {"do_sample": False, "num_beams": 3}):
            cached = model.generate(PROMPT, use_cache=True, **options, **extra)
            plain = model.generate(PROMPT, use_cache=False, **options, **extra)
            assert torch.equal(cached, plain)


def test_generation_with_options_and_cache() -> None:
    model = llama("linear_attention", 0, 2, conv=3, gate=True, decay=True, feature="relu2")
    options = {"max_new_tokens": 12, "attention_mask": torch.ones_like(PROMPT), "do_sample": False}
    with torch.no_grad():
        cached = model.generate(PROMPT, use_cache=True, num_beams=2, **options)
        assert torch.equal(cached, model.generate(PROMPT, use_cache=False, num_beams=2, **options))


@pytest.mark.parametrize("name", ATTENTION)
def test_padding_on_the_left_generates_the_same(name: str) -> None:
    model = llama(name, 0, 2)
    padded = torch.cat((torch.zeros(2, 4, dtype=torch.long), PROMPT), 1)
    mask = (torch.arange(10) >= 4).long().expand(2, 10)
    with torch.no_grad():
        alone = model.generate(PROMPT, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(PROMPT))
        shifted = model.generate(padded, max_new_tokens=8, do_sample=False, attention_mask=mask)
        assert torch.equal(alone[:, 6:], shifted[:, 10:])
        whole = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[:, 4:]
        torch.testing.assert_close(whole, model(PROMPT).logits, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ATTENTION)
def test_static_cache(name: str) -> None:
    model = llama(name, 1)
    cache = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        whole = model(PROMPT, use_cache=False).logits
        parts = [
            model(PROMPT[:, a:b], past_key_values=cache, position_ids=torch.arange(a, b)[None]).logits
            for a, b in ((0, 4), (4, 5), (5, 6))
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in ATTENTION if n not in ("linear_attention", "mamba2")])
def test_assisted_decoding_rolls_back(name: str) -> None:
    model = llama(name, 0, 2)
    with torch.no_grad():
        options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones(1, 6)}
        plain = model.generate(PROMPT[:1], **options)
        assisted = model.generate(PROMPT[:1], prompt_lookup_num_tokens=3, **options)
    assert torch.equal(plain, assisted)


def test_windows_roll_back_one_step_or_say_that_they_cannot(rig: Callable[..., Any]) -> None:
    made, cache = rig("local_attention", "llama.attn", window=3), DynamicCache()
    made.at(0, 9, cache=cache)
    made.at(9, 14, cache=cache)
    cache.crop(-4)
    torch.testing.assert_close(made.at(10, 12, cache=cache), made.mix()[:, 10:12], rtol=1e-10, atol=1e-11)
    with pytest.raises(RuntimeError, match="more tokens than the last step"):
        cache.crop(-3)
    cache.activate_past_recording()
    made.at(12, 13, cache=cache)
    made.at(13, 14, cache=cache)
    cache.crop(-2)
    torch.testing.assert_close(made.at(12, 20, cache=cache), made.mix()[:, 12:], rtol=1e-10, atol=1e-11)


def test_linear_attention_says_that_it_cannot_roll_back(rig: Callable[..., Any]) -> None:
    made, cache = rig("linear_attention", "llama.attn"), DynamicCache()
    made.at(0, 5, cache=cache)
    assert not cache.is_croppable
    with pytest.raises(RuntimeError, match="without assisted decoding"):
        cache.crop(-2)
    cache.crop(0)
    assert cache.get_seq_length() == 5


@pytest.mark.parametrize("name", ATTENTION)
def test_cache_of_a_batch_is_repeated_selected_and_reset(rig: Callable[..., Any], name: str) -> None:
    made = rig(name, "llama.attn")
    cache = DynamicCache()
    made.at(0, 10, cache=cache)
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([0, 5]))
    cache.reorder_cache(torch.tensor([1, 0]))
    expected = made.mix()[:, 10:12].flip(0)
    turned = made.context.rotary and tuple(part[:, 10:12] for part in made.context.rotary)
    y = made.mix(made.x[:, 10:12].flip(0), rotary=turned, cache=cache)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-11)
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(made.at(0, 20, cache=cache), made.mix(), rtol=1e-10, atol=1e-11)


def test_self_graft_of_llama_is_exact() -> None:
    """The host's attention with the same weights, before and after, with padding: not one bit differs."""
    from archspec.runtime.model.initialize import initialize

    model, twin = llama("attention"), llama("attention")
    for place, layer in enumerate(model.model.layers):
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
        teacher = {f"{n}.weight": getattr(layer.self_attn, theirs).weight for n, theirs in names.items()}
        shape = SiteShape(
            width=32, heads=4, kv_heads=2, head_dim=8, causal=True, rotary=True, bias=False, out_bias=False
        )
        config = signature("attention")().complete(shape)
        operator = module_class("attention")(config, shape, PORT, place).double()
        initialize(operator, "inherit", teacher, seed=0)
        twin.model.layers[place].self_attn = operator
    mask = torch.ones_like(PROMPT)
    mask[0, :2] = 0
    with torch.no_grad():
        for kwargs in ({}, {"attention_mask": mask}):
            torch.testing.assert_close(twin(PROMPT, **kwargs).logits, model(PROMPT, **kwargs).logits, rtol=0, atol=0)
