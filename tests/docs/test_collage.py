"""The examples of the page on collages run, in one go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TEXT = (Path(__file__).parents[2] / "docs" / "collage-part.md").read_text("utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:256, :256]
    for name, cx, cy, radius in (("template", 90, 120, 50), ("dog", 140, 130, 60)):
        disc = np.hypot(x - cx, y - cy) <= radius
        Image.fromarray(np.stack([x, y, disc * 255], -1).astype(np.uint8)).save(f"{name}.png")
        Image.fromarray(disc).save("template-dog.png" if name == "template" else "dog-mask.png")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        exec(block, names)
    collage = names["collage"]
    assert abs(np.count_nonzero(collage.mask) / (1.21 * np.pi * 50**2) - 1) < 0.02
    shares = collage.mask.reshape(16, 16, 16, 16).mean((1, 3))
    assert np.array_equal(names["tokens"], (shares >= 0.5).ravel())
    assert (names["grey"].image[~collage.mask] == 128).any()
    assert collage.findings == ()
