"""Key/value grafts on decoders: a donor just before a text is its prefix, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archspec.diagnostics import ArchspecError
from archspec.injection import Donor, Graft, Injection
from archspec.runtime.features.texts import inject_text

ROTARY = ("llama", "mistral", "qwen2", "qwen3")
HOSTS = (*ROTARY, "gpt2")
DONOR = torch.tensor([3, 14, 15, 9, 26])
TEXT = torch.tensor([[5, 35, 8, 9, 7, 9], [11, 2, 38, 4, 6, 2]])


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Any:
    from transformers import AutoModelForCausalLM

    folder: Path = request.getfixturevalue(f"tiny_{request.param}")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def program(host: Any, **changes: Any) -> Injection:
    name = "transformer.h.{}.attn" if host.config.model_type == "gpt2" else "model.layers.{}.self_attn"
    sites = tuple(name.format(i) for i in range(host.config.num_hidden_layers))
    graft: dict[str, Any] = {"op": "append", "sites": sites, "donors": ("it",)} | changes
    return Injection((Graft(**graft),), {"it": Donor("clean")})


@torch.no_grad()
def logits(host: Any, ids: Tensor = TEXT) -> Tensor:
    found: Tensor = host(input_ids=ids, use_cache=False).logits
    return found


def test_a_donor_just_before_a_text_is_its_prefix(host: Any) -> None:
    if host.config.model_type == "gpt2":
        pytest.skip("its places are in the tokens, and cannot be moved")
    whole = logits(host, torch.cat([DONOR.expand(2, -1), TEXT], dim=1))[:, len(DONOR) :]
    with inject_text(host, program(host, position="offset", offset=(0, -len(DONOR))), {"it": DONOR}):
        found = logits(host)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert (found - logits(host)).abs().max() > 1e-3


def test_it_changes_what_is_said_and_leaves_the_host_as_it_was(host: Any) -> None:
    plain, name = logits(host), host.config._attn_implementation
    with inject_text(host, program(host), {"it": DONOR}):
        found = logits(host)
    assert (found - plain).abs().max() > 1e-4
    assert torch.equal(logits(host), plain)
    assert host.config._attn_implementation == name


@pytest.mark.parametrize("off", [{"sites": ()}, {"strength": float("-inf")}])
def test_off_switches_change_no_bit(host: Any, off: dict[str, Any]) -> None:
    plain = logits(host)
    with inject_text(host, program(host, **off), {"it": DONOR}):
        assert torch.equal(logits(host), plain)


def test_generation_with_a_cache_says_the_same_as_without(host: Any) -> None:
    given = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with inject_text(host, program(host, strength=1.5), {"it": DONOR}):
        cached = host.generate(TEXT, attention_mask=torch.ones_like(TEXT), use_cache=True, **given)
        again = host.generate(TEXT, attention_mask=torch.ones_like(TEXT), use_cache=False, **given)
    assert torch.equal(cached, again)
    assert cached.shape == (2, TEXT.shape[1] + 6)


def test_the_order_of_donors_does_not_count(host: Any) -> None:
    other = torch.tensor([40, 41, 42])
    found = []
    for names in (("a", "b"), ("b", "a")):
        with inject_text(host, program(host, donors=names), {"a": DONOR, "b": other}):
            found.append(logits(host))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_what_is_no_attention_is_refused(host: Any) -> None:
    with pytest.raises(ArchspecError) as error:
        inject_text(
            host, program(host, sites=(program(host).grafts[0].sites[0].rpartition(".")[0] + ".mlp",)), {"it": DONOR}
        )
    assert error.value.diagnostics[0].code == "AS758"
