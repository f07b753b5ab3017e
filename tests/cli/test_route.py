"""route, packs route: a router made and asked, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from archspec.cli import main
from tests.packs import tuned_from
from tests.runtime.routing.conftest import shop, write_spec

__all__ = ["shop"]


def run(*args: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(arg) for arg in args])
    assert found.exit_code == code, found.output
    return found.output


@pytest.fixture(scope="module")
def router(shop: Path) -> Path:
    out = shop / "cli.router.safetensors"
    said = run("route", write_spec(shop, "cli", "by: prototypes, layer: 0, threshold: 0.2"), "-o", out)
    assert "sql: sql.skillpack.safetensors x 1  (5 examples)" in said
    assert "chat: the base  (4 examples)" in said
    assert "below 0.200 the base answers" in said
    return out


def test_prompts_are_routed(shop: Path, router: Path) -> None:
    rows = json.loads(run("packs", "route", router, "count users", "print loop", "--base", shop / "base", "--json"))
    assert [row["tasks"][0]["task"] for row in rows] == ["sql", "code"]
    assert rows[0]["tasks"][0]["packs"] == [["sql.skillpack.safetensors", 1.0]]
    assert all(row["score"] > 0.2 for row in rows)
    said = run("packs", "route", router, "--file", shop / "chat.txt", "--base", shop / "base")
    assert "'hello you': chat 1.00" in said
    assert said.count("no pack") == 4


def test_tasks_are_looked_up_without_a_base(router: Path) -> None:
    assert "  sql.skillpack.safetensors x 1" in run("packs", "route", router, "--task", "sql")
    assert "AS687" in run("packs", "route", router, "--task", "sqll", code=1)


def test_another_base_is_refused(shop: Path, router: Path, tmp_path: Path) -> None:
    other = tuned_from(shop / "base", tmp_path / "other")
    said = run("packs", "route", router, "count", "--base", other, code=1)
    assert "AS689" in said
    assert "Traceback" not in said


def test_a_map_is_told_the_task(shop: Path, tmp_path: Path) -> None:
    tasks = "{name: sql, packs: [sql.skillpack.safetensors]}, {name: chat, packs: []}"
    out = tmp_path / "map.router.safetensors"
    found = json.loads(run("route", write_spec(shop, "told", "by: map", tasks), "-o", out, "--json"))
    assert (found["by"], found["embedding"], found["out"]) == ("map", None, str(out))
    assert "AS687" in run("packs", "route", out, "count", "--base", shop / "base", code=1)


def test_what_is_asked_must_be_said(router: Path, shop: Path) -> None:
    run("packs", "route", router, code=2)
    run("packs", "route", router, "count", code=2)
    run("packs", "route", router, "count", "--base", shop / "base", "--task", "sql", code=2)


@pytest.mark.parametrize("prompt", ["count users", "print loop", "hello you"])
def test_prompts_are_answered_by_their_packs(shop: Path, router: Path, prompt: str) -> None:
    """As by the checkpoint that the pack is attached to; by the base where the task has none."""
    base, say = shop / "base", ("--prompt", prompt, "--tokens", "5", "--device", "cpu")
    pack = {"count users": "sql", "print loop": "code"}.get(prompt)
    if pack:
        run("attach", base, shop / f"{pack}.skillpack.safetensors", "-o", shop / f"with-{pack}")
    wanted = run("sample", shop / f"with-{pack}" if pack else base, *say)
    assert run("sample", base, "--router", router, *say) == wanted
    assert run("sample", base, "--router", router, "--task", pack or "chat", *say) == wanted
    others = {run("sample", base, "--router", router, "--task", task, *say) for task in ("sql", "code", "chat")}
    assert len(others) > 1
    run("sample", base, "--task", "sql", *say, code=2)


def test_mistakes_of_a_spec_are_told_together(shop: Path) -> None:
    tasks = "{name: a, packs: [], examples: nowhere.txt}, {name: b, packs: [base/model.safetensors]}"
    said = run("route", write_spec(shop, "bad", "by: classifier, top: 3, threshold: 2", tasks), code=1)
    assert {code for code in ("AS678", "AS679", "AS680", "AS686") if code in said} == {
        "AS678", "AS679", "AS680", "AS686",
    }  # fmt: skip
    assert not (shop / "bad.router.safetensors").exists()


def test_a_single_example_is_too_few(shop: Path) -> None:
    (shop / "one.txt").write_text("\n  count users \n\n")
    tasks = "{name: a, packs: [], examples: one.txt}"
    assert "task 'a' has 1 example" in run("route", write_spec(shop, "few", "by: prototypes", tasks), code=1)


def test_a_router_replaces_routers_alone(shop: Path, tmp_path: Path) -> None:
    tasks = "{name: sql, packs: [sql.skillpack.safetensors]}, {name: chat, packs: []}"
    spec = write_spec(shop, "own", "by: map", tasks)
    (tmp_path / "notes.txt").write_text("keep")
    assert "AS630" in run("route", spec, "-o", tmp_path / "notes.txt", code=1)
    assert (tmp_path / "notes.txt").read_text() == "keep"
    for _ in range(2):
        run("route", spec, "-o", tmp_path / "mine")


def test_packs_that_the_router_would_not_open_are_refused(shop: Path, tmp_path: Path) -> None:
    """Its tensors are the base's, and the config of its base was another."""
    shutil.copytree(shop, tmp_path / "shop")
    config = json.loads((tmp_path / "shop" / "base" / "config.json").read_text()) | {"rms_norm_eps": 0.1}
    (tmp_path / "shop" / "base" / "config.json").write_text(json.dumps(config))
    tasks = "{name: sql, packs: [sql.skillpack.safetensors]}, {name: chat, packs: []}"
    spec = write_spec(tmp_path / "shop", "own", "by: map", tasks)
    assert "AS689" in run("route", spec, "-o", tmp_path / "mine", code=1)
    assert not (tmp_path / "mine").exists()
