"""The table of operators: one line each, loaded when first used.

To add one: its signature here, its module of the same file name in `archspec.runtime.operators`, and a line below.
Tests, the schema and the operator reference find it through this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from archspec.operators.base import Signature

OPERATORS: Mapping[str, str] = {
    "attention": "archspec.operators.attention:Attention",
    "hyena_x": "archspec.operators.hyena_x:HyenaX",
    "identity": "archspec.operators.identity:Identity",
    "linear_attention": "archspec.operators.linear_attention:LinearAttention",
    "local_attention": "archspec.operators.local_attention:LocalAttention",
    "low_rank": "archspec.operators.low_rank:LowRank",
    "mlp": "archspec.operators.mlp:Mlp",
    "zero": "archspec.operators.zero:Zero",
}


@cache
def signature(name: str) -> type[Signature]:
    """Return the signature class of an operator. Raises KeyError for a name that is not in the table."""
    module, _, attribute = OPERATORS[name].partition(":")
    found: type[Signature] = getattr(import_module(module), attribute)
    return found


def restore(name: str, config: Mapping[str, Any]) -> Signature:
    """Return the config that `Signature.settings` made plain. Raises KeyError or TypeError on what it cannot read."""
    return signature(name)(**config)
