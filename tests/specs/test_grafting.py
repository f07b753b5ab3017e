"""The experiments of arXiv 2506.05340 at their real sizes: proved, priced and held to what the paper prints, on configs
alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from archspec.compiler.driver import Prepared, compile_spec, prepare
from archspec.diagnostics import ArchspecError, Collector
from archspec.host.locate import locate, structure_of
from archspec.language.parse import load, load_members
from archspec.semantics.check.facts import host_figures, result_figures
from archspec.semantics.lower import lower
from archspec.semantics.resolve import resolve

SPECS = Path(__file__).parents[2] / "specs" / "grafting"
ATTENTION, MLP = 28 * 5_313_024, 28 * (8 * 1152**2 + 5 * 1152)
"""Parameters of all attentions and of all MLPs of DiT-XL/2."""
PRINTED = {
    "hyena_se": (0.22, 0.33, 0.43),
    "hyena_x": (0.16, 0.24, 0.33),
    "hyena_y": (0.05, 0.08, 0.11),
    "swa": (0.0, 0.0, 0.0),
    "mamba2": (28.02, 42.04, 56.05),
    "r3": (-12.5, -18.75, -25.0),
    "r6": (25.0, 37.5, 50.0),
    "mlp hyena_x": (0.02, 0.03, 0.03),
}
"""Tab. 4: change in parameters, per cent of the operator's, at 50, 75 and 100 % of the blocks."""
SIZES = ("half", "most", "all")
CASES = [(op, blocks) for op in PRINTED for blocks in SIZES if blocks == "most" or op in ("mamba2", "mlp hyena_x")]
"""Most operators at one ratio alone: they differ in nothing but the number of sites."""


def sound(ready: Prepared) -> None:
    assert ready.spec.expect
    assert all(outcome.holds for outcome in ready.outcomes)
    assert ready.proof.parameters.result == ready.cost.result.params > 600_000_000
    assert ready.proof.numbers.difference is not None
    assert ready.proof.numbers.difference < 1e-5


def qwen3(ready: Prepared) -> None:
    assert ready.cost.host.params == 4_022_468_096
    assert ready.cost.result.params - ready.cost.host.params == 18 * (4 * 7680 + 7680 - 2 * 128) == 686_592
    flops = next(outcome for outcome in ready.outcomes if outcome.expectation.metric == "flops")
    assert flops.host is not None
    assert flops.result is not None
    assert flops.host - flops.result == 18 * (4 * 4096**3 - 2 * 4 * 4096 * 7680)


MIXED = {
    "sd3-medium-local": (6 * 10 * 1536, 4 * 1536 * (256 * 112**2 + 4096 * 333 + 333 * 4429), 4 * 1536 * 4429**2),
    "flux-dev-hybrid": (19 * 3072**2, 4 * 3072 * (512 * 7680 + 4096 * 512 + 512 * 4608), 4 * 3072 * 4608**2),
}
"""Name of a spec -> parameters that it adds, FLOPs of a window's attention kernel and of the host's."""


def joint_attention(ready: Prepared) -> None:
    more, window, whole = MIXED[ready.spec.name]
    assert ready.cost.result.params - ready.cost.host.params == more
    sites = [site for site in ready.cost.at(4096).sites if site.operator == "local_attention"]
    assert {site.host.mixing for site in sites} == {whole}
    assert {site.result.mixing for site in sites if site.result} == {window}
    assert all(site.host.flops - site.result.flops == whole - window for site in sites if site.result)


def sana(ready: Prepared) -> None:
    width, cost = 2240, ready.cost
    assert cost.host.params == 1_604_462_752
    assert cost.result.params - cost.host.params == 10 * 33 * width + 2 * (2 * width**2 + width)
    saved = 10 * (70 * 4 * 32 * 33 - 54 * width) - 2 * 4 * width**2
    assert cost.host.flops - cost.result.flops == 1024 * saved


DERIVED: Mapping[str, Callable[[Prepared], None]] = {
    "qwen3_hyena": qwen3,
    "sana_hyena": sana,
    "sd3_local": joint_attention,
    "flux_hybrid": joint_attention,
}
"""Spec -> what its head derives by hand."""


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_real_sizes(path: Path) -> None:
    first = load_members(path, Collector())[0]
    ready = prepare(path, member=first.id or None)
    sound(ready)
    if path.stem in DERIVED:
        DERIVED[path.stem](ready)


@pytest.mark.parametrize(("op", "blocks"), CASES)
def test_parameters_of_table_4(op: str, blocks: str) -> None:
    table, whole = ("tab4_mlp", MLP) if op in ("r3", "r6", "mlp hyena_x") else ("tab4_attention", ATTENTION)
    ready = prepare(SPECS / f"{table}.yaml", member=f"op={op.removeprefix('mlp ')},blocks={blocks}")
    sound(ready)
    change = 100 * (ready.cost.result.params - ready.cost.host.params) / whole
    assert change == pytest.approx(PRINTED[op][SIZES.index(blocks)], abs=0.006)


STREAMED = {"sd3_mlp": (1536, -24 - 2 * 23 + 4 + 3, 20), "flux_mlp": (3072, -2 * 19 - 10, 48)}
"""Spec -> width, how many times 2 D^2 + D parameters the edits add, depth of the result: as the specs' heads derive."""


@pytest.mark.parametrize("name", STREAMED)
def test_two_streams_at_their_real_sizes(name: str) -> None:
    width, times, depth = STREAMED[name]
    spec = load(SPECS / f"{name}.yaml")
    assert spec.base is not None
    resolved = resolve(spec, structure_of(locate(spec.base, SPECS)))
    before, after = host_figures(resolved.structure), result_figures(resolved, lower(resolved))
    assert before.params is not None
    assert after.params is not None
    assert after.params - before.params == times * (2 * width**2 + width)
    assert after.depth == depth


def test_a_config_is_not_enough_to_compile(tmp_path: Path) -> None:
    with pytest.raises(ArchspecError, match="no weights") as caught:
        compile_spec(SPECS / "swa_all.yaml", tmp_path / "out")
    assert caught.value.diagnostics[0].code == "AS648"
    assert not (tmp_path / "out").exists()
