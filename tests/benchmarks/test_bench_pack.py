"""Every recipe of the benchmark of packing packs its pair; the table has a row for each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from archspec.compiler.packing.pack import pack_spec
from benchmarks import bench_merge
from benchmarks.bench_merge import Run, tensors


def test_every_recipe_packs_the_pair(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_merge, "LAYERS", 2)
    script.write_pair(tmp_path, 12)
    for stanza in (stanza.replace("5%", "60%") for stanza in script.RECIPES.values()):  # headers weigh more here
        (tmp_path / "bench.yaml").write_text(script.spec(stanza))
        made, path = pack_spec(tmp_path / "bench.yaml", tmp_path / "pack.safetensors")
        assert path.stat().st_size == made.size
        assert len(made.header.tensors) == len(dict(tensors(12)))


def test_the_table_compares_with_the_copies_and_the_start(script: ModuleType) -> None:
    sizes = 2 * 4 * 32000 * 12 // 2
    rows = [script.Row("start", 1.0, Run(1.0, 1000)), script.Row("copy of both", 2.0, Run(2.0, 1000))]
    rows += [script.Row("copy of the base", 1.5, Run(1.0, 1000)), script.Row("sign", 8.0, Run(7.0, 1000 + 3 * sizes))]
    found = list(script.table([*rows, script.Row("sign: attach", 3.0, Run(1.0, 1000))], 12))
    sign, attach = (line.split(" | ") for line in found[-2:])
    assert (sign[4], sign[6]) == ("0.250", "3.00 |")
    assert attach[4] == "0.500"
    assert float(attach[3]) == pytest.approx(float(sign[3]) * 8 / 3 / 2, abs=0.001)
