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
    Code(
        "AS234",
        "operator mixes tokens where the host does not tell it enough",
        "Texts are padded, and decoded token by token with a cache. The host passes mask and cache to its attentions "
        "alone, so an operator that mixes tokens in place of an MLP would mix padding in, and forget what came before.",
        bad="edits: [{replace: 'blocks[*].mlp', with: mix_ffn}]",
        good="edits: [{insert: 'blocks[*]', with: mix_ffn}]",
    ),
    Code(
        "AS235",
        "finetuning without a task",
        "`BertModel` and `ViTModel` have no head, so there is no loss of a task to finetune by. They can follow the "
        "host's own output, which `distill_weight` weighs.",
        bad="finetune: {steps: 100}",
        good="finetune: {steps: 100, distill_weight: 1}",
    ),
    Code(
        "AS250",
        "a site is replaced twice",
        "Two edits put an operator into the same site. Selectors name sites of the base, so the second does not apply "
        "to the result of the first: it would undo it.",
        bad="edits:\n  - {replace: 'blocks[*].attn', with: hyena_x}\n  - {replace: 'blocks[3].attn', with: identity}",
        good="edits:\n  - {replace: 'blocks[*].attn - blocks[3].attn', with: hyena_x}\n"
        "  - {replace: 'blocks[3].attn', with: identity}",
    ),
    Code(
        "AS251",
        "a dropped block is edited",
        "An edit names a block, or a part of a block, that another edit removes. `parallelize` alone may select "
        "dropped blocks, and goes on without them.",
        bad="edits:\n  - {replace: 'blocks[*].mlp', with: {op: mlp, ratio: 3}}\n  - {drop: 'blocks[3]'}",
        good="edits:\n  - {replace: '(blocks - blocks[3]).mlp', with: {op: mlp, ratio: 3}}\n  - {drop: 'blocks[3]'}",
    ),
    Code(
        "AS252",
        "a part of a replaced module is edited",
        "One edit replaces a whole block, another edits a site within it, which is then no longer there.",
        bad="edits:\n  - {replace: 'blocks[3]', with: identity}\n  - {replace: 'blocks[3].attn', with: hyena_x}",
        good="edits:\n  - {replace: 'blocks[3]', with: identity}\n  - {replace: 'blocks[4].attn', with: hyena_x}",
    ),
    Code(
        "AS253",
        "a block is rearranged twice",
        "`parallelize` and `repeat` both say where a block stands in the new list, so a block can be in one "
        "of them, once.",
        bad="edits:\n  - {parallelize: 'blocks[0:4]', by: 2}\n  - {repeat: 'blocks[3]'}",
        good="edits:\n  - {parallelize: 'blocks[0:4]', by: 2}\n  - {repeat: 'blocks[4]'}",
    ),
    Code(
        "AS254",
        "an edit changes nothing",
        "The edit says again what another says already, or names too few sites to do anything. A warning; an error "
        "with --strict.",
        bad="edits: [{share: 'blocks[3].attn'}]",
        good="edits: [{share: 'blocks[3:5].attn'}]",
    ),
    Code(
        "AS255",
        "sharing undoes a replacement",
        "All sites of a `share` use the weights of the first. If only some of them, or of their parts, were replaced, "
        "or by different operators, sharing would undo one replacement or spread another.",
        bad="edits:\n  - {replace: 'blocks[1].attn', with: hyena_x}\n  - {share: 'blocks[0:2].attn'}",
        good="edits:\n  - {replace: 'blocks[0:2].attn', with: hyena_x}\n  - {share: 'blocks[0:2].attn'}",
    ),
    Code(
        "AS256",
        "a site is shared twice",
        "A site can use the weights of one other site. Name all that share one set of weights in one edit.",
        bad="edits:\n  - {share: 'blocks[0:2].mlp'}\n  - {share: 'blocks[1:3].mlp'}",
        good="edits:\n  - {share: 'blocks[0:3].mlp'}",
    ),
    Code(
        "AS257",
        "sites that differ cannot share",
        "One set of weights serves several sites only if they have one slot, one shape and the same tensors.",
        bad="edits: [{share: 'blocks[0].attn | blocks[1].mlp'}]",
        good="edits: [{share: 'blocks[0:2].attn'}]",
    ),
    Code(
        "AS258",
        "a skip that leads nowhere",
        "A skip leads the first selected block to the last of `to`, the second to the last but one, and so on "
        "inwards: as many blocks on both sides, each source before its target, in one list.",
        bad="edits:\n  - {skip: 'blocks[0:2]', to: 'blocks[1:3]'}",
        good="edits:\n  - {skip: 'blocks[0:2]', to: 'blocks[4:6]'}",
    ),
)
