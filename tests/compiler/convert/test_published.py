"""Configs of the published grafts: what they ask for, and each mistake that they are known for, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archspec.compiler.convert.convert import config_edits, convert
from archspec.compiler.convert.published import read_config
from archspec.compiler.convert.reading import Known
from archspec.diagnostics import ArchspecError

from .conftest import HEADS, State
from .test_convert import GRAFTS, swap

PARAMETERS = {
    "swa": "embed_dim: 32\nnum_heads: 2\nwindow_size:\n  - 2\n  - 2\ncausal: False\nuse_flash_attn: True\n",
    "hyena_x": "d_model: 32\nl_max: 1000000\norder: 2\ninner_factor: 1\nshort_filter_order: 4\n",
    "mlp": "d_model: 32\nexpansion_ratio: 3\ndropout: 0.0\n",
}
TYPES = {"swa": "mha", "hyena_x": "mha", "mlp": "mlp"}


def write(folder: Path, kind: str, section: str = "", parameters: str = "", **replaced: str) -> Path:
    """Write a config in the layout of the published repository."""
    (folder / "configs" / "ops").mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "ops" / f"{kind}.yaml").write_text(parameters or PARAMETERS[kind])
    operator = {"type": TYPES[kind], "name": kind, "config_filepath": f"configs/ops/{kind}.yaml", **replaced}
    lines = ["operator:", *(f"  {key}: {value}" for key, value in operator.items())]
    body = section or "  graft_indexes: [1, 3]\n  graft_weights:\n"
    path = folder / "configs" / "sampling.yaml"
    path.write_text("\n".join([*lines, "sample_config:", "  image_size: 64", body]))
    return path


def test_a_config_becomes_an_edit(tmp_path: Path) -> None:
    (edit,) = config_edits(read_config(write(tmp_path, "swa")))
    call = {"op": "local_attention", "heads": 2, "window": 2, "causal": False}
    assert edit == {"replace": "blocks[1, 3].attn", "with": call, "init": "random"}


def test_a_file_and_its_config_are_compared(state: State, tmp_path: Path) -> None:
    torch.save(swap(swap(state, 1, *GRAFTS["swa"]), 3, *GRAFTS["swa"]), tmp_path / "swa.pt")
    right = read_config(write(tmp_path, "swa"))
    (edit,) = convert(tmp_path / "swa.pt", tmp_path / "out", Known(HEADS, config=right))
    assert edit["with"]["window"] == 2
    other = read_config(write(tmp_path, "swa", "  graft_indexes: [0, 3]\n"))
    with pytest.raises(ArchspecError, match=r"the file has grafts in blocks \[1, 3\]") as caught:
        convert(tmp_path / "swa.pt", tmp_path / "other", Known(HEADS, config=other))
    assert caught.value.diagnostics[0].code == "AS655"
    wide = read_config(write(tmp_path, "hyena_x", parameters=PARAMETERS["hyena_x"].replace("32", "64")))
    with pytest.raises(ArchspecError) as caught:
        convert(tmp_path / "swa.pt", tmp_path / "wide", Known(HEADS, window=2, config=wide))
    assert "the file holds 'swa', the config says 'hyena_x'" in str(caught.value)
    assert "the config's width is 64, the file's is 32" in str(caught.value)


WEIGHTS = "  graft_indexes: [1, 3]\n  graft_weights:\n"
WRONG = {
    "a list of maps": (WEIGHTS + "    - 1: block_1/a.pt\n    - 3: block_3/a.pt\n", {}, "AS656", 9, 5),
    "weights of another block": (WEIGHTS + "    1: block_0/a.pt\n    3: block_3/a.pt\n", {}, "AS656", 9, 8),
    "weights of no graft": (WEIGHTS + "    1: a.pt\n    3: a.pt\n    5: a.pt\n", {}, "AS656", 11, 5),
    "a block without weights": (WEIGHTS + "    1: a.pt\n", {}, "AS656", 9, 5),
    "a block twice": ("  graft_indexes: [1, 1]\n", {}, "AS655", 7, 22),
    "an unknown operator": ("", {"name": "hyena_z"}, "AS655", 3, 9),
    "another slot": ("", {"type": "mlp"}, "AS655", 2, 9),
    "a missing file": ("", {"config_filepath": "configs/operators/x.yaml"}, "AS655", 4, 20),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_have_a_place(case: str, tmp_path: Path) -> None:
    section, replaced, code, line, column = WRONG[case]
    with pytest.raises(ArchspecError) as caught:
        read_config(write(tmp_path, "hyena_x", section, **replaced))
    found = caught.value.diagnostics[0]
    assert found.primary is not None
    assert (found.code, found.primary.span.line, found.primary.span.column) == (code, line, column)
    assert found.hints or case in ("a block twice", "weights of no graft")


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("hyena_x", "fused_bias_fc: True\n", "'fused_bias_fc' is no parameter of 'hyena_x'"),
        ("hyena_x", "order: 3\n", "the published module works with order 2 only"),
        ("swa", "window_size: [4, 2]\n", "window cannot be read from"),
    ],
)
def test_parameters_are_those_that_the_published_modules_take(name: str, line: str, said: str, tmp_path: Path) -> None:
    key = line.partition(":")[0]
    kept = [text for text in PARAMETERS[name].splitlines() if not text.startswith((key, "  -"))]
    path = write(tmp_path, name, parameters="\n".join([*kept, line]))
    with pytest.raises(ArchspecError, match=said) as caught:
        read_config(path)
    assert caught.value.diagnostics[0].code == "AS655"
