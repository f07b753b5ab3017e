"""The table of operators: one line each, loaded when first used.

To add one: its signature here, its module of the same file name in `archspec.runtime.operators`, and a line below.
Tests, the schema and the operator reference find it through this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from archspec.language.fields import declared
from archspec.operators.base import Signature

OPERATORS: Mapping[str, str] = {
    "attention": "archspec.operators.attention:Attention",
    "hyena_mlp": "archspec.operators.hyena_mlp:HyenaMlp",
    "hyena_se": "archspec.operators.hyena_se:HyenaSe",
    "hyena_x": "archspec.operators.hyena_x:HyenaX",
    "hyena_y": "archspec.operators.hyena_y:HyenaY",
    "identity": "archspec.operators.identity:Identity",
    "linear_attention": "archspec.operators.linear_attention:LinearAttention",
    "local_attention": "archspec.operators.local_attention:LocalAttention",
    "low_rank": "archspec.operators.low_rank:LowRank",
    "mamba2": "archspec.operators.mamba2:Mamba2",
    "mix_ffn": "archspec.operators.mix_ffn:MixFfn",
    "mlp": "archspec.operators.mlp:Mlp",
    "moe": "archspec.operators.moe:Moe",
    "zero": "archspec.operators.zero:Zero",
}


@cache
def signature(name: str) -> type[Signature]:
    """Return the signature class of an operator. Raises KeyError for a name that is not in the table."""
    module, _, attribute = OPERATORS[name].partition(":")
    found: type[Signature] = getattr(import_module(module), attribute)
    return found


def restore(name: str, config: Mapping[str, Any]) -> Signature:
    """Return the config that `Signature.settings` made plain. Raises KeyError or TypeError on what it cannot read:
    the config of a checkpoint is not to be trusted."""
    found = signature(name)(**config)
    for parameter, hint in _hints(name).items():
        value = getattr(found, parameter)
        if not _fits(value, hint):
            raise TypeError(f"operator '{name}': '{parameter}' is {str(value)[:80]!r}")
    return found


@cache
def _hints(name: str) -> dict[str, Any]:
    cls = signature(name)
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in declared(cls)}


def _fits(value: object, hint: Any) -> bool:
    """Say whether a value is of a parameter's type; an integer will do for a float, a boolean for neither."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    return type(value) is hint or (hint is float and type(value) is int)
