"""The models and configurations of the benchmark of merging are ones that archspec merges; results are compared."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from archspec.compiler.merging.layout import lay_out
from archspec.compiler.merging.write import write_merge
from archspec.language.merging import load_merge

FILE = Path(__file__).parents[2] / "benchmarks" / "bench_merge.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_merge", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_merge"] = module
    spec.loader.exec_module(module)
    return module


def test_every_method_of_the_benchmark_merges(bench: Any, tmp_path: Path) -> None:
    bench.write_models(tmp_path, 12)
    for method in bench.METHODS:
        (tmp_path / "merge.yaml").write_text(bench.configuration(method))
        write_merge(lay_out(load_merge(tmp_path / "merge.yaml"), tmp_path), tmp_path / "ours")
        shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
        verdict = bench.compared(tmp_path, method)
        same = "1.00000 of" if method == "dare_ties" else "largest difference 0.0e+00"
        assert same in verdict
        shutil.rmtree(tmp_path / "theirs")
