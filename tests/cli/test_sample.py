"""`archspec sample` and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from archspec.cli import main
from archspec.runtime.measure.captions import read_captions
from archspec.runtime.store.home import home

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


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from archspec.diagnostics import ArchspecError
    from archspec.runtime.measure.grid import save_png

    def full(_: Image.Image, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ArchspecError) as caught:
        save_png(Image.new("L", (8, 8)), tmp_path / "grid.png")
    assert caught.value.diagnostics[0].code == "AS631"
    assert "compile" not in caught.value.diagnostics[0].hints[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--classes", "ten"], "AS705"), (["--prompt", "a digit"], "AS713")],
)
def test_refused(words: list[str], code: str, tmp_path: Path) -> None:
    exit_code, text = run(DIGITS, *words, "-o", str(tmp_path / "a.png"))
    assert exit_code == 1
    assert code in text
    assert not list(tmp_path.iterdir())


CAPTIONS: list[tuple[dict[str, tuple[int, ...]], str]] = [
    ({"caption": (2, 5, 24)}, "'pooled' is missing"),
    ({"pooled": (2, 20)}, "'caption' is missing"),
    ({"caption": (2, 5, 23), "pooled": (2, 20)}, "(rows, tokens, 24)"),
    ({"caption": (2, 5, 24), "pooled": (3, 20)}, "it takes (2, 20)"),
    ({"caption": (2, 5, 24), "pooled": (2, 20), "caption_mask": (2, 5)}, "'caption_mask' is (2, 5), and it takes none"),
]


@pytest.mark.parametrize(("shapes", "message"), CAPTIONS)
def test_captions_of_another_host(
    shapes: dict[str, tuple[int, ...]], message: str, tiny_sd3: Path, tmp_path: Path
) -> None:
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "c.safetensors")
    code, text = run(str(tiny_sd3), "--captions", str(tmp_path / "c.safetensors"), "-o", str(tmp_path / "a.png"))
    assert code == 1
    assert "AS353" in text
    assert message in text


def test_captions_go_round(tiny_flux: Path, tmp_path: Path) -> None:
    texts = {"caption": torch.rand(2, 5, 24), "pooled": torch.rand(2, 20)}
    save_file(texts, tmp_path / "c.safetensors")
    place = home(tiny_flux)
    found = read_captions(tmp_path / "c.safetensors", place, 5)
    assert torch.equal(found["caption"], texts["caption"][[0, 1, 0, 1, 0]])
    words = ("--captions", str(tmp_path / "c.safetensors"), "--size", "4", "--steps", "2", "-n", "3")
    assert run(str(tiny_flux), *words, "-o", str(tmp_path / "a.png"))[0] == 0
    assert "AS713" in run(DIGITS, *words, "-o", str(tmp_path / "b.png"))[1]


def test_no_model(tmp_path: Path) -> None:
    assert run(str(tmp_path))[0] == 1
    assert "AS714" in run(str(tmp_path))[1]


def test_language_model_wants_a_prompt(tiny_llama: Path) -> None:
    code, text = run(str(tiny_llama))
    assert code == 1
    assert "--prompt" in text


def test_usage() -> None:
    assert run(DIGITS, "--guidance", "0.5")[0] == 2
