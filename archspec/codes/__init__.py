"""The one table of error codes. Each stage declares its own in one file; codes are never reused or renumbered.

| range | stage | file |
|---|---|---|
| AS1xx | syntax and types | syntax.py |
| AS2xx | names, selectors, edits | names.py |
| AS3xx | shapes, constraints, expectations | checks.py |
| AS4xx | capture | capture.py |
| AS5xx | rewriting and proof | rewrite.py |
| AS6xx | bases, checkpoints, files | checkpoint.py |
| AS7xx | data, plans, running | run.py |
| AS8xx | command line and diff | tools.py |
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from archspec.codes.base import Code

FILES = ("syntax", "names", "checks", "capture", "rewrite", "checkpoint", "run", "tools")


@cache
def table() -> dict[str, Code]:
    """Return code -> entry, in order. A code declared twice is a bug of archspec."""
    found: dict[str, Code] = {}
    for file in FILES:
        for code in import_module(f"archspec.codes.{file}").CODES:
            if code.id in found:
                raise ValueError(f"code {code.id} is declared twice")
            found[code.id] = code
    return dict(sorted(found.items()))
