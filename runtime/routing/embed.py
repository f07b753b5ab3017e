"""Embeddings of prompts by the base itself: the mean over tokens of its hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.packs.router import Embedding

BATCH = 32
"""Prompts at a time."""


class BaseEmbedding:
    """Embeds what a model of transformers takes: texts, for which it needs a tokenizer, or tensors by their names.

    The model must have no pack on it."""

    def __init__(self, model: nn.Module, embedding: Embedding, tokenizer: Any = None) -> None:
        self.model, self.embedding, self.tokenizer = model, embedding, tokenizer

    @torch.no_grad()
    def __call__(self, requests: Sequence[str] | str | Mapping[str, Tensor] | Tensor) -> Tensor:
        """Return (requests, width), float32; a text alone is one request. AS708 for texts without a tokenizer, AS713
        for a model without hidden states."""
        if not isinstance(requests, Tensor | Mapping):
            texts = [requests] if isinstance(requests, str) else requests
            parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
            found = [self._embedded(self._tokens(part)) for part in parts]
            return torch.cat(found) if found else torch.zeros(0, self.embedding.width)
        return self._embedded(requests if isinstance(requests, Mapping) else {self._main: requests})

    @property
    def _main(self) -> str:
        return str(getattr(self.model, "main_input_name", "input_ids"))

    def _tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return tokens and mask, (prompts, longest): padded on the right, whatever the tokenizer does."""
        if self.tokenizer is None:
            raise fail("AS708", "prompts are text and no tokenizer is given", None, "give `tokenizer=`, or tensors")
        rows = [self.tokenizer(prompt)["input_ids"][: self.embedding.length] for prompt in prompts]
        found = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(found)
        for place, row in enumerate(rows):
            found[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        return {"input_ids": found, "attention_mask": mask}

    def _embedded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the tokens that the mask shows, over all where there is none."""
        kept = {name: value for name, value in inputs.items() if name in (self._main, "attention_mask")}
        if self._main == "input_ids":
            kept = {name: value[:, : self.embedding.length] for name, value in _padded_right(kept).items()}
        device = next(self.model.parameters()).device
        states = self._states({name: value.to(device) for name, value in kept.items()})
        mask = kept.get("attention_mask", torch.ones(states.shape[:2])).to(states.device)[..., None].float()
        return (states.float() * mask).sum(1).div(mask.sum(1).clamp(min=1)).cpu()

    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (requests, tokens, width), of the model without its head."""
        body: Any = getattr(self.model, "base_model", None)
        layer = self.embedding.layer
        found: Any = body(**inputs, output_hidden_states=layer is not None) if body is not None else None
        if not hasattr(found, "last_hidden_state"):
            hint = "embed prompts by a function of your own: `embed=`"
            raise fail("AS713", f"{type(self.model).__name__} has no hidden states to embed prompts by", None, hint)
        if layer is None:
            return found.last_hidden_state  # type: ignore[no-any-return]
        states = found.hidden_states
        if not -len(states) <= layer < len(states):
            raise fail("AS713", f"no layer {layer}: hidden states are 0 to {len(states) - 1}, or from the end -1")
        return states[layer]  # type: ignore[no-any-return]


def _padded_right(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tokens and mask with padding behind the tokens, so that a prompt's embedding does not depend on it."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    order = mask.sort(dim=1, descending=True, stable=True).indices
    return {name: value.gather(1, order) for name, value in inputs.items()}
