"""The model card's account of quality, written anew when a run has learned or measured something."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archspec.plan import Plan
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.files import replace_text
from archspec.runtime.store.publish import relock

CARD = "README.md"
_SECTION = re.compile(r"^## Quality$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def update_card(workspace: Workspace, plan: Plan) -> None:
    """Put what is known of the result into the card's section on quality; a card without one is left as it is."""
    path = workspace.folder / CARD
    if not path.is_file():
        return
    before = path.read_text("utf-8")
    body = "\n\n".join(_paragraphs(workspace, plan))
    after = _SECTION.sub(lambda _: f"## Quality\n\n{body}\n\n", before, count=1)
    if after != before:
        replace_text(path, after)
        relock(workspace, [CARD])


def _paragraphs(workspace: Workspace, plan: Plan) -> Iterator[str]:
    measured = [
        workspace.report(t.key)["measured"] for t in plan.tasks if _is_done(workspace, t.key, t.kind == "evaluate")
    ]
    for found in measured:
        names = dict.fromkeys([*found["host"], *found["result"]])
        yield _table(
            ("measure", "base", "result"), [(n, *(_cell(found[s], n) for s in ("host", "result"))) for n in names]
        )
    if not measured:
        yield "Not measured."
    learned = [t for t in plan.tasks if t.kind != "evaluate"]
    waiting = sum(not workspace.finished(t.key) for t in learned)
    if waiting:
        yield f"{waiting} of {len(learned)} tasks that teach the new parts are still to be run: `archspec run`."
    rows = [
        (task.id, f"{o['before']:.4f}", f"{o['after'] if o['kept'] else o['before']:.4f}")
        for task in learned
        if workspace.finished(task.key)
        for o in workspace.report(task.key)["outcomes"]
    ]
    if rows:
        yield "Relative errors to the base's activations on held-out examples:"
        yield _table(("task", "before", "after"), rows)
    finished = [workspace.report(task.key) for task in learned if workspace.finished(task.key)]
    yield from (_kept(report) for report in finished if "judged" in report)


def _kept(report: Mapping[str, Any]) -> str:
    """Say which weights of a finetuning stayed, and why."""
    values = dict(map(tuple, report["judged"]))
    by = {"loss": "loss", "teacher": "distance to the base's output"}[report["judged_by"]]
    stayed = f"The weights after step {report['kept']}" if report["kept"] else "The weights before the first step"
    told = f"{values[0]:.4g} before, {values[report['kept']]:.4g} kept, {values[report['steps']]:.4g} at the end"
    kept = f"{stayed} of {report['steps']} of the finetuning were kept"
    return f"{kept}: on held-out examples their {by} was least ({told})."


def _is_done(workspace: Workspace, key: str, wanted: bool) -> bool:
    return wanted and workspace.finished(key)


def _cell(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.4g}" if name in values else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
