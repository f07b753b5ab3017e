"""The command line, run in this process."""

from __future__ import annotations

import pytest

from archspec.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `archspec WORDS` and return its exit code."""
    monkeypatch.setattr("sys.argv", ["archspec", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code
