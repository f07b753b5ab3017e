"""Where text came from: `Source` is one file, `Span` a piece of it.

Every node that the language builds keeps a `Span`, so that a later stage can point at the smallest wrong text.
Offsets count characters from 0; lines and columns count from 1, as editors do.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Source:
    """A named text. `name` is what diagnostics print: the path as the user gave it."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def _line_starts(self) -> list[int]:
        # Only line feeds end a line, as in editors; `str.splitlines` knows ten more ends.
        return [0, *(end.start() + 1 for end in re.finditer("\n", self.text[:-1]))]

    def position(self, offset: int) -> tuple[int, int]:
        """Return (line, column) of a character offset, both from 1.

        >>> Source("a.yaml", "x: 1\\ny: 2\\n").position(5)
        (2, 1)
        """
        offset = min(max(offset, 0), len(self.text))
        row = bisect_right(self._line_starts, offset) - 1
        return row + 1, offset - self._line_starts[row] + 1

    def line(self, number: int) -> str:
        """Return the text of line `number` (from 1) without its end."""
        if not 0 < number <= len(self._line_starts):
            return ""
        start = self._line_starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else None].removesuffix("\r")

    def span(self, start: int, end: int) -> Span:
        start = min(max(start, 0), len(self.text))
        return Span(self, start, min(max(start, end), len(self.text)))


@dataclass(frozen=True)
class Span:
    """The characters `start` to `end` (exclusive) of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def narrow(self, start: int, end: int) -> Span:
        """Return the span of characters `start` to `end`, counted from this span's start."""
        return self.source.span(self.start + start, min(self.start + end, self.end))

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"
