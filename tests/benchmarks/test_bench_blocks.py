"""The benchmark of whole blocks: they are what specs ask for, and the table says how they compare. Nothing is timed."""

from __future__ import annotations

from types import ModuleType

import pytest

D = 1152


def test_blocks_are_the_published_ones_grafted(script: ModuleType) -> None:
    """FLOPs by hand, at 16 tokens: attention 8 N D^2 + 4 N^2 D, MLP 16 N D^2; the embedder of a block comes on top."""
    config = script.config_of("DiT-XL/2")
    flops = {name: script.case_of(name, config, 16).flops for name in ("host", "hyena_x", "mlp r=3")}
    assert flops["hyena_x"] - flops["host"] == 24 * 16 * D - 4 * 16**2 * D
    assert flops["host"] - flops["mlp r=3"] == 4 * 16 * D**2


def test_a_round_runs_every_block_and_the_table_holds_ratios(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 8}
    monkeypatch.setattr(script, "config_of", lambda host, real=script.config_of: {**real(host), **small})
    monkeypatch.setattr(script, "MOST", 1)
    cases = script.compare("PixArt-Sigma", 16)
    assert [(case.name, len(case.seconds)) for case in cases] == [(name, 1) for name in script.EDITS]
    for place, case in enumerate(cases):
        case.seconds = [0.2 + 0.1 * place]
    lines = script.table("block", {16: cases}).splitlines()
    assert lines[0] == "| block | 16: ms | x | FLOPs |"
    assert lines[2] == "| host | 200.0 | 1.00 | 1.00 |"
    assert lines[3].startswith("| hyena_x | 300.0 | 1.50 | ")
