"""Diagnostics for people, in the manner of rustc.

    error[AS203]: operator 'hyena_x' has no parameter 'kernal'
     --> demo.yaml:6:23
      |
    6 |     with: {op: hyena_x, kernal: 4}
      |                         ^^^^^^ not a parameter
      = help: did you mean 'kernel'?

Labels of one file share a frame, in the order of its lines; lines left out in between are told by `...`. The
primary span is underlined with `^`, related ones with `-`. Widths are those of a terminal: tabs stop at every fourth
column, East Asian wide characters take two, combining marks none; control characters of a hostile file are shown, not
sent. A line too long for a screen is cut around its span, and a flood of diagnostics is cut after `CAP`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from unicodedata import category, east_asian_width

from archspec.diagnostics import Diagnostic, Label, Severity
from archspec.source import Source

CAP = 50
WIDEST = 160
TAB = 4
COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def render(diagnostics: Sequence[Diagnostic], color: bool) -> str:
    """Return all diagnostics, a blank line between them, the flood behind `CAP` as one line."""
    paint = Paint(color)
    parts = [_one(d, paint) for d in diagnostics[:CAP]]
    if (rest := len(diagnostics) - CAP) > 0:
        parts.append(paint.bold(f"... and {rest} more (--format json lists all)"))
    return "\n\n".join(parts)


@dataclass(frozen=True)
class Paint:
    """Colours, or none."""

    color: bool

    def bold(self, text: str, fg: str | None = None) -> str:
        if not self.color or not text:
            return text
        from click import style

        return style(text, fg=fg, bold=True)


def _one(diagnostic: Diagnostic, paint: Paint) -> str:
    fg = COLORS[diagnostic.severity]
    title = paint.bold(f"{diagnostic.severity}[{diagnostic.code}]", fg) + paint.bold(f": {visible(diagnostic.message)}")
    marks = _marks(diagnostic)
    gutter = max((len(str(mark.line)) for mark in marks), default=1)
    lines = [title]
    for number, (source, group) in enumerate(groupby(marks, key=lambda mark: mark.source)):
        lines += _frame(source, list(group), gutter, "-->" if number == 0 else ":::", fg, paint)
    bar = paint.bold(" " * gutter + " = ", "blue")
    lines += [f"{bar}{paint.bold('help')}: {visible(hint)}" for hint in diagnostic.hints]
    return "\n".join(lines)


@dataclass(frozen=True)
class Mark:
    """What to underline on one line: characters `start` to `end`, and the label's text on its last line."""

    source: Source
    line: int
    start: int
    end: int
    text: str
    primary: bool


def _marks(diagnostic: Diagnostic) -> list[Mark]:
    """Return the marks of all labels: the primary's file first, lines in order, each file's together."""
    labels = [(diagnostic.primary, True)] if diagnostic.primary else []
    labels += [(label, False) for label in diagnostic.related]
    files = list(dict.fromkeys(label.span.source for label, _ in labels))
    marks = [mark for label, primary in labels for mark in _marks_of(label, primary)]
    return sorted(marks, key=lambda m: (files.index(m.source), m.line, not m.primary, m.start))


def _marks_of(label: Label, primary: bool) -> Iterator[Mark]:
    """Yield one mark a line: every line of a short span, the first two and the last of a long one."""
    span = label.span
    source, text = span.source, span.text.rstrip()
    first, column = source.position(span.start)
    last, end_column = source.position(span.start + len(text))
    numbers = range(first, last + 1)
    shown = numbers if len(numbers) <= 4 else [first, first + 1, last]
    for number in shown:
        line = source.line(number)
        start = column - 1 if number == first else len(line) - len(line.lstrip())
        end = end_column - 1 if number == last else len(line.rstrip())
        if number in (first, last) or start < end:
            yield Mark(source, number, start, end, label.text if number == last else "", primary)


def _frame(source: Source, marks: list[Mark], gutter: int, arrow: str, fg: str, paint: Paint) -> Iterator[str]:
    """Yield the lines of one file: the place, then each source line with its underlines."""
    lead = next((mark for mark in marks if mark.primary), marks[0])
    bar = paint.bold(f"{'':{gutter}} |", "blue")
    yield f"{paint.bold(f'{chr(32) * gutter}{arrow}', 'blue')} {visible(source.name)}:{lead.line}:{lead.start + 1}"
    yield bar
    previous = None
    for number, group in groupby(marks, key=lambda mark: mark.line):
        if previous is not None and number > previous + 1:
            yield paint.bold("...", "blue")
        here = list(group)
        text, cut = _window(source.line(number), here[0])
        yield f"{paint.bold(f'{number:>{gutter}} |', 'blue')} {visible(text)}".rstrip()
        for mark in here:
            before, line = _underline(text, mark.start - cut, mark.end - cut, "^" if mark.primary else "-")
            label = f"{line} {visible(mark.text)}".rstrip()
            yield f"{bar} {before}{paint.bold(label, fg if mark.primary else 'blue')}"
        previous = number


def _underline(text: str, start: int, end: int, sign: str) -> tuple[str, str]:
    """Return the space before and the underline below characters `start` to `end`; an empty span gets one sign."""
    start = min(max(start, 0), len(text))
    before = width(text[:start])
    return " " * before, sign * max(width(text[:end]) - before, 1)


def _window(line: str, mark: Mark) -> tuple[str, int]:
    """Return the part of a long line around the mark, and how many characters its start moved by."""
    if len(line) <= WIDEST:
        return line, 0
    first = max(min(mark.start - 40, len(line) - WIDEST), 0)
    text = line[first : first + WIDEST]
    if first + WIDEST < len(line):
        text = text[:-3] + "..."
    return ("..." + text[3:], first) if first else (text, first)


def visible(text: str) -> str:
    """Return `text` as a terminal may show it: tabs expanded, control characters as their pictures.

    >>> visible("a\\tb\\x1b[31m")
    'a   b␛[31m'
    """
    shown: list[str] = []
    column = 0
    for char in text:
        piece = _piece(char, column)
        shown.append(piece)
        column += _cells(piece)
    return "".join(shown)


def width(text: str) -> int:
    """Return how many terminal columns `visible(text)` takes.

    >>> [width(t) for t in ("ab", "a\\tb", "模型", "e\\u0301")]
    [2, 5, 4, 1]
    """
    return _cells(visible(text))


def _piece(char: str, column: int) -> str:
    if char == "\t":
        return " " * (TAB - column % TAB)
    if char < " ":
        return chr(0x2400 + ord(char))
    if category(char) in ("Cc", "Cf", "Zl", "Zp") and char != "\u200d":
        return "\ufffd"
    return char


def _cells(text: str) -> int:
    return sum(map(_width_of, text)) if not text.isascii() else len(text)


def _width_of(char: str) -> int:
    if category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
