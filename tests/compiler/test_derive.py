"""Members that ask for the same graph are proved and priced once, and nothing of theirs is another member's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archspec.compiler import derive as deriving
from archspec.compiler.derive import Derivations
from archspec.compiler.driver import Prepared, prepare

SPEC = """archspec: 1
name: tiny
base: ./host
data: digits
seed: $seed
matrix:
  ratio: [1, 2]
  seed: [0, 1]
  init: [inherit, least_squares]
edits:
  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: $ratio}, init: {kind: $init}}
finetune: {steps: 1}
"""


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def counted(resolved: Any) -> Any:
        found.append(resolved)
        return capture(resolved)

    capture = deriving._capture
    monkeypatch.setattr(deriving, "_capture", counted)
    return found


def told(ready: Prepared) -> list[Any]:
    return [ready.program, ready.proof.to_json(), ready.cost.to_json(), ready.plan.to_json(), ready.resolved.to_json()]


def test_seeds_and_first_weights_do_not_change_the_graph(tiny_dit: Path, tmp_path: Path, captured: list[Any]) -> None:
    (tmp_path / "host").symlink_to(tiny_dit)
    path, known = tmp_path / "spec.yaml", Derivations()
    path.write_text(SPEC)
    names = [f"ratio={r},seed={s},init={i}" for r in (1, 2) for s in (0, 1) for i in ("inherit", "least_squares")]
    shared = [prepare(path, member=name, known=known) for name in names]
    assert len(captured) == 2
    assert [told(one) for one in shared] == [told(prepare(path, member=name)) for name in names]
    assert len(captured) == 2 + len(names)


def test_hosts_have_graphs_of_their_own(tiny_dit: Path, tiny_pixart: Path, tmp_path: Path, captured: list[Any]) -> None:
    (tmp_path / "host").symlink_to(tiny_dit)
    (tmp_path / "other").symlink_to(tiny_pixart)
    known = Derivations()
    for base in ("host", "other", "host"):
        (tmp_path / "spec.yaml").write_text(f"archspec: 1\nname: x\nbase: ./{base}\nedits: []\n")
        prepare(tmp_path / "spec.yaml", known=known)
    assert len(captured) == 2
