"""The parser of the DSL, selectors and expectations: lark's tables for `grammars/archspec.lark`.

lark is imported at the first use. The tables are kept in `grammars/tables.json` (generated), because building them
would be a third of the time of a whole `archspec validate`; when they are of another grammar or another lark they are
built anew.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lark import Lark

FOLDER = Path(__file__).parents[1] / "grammars"  # importlib.resources would take 10 ms to import
GRAMMAR, TABLES = "archspec.lark", "tables.json"
OPTIONS: dict[str, Any] = {
    "start": ["spec", "selector", "expectation"],
    "parser": "lalr",
    "maybe_placeholders": False,
    "propagate_positions": True,
}


@cache
def parser() -> Lark:
    """Return the parser of all start rules, from the tables when they are of this grammar and this lark."""
    from lark import Lark

    kept = _kept()
    return Lark.load(_with_numbers(json.loads(kept))) if kept else _built()


def tables_text() -> str:
    """Return the text of the tables: what building the parser finds out, a tenth of a second's work, as JSON.

    Those that are kept and still valid are returned as they are: lark numbers its states differently in every process.
    """
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = _built().memo_serialize([TerminalDef, Rule])
    tables = {"of": _identity(), "data": data, "memo": memo}
    return _kept() or json.dumps(tables, separators=(",", ":"), sort_keys=True) + "\n"


def _built() -> Lark:
    from lark import Lark

    return Lark(_file(GRAMMAR), **OPTIONS)


def _kept() -> str | None:
    """Return the text of the committed tables, None when they are of another grammar or another lark."""
    try:
        text = _file(TABLES)
    except FileNotFoundError:
        return None
    return text if json.dumps(_identity()) in text[-400:] else None


def _file(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def _identity() -> str:
    """Return what tables are valid for: the version of lark, the grammar and the options."""
    from lark import __version__

    return f"{__version__} {sha256(f'{OPTIONS} {_file(GRAMMAR)}'.encode()).hexdigest()}"


def _with_numbers(value: Any) -> Any:
    """Undo what JSON does to a dict's whole numbers as keys."""
    match value:
        case dict():
            return {int(k) if k.isdigit() else k: _with_numbers(v) for k, v in value.items()}
        case list():
            return [_with_numbers(item) for item in value]
    return value
