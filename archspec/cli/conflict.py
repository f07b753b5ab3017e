"""Refuse to run beside the unrelated distribution `archspec`.

PyPI's `archspec` (CPU names, a dependency of Spack and conda) owns the same import name and the same console script.
Whichever is installed last overwrites files of the other without a word, and uninstalling one tears the other. So when
its metadata stands in an environment that also holds ours, say so. The look costs one directory listing per
entry of `sys.path`; `importlib.metadata` would cost more than parsing a spec.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from archspec.diagnostics import fail

_METADATA = re.compile(r"archspec-\d[^-]*\.(dist-info|egg-info)\Z")


def foreign(folders: Iterable[str]) -> Path | None:
    """Return the metadata folder of a distribution named `archspec`, if some folder of the import path has one."""
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if _METADATA.match(name):
                return Path(folder, name)
    return None


def refuse() -> None:
    """Raise AS804 when the unrelated `archspec` is installed in this environment."""
    if found := foreign(sys.path):
        raise fail(
            "AS804",
            f"another package named 'archspec' is installed here: {found}",
            None,
            "install archspec-compiler into an environment of its own: python -m venv .venv",
            "or remove the other and mend this one: pip uninstall archspec, "
            "then pip install --force-reinstall --no-deps archspec-compiler",
        )
