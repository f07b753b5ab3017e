"""plan.json: the DAG of tasks that teaches the new parts, as data.

The compiler writes it (`compiler.planning`), `runtime.execute` runs it. A task's `key` hashes everything that its
result depends on (settings, data, base, keys of what it needs), so a finished artifact is found by key alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

VERSION = 1
_KEY = re.compile(r"[0-9a-f]{32}")
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
TaskKind = Literal["fit", "regress", "finetune", "evaluate"]


@dataclass(frozen=True)
class Cost:
    """What a task needs: `examples` seen, `flops`, `cache_bytes` of activations or Gram matrices held at once."""

    examples: int = 0
    flops: int = 0
    cache_bytes: int = 0


@dataclass(frozen=True)
class Task:
    """`id` is readable (`fit/blocks[1].attn`); `sites` are paths in the base; `wave` groups the tasks of one
    teacher pass."""

    id: str
    kind: TaskKind
    key: str
    sites: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()
    wave: int = 0


@dataclass(frozen=True)
class Plan:
    """`base` and `data` hold what the tasks run on, resolved; `tasks` are in a topological order."""

    version: int
    spec: str
    base: Mapping[str, Any]
    data: Mapping[str, Any] | None
    tasks: tuple[Task, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        """Read what `to_json` wrote; the data may be anyone's. Raises ValueError on anything else."""
        if not isinstance(data, Mapping) or set(data) != {f.name for f in fields(Plan)}:
            raise ValueError("a plan has version, spec, base, data and tasks, and nothing else")
        if type(data["version"]) is not int or data["version"] > VERSION:
            raise ValueError(f"version {data['version']!r}; this archspec reads plans up to {VERSION}")
        if not isinstance(data["spec"], str) or not isinstance(data["base"], Mapping):
            raise ValueError("'spec' is a text and 'base' an object")
        if not isinstance(data["data"], Mapping | None) or not isinstance(data["tasks"], list | tuple):
            raise ValueError("'data' is an object or null and 'tasks' a list")
        tasks: dict[str, Task] = {}
        for item in data["tasks"]:
            task = _task(item)
            if task.id in tasks or not all(need in tasks for need in task.needs):
                raise ValueError(f"task '{task.id}' stands twice, or before what it needs")
            tasks[task.id] = task
        return Plan(data["version"], data["spec"], data["base"], data["data"], tuple(tasks.values()))

    def task(self, id: str) -> Task:
        return next(t for t in self.tasks if t.id == id)

    def ancestors(self, task: Task) -> tuple[Task, ...]:
        """Return all that a task needs, directly or not, in the plan's order."""
        wanted, found = set(task.needs), list[Task]()
        for other in reversed(self.tasks):
            if other.id in wanted:
                wanted |= set(other.needs)
                found.append(other)
        return tuple(reversed(found))


def _task(item: Any) -> Task:
    """Read one task. A key is a folder's name and a site a module path, so their letters are checked."""
    if not isinstance(item, Mapping) or set(item) != {f.name for f in fields(Task)}:
        raise ValueError("a task has " + ", ".join(f.name for f in fields(Task)) + ", and nothing else")
    if item["kind"] not in get_args(TaskKind):
        raise ValueError(f"unknown kind of task {item['kind']!r}")
    if not _matches(_KEY, item["key"]) or not isinstance(item["id"], str) or not isinstance(item["settings"], Mapping):
        raise ValueError("a task has an id, a key of 32 hexadecimal digits, and settings")
    for name, form in (("sites", _PATH), ("needs", None)):
        found = item[name]
        if not isinstance(found, list | tuple) or not all(_matches(form, entry) for entry in found):
            raise ValueError(f"'{name}' of task '{item['id'][:80]}' is not a list of names")
    cost = item["cost"]
    if not isinstance(cost, Mapping) or set(cost) != {f.name for f in fields(Cost)}:
        raise ValueError("a cost has examples, flops and cache_bytes")
    if any(type(n) is not int or n < 0 for n in (item["wave"], *cost.values())):
        raise ValueError(f"cost and wave of task '{item['id'][:80]}' are counts")
    return Task(**{**item, "sites": tuple(item["sites"]), "needs": tuple(item["needs"]), "cost": Cost(**cost)})


def _matches(form: re.Pattern[str] | None, value: Any) -> bool:
    return isinstance(value, str) and (form is None or form.fullmatch(value) is not None)


def digest(value: object) -> str:
    """Return the 32-digit content hash of plain data, independent of the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
