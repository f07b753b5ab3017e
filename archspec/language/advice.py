"""What to write for a key, from the declaration of its field: the hint under a value that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from archspec.diagnostics import setting
from archspec.language import shapes
from archspec.language.expectations import Expectation
from archspec.language.fields import Node
from archspec.language.selectors import Selector
from archspec.source import Span

OPEN = "..."
TYPICAL: Mapping[Any, str] = {
    Selector: "blocks[0]",
    Expectation: "params <= 0.9x",
    bool: "true",
    str: OPEN,
}
"""What a value looks like where a declaration has neither an example nor a default."""


def advice(key: str, near: Span | None, declared: Any, rules: Mapping[str, Any]) -> str:
    """Return the hint for a key; `declared` is its type, `rules` are its field's metadata.

    >>> advice("times", None, int, {"doc": "applications in all", "least": 2})
    'write `times: 2` (applications in all)'
    """
    option = _option(declared)
    bare = option in (int, float, bool) or get_origin(option) is Literal
    doc = f" ({rules['doc']})" if rules.get("doc") else ""
    return f"write `{setting(near, key, example(option, rules), bare=bare)}`{doc}"


def example(option: Any, rules: Mapping[str, Any]) -> str:
    """Return a value as it is written: the declaration's example, its default, or a plain one within its bounds."""
    default = rules.get("default", MISSING)
    if rules.get("example") is not None:
        return str(rules["example"])
    if get_origin(option) is tuple:
        items = map(_shown, default) if isinstance(default, tuple) and default else [_item(get_args(option)[0])]
        return f"[{', '.join(items)}]"
    if isinstance(option, type) and issubclass(option, Node):
        return _item(option)
    if rules.get("unit") == "bytes":
        return "2GiB"
    if option in (bool, Selector, Expectation) or default is MISSING or default is None:
        return _typical(option, rules)
    return _shown(default)


def _option(declared: Any) -> Any:
    return next(option for option in shapes.options(declared) if option is not NoneType)


def _item(option: Any) -> str:
    """Return an item of a list; a node is written as its shorthand."""
    if isinstance(option, type) and issubclass(option, Node):
        short = shapes.shorthand(option)
        return example(str, shapes.keys(option)[short].metadata) if short else OPEN
    return _typical(_option(option), {})


def _typical(option: Any, rules: Mapping[str, Any]) -> str:
    if get_origin(option) is Literal:
        return _shown(get_args(option)[0])
    if option not in (int, float):
        return TYPICAL.get(option, OPEN)
    least, above, most = (rules.get(name) for name in ("least", "above", "most"))
    if above is not None and most is not None:
        return _shown((above + most) / 2 if option is float else most)
    return _shown(least if least is not None else option((above or 0) + 1))


def _shown(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)
