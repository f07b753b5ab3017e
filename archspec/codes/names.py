"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS230",
        "edit of blocks names other sites",
        "`parallelize`, `drop` and `repeat` change the list of blocks, so their selector must name blocks, not the "
        "attention or MLP inside them.",
        bad="edits: [{drop: 'blocks[3].attn'}]",
        good="edits: [{drop: 'blocks[3]'}]",
    ),
    Code(
        "AS231",
        "blocks do not divide into groups",
        "`parallelize` takes the selected blocks (without those that the spec drops) in groups of `by`.",
        bad="edits: [{parallelize: 'blocks[0:5]', by: 2}]",
        good="edits: [{parallelize: 'blocks[0:6]', by: 2}]",
    ),
    Code(
        "AS232",
        "blocks of a group are not neighbours",
        "Blocks that run side by side must follow one another in the host, dropped blocks left out.",
        bad="edits: [{parallelize: 'blocks[0,2]', by: 2}]",
        good="edits: [{parallelize: 'blocks[0:2]', by: 2}]",
    ),
    Code(
        "AS233",
        "no block left",
        "At least one block of a list must remain after all edits.",
        bad="edits: [{drop: 'blocks[*]'}]",
        good="edits: [{drop: 'blocks[1::2]'}]",
    ),
)
