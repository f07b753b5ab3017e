"""The `route` of a spec looked at: its tasks, their examples and packs, and whether its numbers make sense together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from archspec.diagnostics import Collector, Severity
from archspec.host.strict_json import open_regular
from archspec.host.structure import Structure
from archspec.language.knowledge import Route, Task
from archspec.language.spec import Spec
from archspec.packs.router import LEAST
from archspec.semantics.check.places import written_keys
from archspec.semantics.packs import use_fits

LARGEST = 64_000_000
"""Bytes of a file of examples."""
OF_EXAMPLES = ("threshold", "reject", "top", "layer", "length", "seed")
"""Keys that a map does not read."""
NOTHING = "write `route: {by: prototypes, tasks: [{name: ..., packs: [...], examples: ...}]}`"


def check_route(spec: Spec, structure: Structure, problems: Collector) -> None:
    """Report what is wrong with `route`: AS677 to AS679, AS686; AS680 and AS681 of its packs. No digest is compared."""
    if spec.route is None:
        return
    near = Path(spec.origin.span.source.name).parent if spec.origin else Path()
    _check_tasks(spec, spec.route, problems)
    _check_numbers(spec.route, problems)
    for task in spec.route.tasks:
        if spec.route.by != "map":
            _check_examples(task, near, problems)
        for use in task.packs:
            use_fits(use, near, structure, problems)


def _check_tasks(spec: Spec, route: Route, problems: Collector) -> None:
    if spec.edits:
        hint = "packs are of the base: route between packs of a host without edits"
        problems.report("AS677", "a spec that routes has no edits of its own", spec.edits[0].target.span, hint)
    if not route.tasks:
        problems.report("AS677", "a router of no tasks", route.span("tasks"), NOTHING)
    for name, count in Counter(task.name for task in route.tasks).items():
        if count > 1:
            again = [task for task in route.tasks if task.name == name][1]
            problems.report("AS677", f"two tasks are called '{name}'", again.span("name"), "give each a name")
    for task in route.tasks:
        for name, count in Counter(use.from_ for use in task.packs).items():
            if count > 1:
                problems.report("AS677", f"'{name}' is active twice", task.span("packs"), "write its `scale` instead")


def _check_numbers(route: Route, problems: Collector) -> None:
    if route.top > max(len(route.tasks), 1):
        message = f"top is {route.top} of {len(route.tasks)} task{'s' * (len(route.tasks) != 1)}"
        problems.report("AS679", message, route.span("top"), f"write at most {len(route.tasks)}")
    if route.by == "map":
        unread = [(route, key) for key in OF_EXAMPLES] + [(task, "examples") for task in route.tasks]
        for node, key in ((node, key) for node, key in unread if key in written_keys(node)):
            message = f"{key} has no effect: a map is told the task"
            problems.report("AS322", message, node.span(key), "leave it out", severity=Severity.WARNING)
        return
    least = LEAST[route.by]
    if route.threshold is not None and not least <= route.threshold <= 1:
        what = "a cosine" if route.by == "prototypes" else "a probability"
        message = f"the threshold is {route.threshold:g}, but {what} is from {least:g} to 1"
        problems.report("AS686", message, route.span("threshold"), "leave it out, and it is found by `reject`")
    elif route.threshold is not None and "reject" in written_keys(route):
        hint = "write threshold, or reject: the part of the examples that may score below it"
        problems.report("AS677", "threshold and reject are both written", route.span("reject"), hint)


def _check_examples(task: Task, near: Path, problems: Collector) -> None:
    if task.examples is None:
        hint = "write `examples: FILE`, prompts of this task, one a line"
        problems.report("AS678", f"task '{task.name}' has no examples", task.span("name"), hint)
        return
    path = near / Path(task.examples).expanduser()
    if not path.is_file():
        problems.report("AS678", f"there is no file '{task.examples}' of examples", task.span("examples"))
    elif not examples_of(path):
        problems.report("AS678", f"'{task.examples}' has no examples", task.span("examples"), "write one a line")


def examples_of(path: Path) -> list[str]:
    """Return the prompts of a file: its lines that are not blank."""
    with open_regular(path, None) as file:
        text = file.read(LARGEST).decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
