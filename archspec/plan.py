"""plan.json: the DAG of tasks that teaches the new parts, as data.

The compiler writes it (`compiler.planning`), `runtime.execute` runs it. A task's `key` hashes everything that its result
depends on (settings, data, base, keys of what it needs), so a finished artifact is found by key alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

TaskKind = Literal["fit", "regress", "finetune", "evaluate"]


@dataclass(frozen=True)
class Cost:
    """What a task needs: `examples` seen, `flops`, `cache_bytes` of activations held at once."""

    examples: int = 0
    flops: int = 0
    cache_bytes: int = 0


@dataclass(frozen=True)
class Task:
    """`id` is readable (`fit/blocks[1].attn`); `sites` are paths in the base; `wave` groups the tasks of one teacher pass."""

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
        """Read what `to_json` wrote. Raises ValueError on anything else."""
        try:
            tasks = tuple(
                Task(
                    **{
                        **task,
                        "sites": tuple(task["sites"]),
                        "needs": tuple(task["needs"]),
                        "cost": Cost(**task["cost"]),
                    }
                )
                for task in data["tasks"]
            )
            return Plan(data["version"], data["spec"], data["base"], data["data"], tasks)
        except (KeyError, TypeError) as error:
            raise ValueError(f"malformed plan: {error}") from error


def digest(value: object) -> str:
    """Return the 32-digit content hash of plain data, independent of the order of its keys.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
