"""The experiments of arXiv 2506.05340 at their real sizes: proved, priced and held to what the paper prints, on configs
alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec.compiler.driver import compile_spec, prepare
from archspec.diagnostics import ArchspecError

SPECS = Path(__file__).parents[2] / "specs" / "grafting"


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_real_sizes(path: Path) -> None:
    ready = prepare(path)
    assert ready.spec.expect
    assert all(outcome.holds for outcome in ready.outcomes)
    assert ready.proof.parameters.result == ready.cost.result.params > 600_000_000
    assert ready.proof.numbers.difference is not None
    assert ready.proof.numbers.difference < 1e-5


def test_a_config_is_not_enough_to_compile(tmp_path: Path) -> None:
    with pytest.raises(ArchspecError, match="no weights") as caught:
        compile_spec(SPECS / "swa_all.yaml", tmp_path / "out")
    assert caught.value.diagnostics[0].code == "AS648"
    assert not (tmp_path / "out").exists()
