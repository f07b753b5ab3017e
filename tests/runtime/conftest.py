"""Compiled checkpoints of the tiny hosts: `make(host, edits)` writes a spec beside a host and emits its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return make(host folder, text of the edits, link=False, subfolder=None) -> folder of the result."""
    from archspec.compiler.card import card
    from archspec.compiler.emit import Emission, emit, read_content
    from archspec.compiler.infer import complete
    from archspec.hosts import locate, structure_of
    from archspec.lower import lower
    from archspec.parse import load_source
    from archspec.plan import Plan
    from archspec.resolve import resolve
    from archspec.source import Source

    def make(host: Path, edits: str, *, link: bool = False, subfolder: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("compiled")
        base = f"{{from: ./{host.name}, subfolder: {subfolder}}}" if subfolder else f"./{host.name}"
        (folder / host.name).symlink_to(host)
        text = f"archspec: 1\nname: made\nbase: {base}\nedits:\n{edits}"
        spec = load_source(Source(str(folder / "spec.yaml"), text))
        assert spec.base is not None
        located = locate(spec.base, folder)
        resolved = resolve(spec, complete(structure_of(located)))
        program, plan = lower(resolved), Plan(1, spec.name, {"from": spec.base.from_}, None, ())
        text_of_card = card(resolved, program, [], plan)
        content = read_content(resolved.structure)
        emit(Emission(resolved, program, located, folder, content, plan, "0" * 32, text_of_card), folder / "out", link)
        return folder / "out"

    return make
