"""The YAML printer of `fmt`: two spaces of indentation, block style, short nested maps and lists in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from archspec.syntax.comments import BLANK, UNPRINTABLE, has_comments, written
from archspec.syntax.tree import Comments, Entry, Map, Scalar, Seq, Tree, resolve_scalar

WIDTH = 100
HEADS = ("op", "kind", "from")
"""Keys of maps that read as a call, and so go on one line even at the top level."""

_PLAIN = re.compile(r"[A-Za-z0-9_./+($][^\x00-\x1f\x7f-\xa0\ud800-\udfff\u2028\u2029\ufeff]*")
_FLOW_SIGNS = re.compile(r"[\[\]{},]")


def format_yaml(tree: Map) -> str:
    """Return the YAML text of a spec's tree."""
    if tree.entry("archspec") is None:
        version = Entry(Scalar("archspec", "archspec", tree.span), Scalar(1, "1", tree.span))
        tree = replace(tree, entries=(version, *tree.entries))
    lines = list(_entries(tree, 0, 1))
    return "\n".join(lines) + "\n"


def _entries(tree: Map, indent: int, depth: int) -> Iterator[str]:
    for number, entry in enumerate(tree.entries):
        yield from lines_above(entry.comments.above, indent, first=number == 0)
        yield from _entry(entry, indent, depth)
    yield from lines_above(tree.comments.end, indent, first=False)


def _entry(entry: Entry, indent: int, depth: int) -> Iterator[str]:
    key = f"{' ' * indent}{_key(entry.key)}:"
    behind = text_behind(entry.comments.behind)
    value = entry.value
    if isinstance(value, Scalar):
        yield from _scalar_entry(key, value, behind, indent)
        return
    flow = _flow(value)
    if _fits(value, flow, len(key) + 1, depth):
        yield f"{key} {flow}{behind}"
        return
    if not flow[2:]:  # an empty map or list; its comments have no other place
        yield from lines_above(value.comments.end, indent, first=True)
        yield f"{key} {flow}{behind}"
        return
    yield f"{key}{behind}"
    if isinstance(value, Map):
        yield from _entries(value, indent + 2, depth + 1)
    else:
        yield from _items(value, indent + 2, depth + 1)


def _scalar_entry(key: str, value: Scalar, behind: str, indent: int) -> Iterator[str]:
    text = value.value
    if isinstance(text, str) and "\n" in text and _blockable(text):
        yield f"{key} |{'' if text.endswith(chr(10)) else '-'}{behind}"
        for line in text.removesuffix("\n").split("\n"):
            yield f"{' ' * (indent + 2)}{line}" if line else ""
    else:
        yield f"{key} {_scalar(value, flow=False)}{behind}"


def _items(tree: Seq, indent: int, depth: int) -> Iterator[str]:
    for number, item in enumerate(tree.items):
        above = item.comments.above
        behind = text_behind(item.comments.behind)
        if isinstance(item, Map) and item.entries and not _is_call(item, indent):
            above += tuple(line for line in item.entries[0].comments.above if line != BLANK)
            yield from lines_above(above, indent, first=number == 0)
            yield from _map_item(item, indent, depth)
            continue
        if isinstance(item, Seq):
            inner, item = _lifted(item)
            above, behind = (*above, *inner), text_behind(item.comments.behind)
        yield from lines_above(above, indent, first=number == 0)
        if isinstance(item, Scalar):
            yield f"{' ' * indent}- {_scalar(item, flow=False)}{behind}"
        elif not has_comments(item):
            yield f"{' ' * indent}- {_flow(item)}{behind}"
        else:
            yield f"{' ' * indent}-{behind}"
            yield from (
                _items(item, indent + 2, depth + 1)
                if isinstance(item, Seq)
                else lines_above(item.comments.end, indent + 2, first=False)
            )
    yield from lines_above(tree.comments.end, indent, first=False)


def _lifted(tree: Seq) -> tuple[tuple[str, ...], Seq]:
    """Return the comments above the first item of a list within a list, and the list without them: where both begin
    at one place they read back as comments above the list. So does one behind a dash that stands alone."""
    if not tree.items:
        return (), tree
    first: Tree = tree.items[0]
    inner: tuple[str, ...] = ()
    if isinstance(first, Seq):
        inner, first = _lifted(first)
    elif isinstance(first, Map) and first.entries:
        entry = first.entries[0]
        inner = tuple(line for line in entry.comments.above if line != BLANK)
        entry = replace(entry, comments=replace(entry.comments, above=()))
        first = replace(first, entries=(entry, *first.entries[1:]))
    said = tuple(line for line in first.comments.above if line != BLANK)
    first = replace(first, comments=replace(first.comments, above=()))
    rest = replace(tree, items=(first, *tree.items[1:]))
    if rest.comments.behind and has_comments(rest):
        return (rest.comments.behind, *said, *inner), replace(rest, comments=replace(rest.comments, behind=""))
    return (*said, *inner), rest


def _map_item(item: Map, indent: int, depth: int) -> Iterator[str]:
    """Print a map that is an element of a list: `- replace: ...`, its other keys below."""
    first = item.entries[0]
    texts = [text for text in (first.comments.behind, item.comments.behind) if text]
    first = replace(first, comments=Comments(behind="; ".join(texts)))
    lines = list(_entries(replace(item, entries=(first, *item.entries[1:])), indent + 2, depth + 1))
    yield f"{' ' * indent}- {lines[0][indent + 2 :]}"
    yield from lines[1:]


def _is_call(item: Map, indent: int) -> bool:
    """Whether an element reads as a call, `{op: hyena_x, kernel: 4}`, and fits on a line."""
    return item.entries[0].key.value in HEADS and _fits(item, _flow(item), indent + 2, 2)


def _fits(value: Map | Seq, flow: str, used: int, depth: int) -> bool:
    if has_comments(value):
        return False
    parts = [e.value for e in value.entries] if isinstance(value, Map) else list(value.items)
    if not parts:
        return True
    if isinstance(value, Seq):
        near = depth >= 2 and all(isinstance(part, Scalar) for part in parts)
    else:
        near = depth >= 2 or any(value.entry(key) for key in HEADS)
    return near and used + len(flow) <= WIDTH


def _flow(tree: Tree) -> str:
    match tree:
        case Map():
            return "{" + ", ".join(f"{_key(e.key)}: {_flow(e.value)}" for e in tree.entries) + "}"
        case Seq():
            return "[" + ", ".join(map(_flow, tree.items)) + "]"
        case Scalar():
            return _scalar(tree, flow=True)


def _key(key: Scalar) -> str:
    return _text(str(key.value), flow=True)


def _scalar(scalar: Scalar, *, flow: bool) -> str:
    value = scalar.value
    if isinstance(value, str):
        return '"none"' if value == "none" and scalar.quoted else _text(value, flow=flow)
    if resolve_scalar(scalar.text) == value and scalar.text.strip() == scalar.text:
        return scalar.text
    return json.dumps(value)


def _text(text: str, *, flow: bool) -> str:
    """Return a text plain where that reads back as the same text, else in quotes.

    >>> [_text(t, flow=False) for t in ("blocks[1::2].attn", "10", "a: b", 'say "a"')]
    ['blocks[1::2].attn', '"10"', '"a: b"', 'say "a"']
    """
    safe = _PLAIN.fullmatch(text) and isinstance(resolve_scalar(text), str) and text == text.strip()
    if safe and not re.search(r":(\s|$)|\s#|^---|^\.\.\.", text) and not (flow and _FLOW_SIGNS.search(text)):
        return text
    if '"' in text and not UNPRINTABLE.search(text):
        return "'" + text.replace("'", "''") + "'"
    return UNPRINTABLE.sub(escape, json.dumps(text, ensure_ascii=False))


def escape(sign: re.Match[str]) -> str:
    code = ord(sign[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _blockable(text: str) -> bool:
    """Tell whether a block scalar (`|`) can hold the text as it is."""
    lines = text.removesuffix("\n").split("\n")
    return (
        not any(UNPRINTABLE.search(line) or line != line.rstrip() for line in lines)
        and lines[0][:1] not in ("", " ")
        and bool(lines[-1])
    )


def lines_above(lines: tuple[str, ...], indent: int, *, first: bool) -> Iterator[str]:
    """Yield comment lines; blank lines are dropped at the begin of a collection."""
    for line in lines:
        if line != BLANK:
            first = False
            yield f"{' ' * indent}{written(line)}"
        elif not first:
            yield ""


def text_behind(comment: str) -> str:
    return f"  {written(comment)}" if comment else ""
