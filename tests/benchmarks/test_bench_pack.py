"""Every recipe of the benchmark of packing packs its pair; the table has a row for each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from archspec.compiler.packing.pack import pack_spec
from benchmarks.bench_merge import Run, tensors


def test_every_recipe_packs_the_pair(script: ModuleType, tmp_path: Path) -> None:
    script.write_models(tmp_path, 12)
    for store in script.RECIPES.values():
        (tmp_path / "bench.yaml").write_text(script.spec(store))
        made, path = pack_spec(tmp_path / "bench.yaml", tmp_path / "pack.safetensors")
        assert path.stat().st_size == made.size
        assert len(made.header.tensors) == len(dict(tensors(12)))


def test_the_table_compares_with_the_copy_and_the_start(script: ModuleType) -> None:
    sizes = 2 * 4 * 32000 * 12 // 2
    rows = [script.Row("start", 1.0, Run(1.0, 1000)), script.Row("copy", 2.0, Run(2.0, 1000))]
    found = script.table([*rows, script.Row("sign", 8.0, Run(7.0, 1000 + 3 * sizes))], 12)
    last = found.splitlines()[-1].split(" | ")
    assert last[4] == "0.250"
    assert last[6] == "3.00 |"
