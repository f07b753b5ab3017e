"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS501",
        "a site that is not called once",
        "An edit needs a module that a run of the host calls, and calls once: what is never called has no effect, and "
        "what is called at several places has no single input.",
        bad='- replace: "transformer_blocks.0.attn1.to_q.unused"',
        good="- replace: blocks[0].attn",
    ),
    Code(
        "AS502",
        "blocks that do not map tokens to tokens",
        "drop, repeat and parallelize need blocks that give back each sequence of tokens in the shape in which they "
        "read it, so that blocks can follow, or stand beside, one another. Of a host of no known family only blocks of "
        "one sequence are understood.",
        bad="- drop: blocks[3]        # of a host of no known family whose blocks return two sequences",
        good="- replace: blocks[3].mlp\n  with: {op: mlp, ratio: 2}",
    ),
    Code(
        "AS503",
        "a part of the module is used elsewhere",
        "Some hosts read a part of a block outside of the block: DiT's output layer takes the conditioning from "
        "`transformer_blocks[0].norm1.emb`. Without that block another one's part would silently be read. `validate` "
        "knows it of known families, the compiler finds it in any host.",
        bad="- drop: blocks[0:4]      # of a DiT",
        good="- drop: blocks[1:5]",
    ),
    Code(
        "AS504",
        "blocks that do not follow one another",
        "Blocks run side by side must have run one behind the other, each alone reading the output of the one before.",
        bad="- parallelize: blocks[0,2]\n  by: 2",
        good="- parallelize: blocks[0:2]\n  by: 2",
    ),
    Code(
        "AS505",
        "a site without the contract of tokens",
        "An operator takes (batch, tokens, width) and gives the same back. The module at the selected path does not.",
        bad='- replace: "embeddings.patch_embeddings"\n  with: {op: low_rank, rank: 8}',
        good='- replace: "layers.*.mlp"\n  with: {op: low_rank, rank: 8}',
    ),
    Code(
        "AS510",
        "the edited model is not the graph that was asked for",
        "Every compile proves its program: the edited model is captured again and must be isomorphic to the rewritten "
        "graph. The named node has no counterpart. Either the host reads its blocks in a way that this edit does not "
        "keep, or archspec is wrong; nothing was written.",
        bad="a container of blocks that does not answer for what the host reads off a block",
        good="a container that forwards it, and a report of the host to archspec's issues",
    ),
    Code(
        "AS511",
        "the edited model computes something else",
        "Graph and edited model agree in form, and differ on random weights and inputs by more than rounding.",
        bad="a host whose blocks keep state between calls",
        good="a host whose output depends on its inputs alone",
    ),
    Code(
        "AS512",
        "the edited model has other tensors than its layout says",
        "The table by which the checkpoint is written must name exactly the tensors of the edited model.",
        bad="an operator that declares `readout.weight` and builds `output.weight`",
        good="an operator whose signature and module name the same tensors",
    ),
    Code(
        "AS513",
        "the edited model cannot be built or run",
        "The program could not be applied to the host, or the host's own code fails on the result.",
        bad="- replace: blocks[0]     # of a DiT, which reads `norm1.emb` of its first block\n  with: {op: identity}",
        good="- replace: blocks[1]\n  with: {op: identity}",
    ),
)
