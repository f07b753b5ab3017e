"""`archspec sample` and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from archspec.cli import main

DIGITS = str(Path(__file__).parents[2] / "specs" / "hosts" / "digits")


def run(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["sample", *words])
    return found.exit_code, found.output


def test_grid_of_some_classes(tmp_path: Path) -> None:
    output = tmp_path / "new" / "grid.png"
    code, text = run(DIGITS, "-n", "6", "--classes", "3,8", "--steps", "2", "--columns", "2", "-o", str(output))
    assert (code, text.strip()) == (0, f"6 samples in {output}")
    with Image.open(output) as image:
        assert image.size == (2 * 64 + 2, 3 * 64 + 4)
    assert [p.name for p in output.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--classes", "ten"], "AS705"), (["--prompt", "a digit"], "AS713")],
)
def test_refused(words: list[str], code: str, tmp_path: Path) -> None:
    exit_code, text = run(DIGITS, *words, "-o", str(tmp_path / "a.png"))
    assert exit_code == 1
    assert code in text
    assert not list(tmp_path.iterdir())


def test_no_model(tmp_path: Path) -> None:
    assert run(str(tmp_path))[0] == 1
    assert "AS714" in run(str(tmp_path))[1]


def test_language_model_wants_a_prompt(tiny_llama: Path) -> None:
    code, text = run(str(tiny_llama))
    assert code == 1
    assert "--prompt" in text


def test_usage() -> None:
    assert run(DIGITS, "--guidance", "0.5")[0] == 2
