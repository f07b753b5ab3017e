"""Where a fine-tune changed its base, told by role and depth from streamed values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor

from archspec.cli import main
from archspec.diff.depth import Columns, columns_of, laid_out, rows_of
from archspec.render.heat import HOT, Heat
from tests.compiler.merging.golden_cases import CONFIG, tensors


def model(folder: Path, name: str, weights: dict[str, Tensor], **config: Any) -> Path:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(CONFIG | config))
    save_file(weights, folder / name / "model.safetensors", {"format": "pt"})
    return folder / name


def tuned() -> dict[str, Tensor]:
    """Change attention of block 1 by a map of rank 1, the MLP of block 2 by noise, one number of the embeddings."""
    found = {name: tensor.clone() for name, tensor in tensors(0).items()}
    generator = torch.Generator().manual_seed(0)
    found["model.layers.1.self_attn.q_proj.weight"] += torch.outer(torch.arange(8.0), torch.ones(8)) / 10
    found["model.layers.2.mlp.up_proj.weight"] += 0.1 * torch.randn(12, 8, generator=generator)
    found["model.embed_tokens.weight"][3, 2] += 1
    return found


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return model(tmp_path, "base", tensors(0)), model(tmp_path, "tuned", tuned())


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


def weights(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)["weights"]
    return found


def cells(found: dict[str, Any]) -> dict[tuple[str, int | None], dict[str, Any]]:
    return {(cell["role"], cell["block"]): cell for cell in found["cells"]}


def test_cells_hold_what_whole_tensors_give(pair: tuple[Path, Path]) -> None:
    found = weights(*pair)
    changed = {key for key, cell in cells(found).items() if cell["relative"]}
    assert changed == {("attn", 1), ("mlp", 2), ("embed", None)}
    old, new = tensors(0), tuned()
    names = [name for name in old if name.startswith("model.layers.2.mlp")]
    a, b = (torch.cat([side[name].flatten() for name in names]).double() for side in (old, new))
    cell = cells(found)["mlp", 2]
    assert cell["relative"] == pytest.approx(float((b - a).norm() / a.norm()))
    assert cell["cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    assert (cell["count"], cell["changed"]) == (3 * 96, 96)
    assert cells(found)["embed", None]["changed"] == 1
    assert len(found["unchanged"]) == len(old) - 3
    assert found["total"]["changed"] == 1 + 96 + 56  # row 0 of the map of rank 1 is 0


def test_the_spectrum_tells_low_rank_from_noise(pair: tuple[Path, Path]) -> None:
    assert cells(weights(*pair))["attn", 1]["energy"] is None
    found = cells(weights(*pair, "--spectrum", "1"))
    assert found["attn", 1]["energy"] == pytest.approx(1, abs=1e-5)
    assert found["attn", 1]["stable_rank"] == pytest.approx(1, abs=1e-5)
    old, new = tensors(0), tuned()
    name = "model.layers.2.mlp.up_proj.weight"
    squares = torch.linalg.svdvals((new[name] - old[name]).double()) ** 2
    assert found["mlp", 2]["energy"] == pytest.approx(float(squares[0] / squares.sum()), rel=1e-4)
    assert found["norm", 0]["energy"] is None


def test_what_stands_in_one_side_alone_is_named(tmp_path: Path) -> None:
    less = tuned()
    del less["lm_head.weight"]
    less["model.embed_tokens.weight"] = torch.zeros(14, 8)
    base = model(tmp_path, "base", tensors(0))
    tied = model(tmp_path, "tied", less, vocab_size=14, tie_word_embeddings=True)
    found = weights(base, tied)
    assert (found["missing"], found["extra"]) == (["lm_head.weight"], [])
    assert found["reshaped"] == ["model.embed_tokens.weight"]
    assert weights(tied, base)["extra"] == ["lm_head.weight"]
    assert "only before: lm_head.weight" in run(base, tied).stdout
    assert "of other shapes: `model.embed_tokens.weight`" in run(base, tied, "--markdown").stdout


def test_a_cast_alone_changes_nothing(tmp_path: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in tensors(0).items()}
    wide = {name: tensor.float() for name, tensor in halves.items()}
    result = run(model(tmp_path, "a", halves), model(tmp_path, "b", wide))
    assert "all 30 tensors equal in value" in result.stdout
    assert run(tmp_path / "a", tmp_path / "a", "--exit-code").exit_code == 0


def test_what_is_not_a_number_is_no_json_of_its_own(tmp_path: Path) -> None:
    broken = tuned()
    broken["model.norm.weight"][0] = float("nan")
    text = run(model(tmp_path, "a", tensors(0)), model(tmp_path, "b", broken), "--json").stdout
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word))["weights"]["total"]["relative"] is None


def test_other_classes_have_no_weights_in_common(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
    mistral = model(tmp_path, "mistral", tensors(0), **other)
    result = run(pair[0], mistral, "--weights")
    assert (result.exit_code, "AS822" in result.stderr) == (2, True)
    assert json.loads(run(pair[0], mistral, "--json").stdout)["weights"] is None


def test_a_compiled_checkpoint_is_compared_in_what_it_kept(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Block 1 of the result is block 2 of the base; nothing that was kept has changed."""
    spec = tmp_path / "a.yaml"
    spec.write_text(f"name: a\nbase: {pair[0]}\nedits: [{{drop: 'blocks[1]'}}]\n")
    assert CliRunner().invoke(main, ["compile", str(spec), "--out", str(tmp_path / "out")]).exit_code == 0
    assert json.loads(run(pair[0], tmp_path / "out", "--json").stdout)["weights"] is None
    found = weights(pair[0], tmp_path / "out", "--weights")
    assert {cell["block"] for cell in found["cells"]} == {0, 2, None}
    assert not any(cell["changed"] for cell in found["cells"])
    assert all(".layers.1." in name for name in found["missing"])
    assert len(found["missing"]) == 9


def test_text_fits_a_hundred_columns_and_shades_what_changed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(*pair, "--spectrum", "2", "--svg", tmp_path / "diff.svg")
    assert result.exit_code == 0
    assert "#e16e3c" in (tmp_path / "diff.svg").read_text()
    lines = run(*pair, "--spectrum", "2").stdout.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 100
    assert any(re.match(r" attn +\d+\.\d+ +0 +\d+\.\d+ +0 *$", line) for line in lines)


def test_many_blocks_share_columns_in_the_order_of_their_lists() -> None:
    blocks = [("double", n) for n in range(19)] + [("single", n) for n in range(38)]
    found = columns_of(blocks)
    assert len(found.labels) <= 10
    assert (found.labels[0], found.labels[-1]) == ("double 0-6", "single 35-37")
    assert found.of["single", 36] == "single 35-37"
    assert columns_of([]) == Columns((), {})


def test_sums_of_a_table_are_those_of_its_cells() -> None:
    from archspec.diff.depth import Spot

    spots = {Spot("mlp", ("b", 0)): 1, Spot("mlp", ("b", 1)): 2, Spot("attn", ("b", 1)): 4, Spot("embed", None): 8}
    cells = laid_out(spots, columns_of([("b", 0), ("b", 1)]), lambda a, b: a + b)
    assert (cells["mlp", "all"], cells["all", "1"], cells["all", "–"], cells["all", "all"]) == (3, 6, 8, 15)
    assert rows_of(spots) == ("embed", "attn", "mlp", "all")


def test_colours_grow_with_the_number() -> None:
    heat = Heat("", ("a",), ("x", "y", "z", "w"), {("a", "x"): 2.0, ("a", "y"): 1.0, ("a", "z"): 0.0, ("a", "w"): -2.0})
    full, half, cold = (heat.color("a", column) for column in "xyw")
    assert full == HOT
    assert half is not None
    assert full < half < (255, 255, 255)
    assert heat.color("a", "z") is None
    assert cold is not None
    assert cold[2] > cold[0]
