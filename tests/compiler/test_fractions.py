"""A fraction that is too small is told before anything is run, at its span, where the data's size is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from archspec.compiler.driver import prepare
from archspec.compiler.fractions import check_fractions
from archspec.diagnostics import ArchspecError, Diagnostic
from archspec.language.parse import load
from archspec.runtime.data.bundled import SIZES, load_bundled


def told(folder: Path, more: str) -> tuple[Diagnostic, ...]:
    path = folder / "spec.yaml"
    path.write_text(f"archspec: 1\nname: x\nbase: ./host\n{more}")
    try:
        check_fractions(load(path), folder)
    except ArchspecError as error:
        return error.diagnostics
    return ()


def places(diagnostics: tuple[Diagnostic, ...]) -> list[tuple[str, int, int]]:
    spans = [(d.code, d.primary.span if d.primary else None) for d in diagnostics]
    return [(code, span.line, span.column) for code, span in spans if span]


def test_a_plan_tells_at_the_fraction(tiny_dit: Path, tmp_path: Path) -> None:
    (tmp_path / "host").symlink_to(tiny_dit)
    path = tmp_path / "spec.yaml"
    edits = 'edits:\n  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: 1}}\n'
    path.write_text(f"archspec: 1\nname: x\nbase: ./host\ndata: digits\n{edits}finetune: {{fraction: 0.1%}}\n")
    with pytest.raises(ArchspecError, match="is 1: not one for each of its 10 classes") as caught:
        prepare(path)
    assert places(caught.value.diagnostics) == [("AS715", 7, 22)]
    assert caught.value.diagnostics[0].hints == ("write at least 0.7%, or take more data",)


def test_of_a_part_of_the_data(tmp_path: Path) -> None:
    """The fraction of a stage is of what the data's own leaves; each is told where it is written, and once."""
    (diagnostic,) = told(tmp_path, "data: {from: digits, fraction: 10%}\nfinetune: {fraction: 5%}\n")
    assert places((diagnostic,)) == [("AS715", 5, 22)]
    assert diagnostic.hints == ("write at least 6.96%, or take more data",)
    assert not told(tmp_path, "data: {from: digits, fraction: 10%}\nfinetune: {fraction: 6.96%}\n")
    (own,) = told(tmp_path, "data: {from: digits, fraction: 0.1%}\nfinetune: {fraction: 50%}\n")
    assert places((own,)) == [("AS715", 4, 32)]
    (none,) = told(tmp_path, "data: {from: fashion, fraction: 0.01%}\nfinetune: {fraction: 50%}\n")
    assert none.hints == ("take more data",) or places((none,)) == [("AS715", 4, 33)]


@pytest.mark.parametrize("kind", ["images", "safetensors", "npy", "generated"])
def test_sizes_are_read_from_files_and_headers(tmp_path: Path, kind: str) -> None:
    """Twenty examples of two classes, or, where nothing tells of classes, twenty examples."""
    data = {"from": "there"}
    if kind == "images":
        for i in range(20):
            file = tmp_path / "there" / f"class{i % 2}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2)).save(file)
    elif kind == "safetensors":
        data["from"] = "there.safetensors"
        save_file({"x": torch.zeros(20, 1, 2, 2), "label": torch.arange(20) % 2}, tmp_path / data["from"])
    elif kind == "npy":
        data["from"] = "there.npy"
        np.save(tmp_path / data["from"], np.zeros((20, 1, 2, 2), np.float16))
    else:
        data |= {"kind": "generated", "samples": "20"}
    classes = 2 if kind in ("images", "safetensors") else 1
    written = ", ".join(f"{key}: {value}" for key, value in data.items())
    least = 5.0 * classes
    assert not told(tmp_path, f"data: {{{written}, fraction: {least}%}}\n")
    (found,) = told(tmp_path, f"data: {{{written}, fraction: 2%}}\n")
    assert found.code == "AS715"
    assert found.hints == (f"write at least {least:g}%, or take more data",)


def test_what_only_a_run_knows_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("words\n")
    assert not told(tmp_path, "data: {from: text.txt, fraction: 0.01%}\n")
    assert not told(tmp_path, "data: {from: ./missing, fraction: 0.01%}\n")


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_sizes_of_bundled_sets_are_theirs(name: str) -> None:
    labels = load_bundled(name, "test")[1]
    assert SIZES[name]["test"] == (len(labels), len(set(labels.tolist())))
