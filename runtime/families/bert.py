"""transformers' BertModel and BertForMaskedLM: encoders of text."""

from __future__ import annotations

from archspec.runtime.families.base import Example, Family, Objective, Request


class Bert(Family):
    name = "bert"
    objective: Objective = "mlm"

    def inputs(self, request: Request) -> Example:
        """Token ids (batch, tokens), none of them padding, at most the host's longest text."""
        return {"input_ids": request.ids()}
