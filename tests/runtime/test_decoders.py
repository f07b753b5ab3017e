"""The decoders beside Llama: edited, saved, loaded by plain transformers, generating with and without a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import archspec

Make = Callable[..., Path]
MIXERS = (
    '  - {replace: "blocks[0].attn", with: {op: hyena_x, kernel: 4}, init: random}\n'
    '  - {replace: "blocks[1].attn", with: {op: local_attention, window: 3}}\n'
    '  - {replace: "blocks[2].attn", with: linear_attention}\n'
)
BLOCKS = (
    '  - {drop: "blocks[0]"}\n  - {parallelize: "blocks[1:3]", by: 2}\n  - {repeat: "blocks[3]", times: 2, tie: true}\n'
)
NARROW = '  - {replace: "blocks[*].mlp", with: {op: mlp, ratio: 1}}\n  - {share: "blocks[2:4].attn"}\n'
SELF = '  - {replace: "blocks[*].attn", with: attention}\n  - {replace: "blocks[*].mlp", with: mlp}\n'
EDITS = {"mixers": MIXERS, "blocks": BLOCKS, "narrow": NARROW}
HOSTS = ("tiny_mistral", "tiny_qwen2", "tiny_qwen3")
IDS = torch.tensor([[5, 9, 33, 2, 8, 41, 7, 11], [3, 50, 21, 22, 8, 19, 60, 13]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("host", HOSTS)
def test_edited_saved_loaded_and_generating(
    host: str, edits: str, make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from transformers import AutoModelForCausalLM

    out = make(request.getfixturevalue(host), EDITS[edits])
    model: Any = archspec.load(out)
    wanted = logits(model)
    assert bool(wanted.isfinite().all())
    auto = AutoModelForCausalLM.from_pretrained(out)
    auto.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), wanted)
    told: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 8, "min_new_tokens": 8}
    told |= {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    with_cache, without = (auto.generate(**told, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("host", HOSTS)
def test_an_operator_in_place_of_its_like_is_the_host(host: str, make: Make, request: pytest.FixtureRequest) -> None:
    """With the teacher's weights (norms of queries and keys among them) nothing changes."""
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(host)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(archspec.load(make(folder, SELF))), logits(plain), rtol=1e-5, atol=1e-6)
