"""The benchmark of the attn slot: whom it calls, and what its table says. Nothing is timed."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from archspec.operators import OPERATORS, signature


def test_all_mixers_of_the_registry_run_with_attention_first(script: ModuleType) -> None:
    names = script.contenders(None)
    assert names[0] == "attention"
    assert set(names) == {n for n in OPERATORS if "attn" in signature(n).slots} - {"identity", "zero"}
    assert script.contenders(["mamba2"]) == ["attention", "mamba2"]


def test_the_table_holds_ratios_to_attention(script: ModuleType) -> None:
    attention, other = (script.case_of(name, 16, torch.empty(0)) for name in ("attention", "hyena_x"))
    width, tokens = script.WIDTH, 16
    assert attention.flops == 8 * tokens * width**2 + 4 * tokens**2 * width
    assert other.flops == 8 * tokens * width**2 + 24 * tokens * width
    attention.seconds, other.seconds = [0.3, 0.2], [0.1, 0.4]
    head, _, first, second = script.table("operator", {16: [attention, other]}).splitlines()
    assert head == "| operator | 16: ms | x | FLOPs |"
    assert first == "| attention | 200.0 | 1.00 | 1.00 |"
    assert second == "| hyena_x | 100.0 | 0.50 | 1.00 |"


def test_one_round_runs_every_case(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "MOST", 1)
    assert [len(case.seconds) for case in script.compare(["attention", "mamba2"], 16)] == [1, 1]
