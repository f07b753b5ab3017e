"""Scripts of `benchmarks/` as modules: `script` is the one that a test file is named after."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest) -> ModuleType:
    return import_module("benchmarks." + request.module.__name__.rpartition(".")[2].removeprefix("test_"))
