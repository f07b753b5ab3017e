"""`archspec convert`: what is printed and written, and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec.language.parse import load
from tests.command import run

from .test_published import write


@pytest.mark.usefixtures("saved")
def test_weights_become_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "convert", tmp_path / "dit.pt", "--heads", 2, "-o", tmp_path / "out") == 0
    assert "a diffusers model" in capsys.readouterr().out
    assert (tmp_path / "out" / "diffusion_pytorch_model.safetensors").exists()


def test_a_config_becomes_a_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "hyena_x")
    assert run(monkeypatch, "convert", path) == 0
    assert "op: hyena_x" in capsys.readouterr().out
    assert run(monkeypatch, "convert", path, "-o", tmp_path / "spec.arch") == 0
    assert load(tmp_path / "spec.arch").name == "sampling"


def test_errors_and_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "convert", tmp_path / "no.pt", "-o", tmp_path / "out") == 1
    assert "AS650" in capsys.readouterr().err
    assert run(monkeypatch, "convert", tmp_path / "no.pt") == 2
