"""Selectors: the sentences that name sites of the base.

    blocks  blocks[3]  blocks[-1]  blocks[1::2]  blocks[0, 2, 5:9]  blocks[i % 4 != 0 and i < n - 1]
    blocks[*].attn   odd.mlp   "transformer_blocks.*.attn1"   first 4 of odd   a | b   a & b   a - b   (a | b).attn

`parse_selector` makes a `Selector`, whose `expression` is the syntax tree of `expressions`; `select` finds its sites in
a `Structure`. Indices count from 0, and always in the base, whatever other edits do.
"""

from archspec.language.selectors.expressions import Expression, Selector, bare_name, names_in
from archspec.language.selectors.parse import check_selector, parse_selector
from archspec.language.selectors.selection import select

__all__ = ["Expression", "Selector", "bare_name", "check_selector", "names_in", "parse_selector", "select"]
