"""transformers' GPT2LMHeadModel and GPT2Model."""

from __future__ import annotations

from archspec.diagnostics import fail
from archspec.runtime.families.base import Example, Family, Objective, Request


class GPT2(Family):
    name = "gpt2"
    objective: Objective = "lm"

    def inputs(self, request: Request) -> Example:
        """Token ids (batch, tokens), at most as many as there are learned positions; no cache."""
        longest = int(request.config.n_positions)
        if request.text > longest:
            message = f"the host has positions for {longest} tokens, not {request.text}"
            raise fail("AS403", message, None, f"ask for at most {longest} tokens")
        return {"input_ids": request.ids(), "use_cache": False}
