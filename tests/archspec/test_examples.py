"""The examples in docstrings: what they say is given is given."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "archspec"
FILES = [path for home in (PACKAGE, PACKAGE / "compiler", PACKAGE / "runtime") for path in home.rglob("*.py")]
MODULES = sorted(
    {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
     for path in FILES if ">>> " in path.read_text("utf-8")}
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    found = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
