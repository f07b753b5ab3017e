"""Every command and code block of the README is run, in order, as a new user would from the top of a checkout."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import command

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [m.groups() for m in BLOCK.finditer((ROOT / "README.md").read_text("utf-8"))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "specs").symlink_to(ROOT / "specs")
    (spec,) = [text for kind, _, text in BLOCKS if kind == "arch"]
    (folder / "tour.arch").write_text(spec, "utf-8")
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_tour(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    for kind, flags, text in BLOCKS:
        if "skip" in flags:
            continue
        if kind == "bash":
            for line in text.strip().splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "archspec"
                assert command.run(monkeypatch, *words) == 0, f"$ {line}"
        elif kind == "python":
            found = run([sys.executable, "-c", text + "\nassert images.shape == (3, 8, 8, 1)\n"], checkout)
            assert found.returncode == 0, found.stderr
    assert (checkout / "out" / "tour.png").is_file()


def test_the_error_shown_is_the_error_given(checkout: Path) -> None:
    (message,) = [text for kind, _, text in BLOCKS if kind == "text"]
    broken = (
        (checkout / "tour.arch")
        .read_text("utf-8")
        .replace("depth == 6; params <= 0.95x;", "depht == 6; params <= 0.95x }\n#")
    )
    (checkout / "broken").mkdir()
    (checkout / "broken" / "tour.arch").write_text(broken, "utf-8")
    found = run(["archspec", "validate", "tour.arch"], checkout / "broken")
    assert found.returncode == 1
    assert message.strip() in found.stdout + found.stderr
