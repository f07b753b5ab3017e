"""docs/features.md: its commands and blocks run, those on collages in one go."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from archspec.cli import main

ROOT = Path(__file__).parents[2]
WHOLE, COLLAGE = (ROOT / "docs" / "features.md").read_text("utf-8").split("## The collage")
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, kind: str) -> list[str]:
    return [found[3] for found in BLOCK.finditer(text) if found[1] == kind and not found[2]]


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "specs" / "hosts" / "digits-64", tmp_path / "host")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3).save("dog.png")
    (spec,) = blocks(WHOLE, "yaml")
    Path("dog.yaml").write_text(spec, "utf-8")
    (commands,) = blocks(WHOLE, "bash")
    for line in commands.strip().splitlines():
        found = CliRunner().invoke(main, shlex.split(line)[1:])
        assert found.exit_code == 0, f"$ {line}\n{found.output}"
    assert Path("dogs.png").is_file()
    assert Path("matches.png").is_file()
    for block in blocks(WHOLE, "python"):
        exec(block, {})


def test_the_collage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:256, :256]
    for name, cx, cy, radius in (("template", 90, 120, 50), ("dog", 140, 130, 60)):
        disc = np.hypot(x - cx, y - cy) <= radius
        Image.fromarray(np.stack([x, y, disc * 255], -1).astype(np.uint8)).save(f"{name}.png")
        Image.fromarray(disc).save("template-dog.png" if name == "template" else "dog-mask.png")
    names: dict[str, Any] = {}
    for block in blocks(COLLAGE, "python"):
        exec(block, names)
    collage = names["collage"]
    assert abs(np.count_nonzero(collage.mask) / (1.21 * np.pi * 50**2) - 1) < 0.02
    shares = collage.mask.reshape(16, 16, 16, 16).mean((1, 3))
    assert np.array_equal(names["tokens"], (shares >= 0.5).ravel())
    assert (names["grey"].image[~collage.mask] == 128).any()
