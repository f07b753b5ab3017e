"""Generation by several active sets at once: at every step the mean of their probabilities of the next token.

The first set is on the model while `model.generate` runs; a logits processor has the others look at the same tokens,
each with a cache of its own, and puts the mean in place of the first set's logits. Sampling options see the mean.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

Switch = AbstractContextManager[object]


def generate(
    model: Any, inputs: Mapping[str, Tensor], sets: Sequence[Switch], weights: Tensor, options: Mapping[str, Any]
) -> Tensor:
    """Return tokens (rows, length). `weights`: (rows, sets)."""
    if len(sets) == 1:
        with sets[0]:
            return model.generate(**inputs, **options)  # type: ignore[no-any-return]
    for key in ("num_beams", "num_return_sequences"):
        if options.get(key, 1) != 1:
            raise ValueError(f"{key} is for one active set: with several, rows keep caches that beams would mix")
    mixture = Mixture(model, inputs, sets, weights)
    processors = [*options.get("logits_processor", ()), mixture]
    sets[0].__enter__()
    try:
        found: Tensor = model.generate(**inputs, **{**options, "logits_processor": processors})
    finally:
        sets[0].__exit__(None, None, None)
    return found


class Mixture:
    """A logits processor. The first of `sets` is on the model when it is called, and again when it returns."""

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], sets: Sequence[Switch], weights: Tensor) -> None:
        self.model, self.sets = model, sets
        self.weights = weights.to(next(model.parameters()).device)
        self.mask = inputs.get("attention_mask")
        self.caches: list[Any] = [None] * len(sets)
        self.placed = "position_ids" in inspect.signature(model.forward).parameters

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities (rows, vocabulary) of `scores`, the first set's logits, and
        those of the others."""
        total = self.weights[:, :1] * torch.softmax(scores.float(), -1)
        self.sets[0].__exit__(None, None, None)
        try:
            for place in range(1, len(self.sets)):
                with self.sets[place]:
                    logits = self._next(place, input_ids)
                total += self.weights[:, place : place + 1] * torch.softmax(logits.float(), -1)
        finally:
            self.sets[0].__enter__()
        return total.log()

    @torch.no_grad()
    def _next(self, place: int, input_ids: Tensor) -> Tensor:
        """Return a set's logits behind the last token, (rows, vocabulary)."""
        mask = torch.ones_like(input_ids)
        if self.mask is not None:
            mask[:, : self.mask.shape[1]] = self.mask
        cache = self.caches[place]
        new = input_ids if cache is None else input_ids[:, -1:]
        at = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]} if self.placed else {}
        found = self.model(input_ids=new, attention_mask=mask, past_key_values=cache, use_cache=True, **at)
        self.caches[place] = found.past_key_values
        return found.logits[:, -1]  # type: ignore[no-any-return]
