"""The header of a router: tasks with their active packs, and how a request is told which task it is of.

A router is a safetensors file whose metadata has the key `router` with a JSON text. A map holds no tensor. The
others hold a head, float32: with e the embedding of a prompt and z = (e - center) / spread,

    prototypes   score of task t = cos(z, weight[t])          center (width), weight (tasks, width); spread is 1
    classifier   score = softmax((weight z + bias) / temperature)     and spread (width), bias (tasks)

The task of the best score answers, the base where that is below `threshold`. Of the `top` best, weights are
softmax(score or logit / temperature) among themselves. Everything is read strictly, and checked whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from archspec.diagnostics import fail
from archspec.host.headers import read_header
from archspec.host.strict_json import Malformed, is_real
from archspec.packs.header import ROUTER, metadata_of, parsed
from archspec.packs.terms import LARGEST_SCALE

KEY, VERSION = ROUTER, 1
AGAIN = "make it again: `archspec route SPEC -o ROUTER`"
Kind = Literal["map", "prototypes", "classifier"]
LEAST: Mapping[str, float] = {"prototypes": -1.0, "classifier": 0.0}
"""Least score; the largest is 1."""
MOST = 2**20
"""Largest width, and number of tasks."""


@dataclass(frozen=True)
class Active:
    """A pack that is active for a task. `file`: its path, from the router's folder."""

    file: str
    scale: float = 1.0


@dataclass(frozen=True)
class Task:
    """A task and its active set; none: the base alone."""

    name: str
    packs: tuple[Active, ...]


@dataclass(frozen=True)
class Embedding:
    """What prompts are told apart by. `of` base: the mean over a prompt's tokens (the first `length`) of the base's
    hidden states behind `layer`, None: the last; given: by a function of the caller. `digests`: tensor of the base ->
    XXH3-128 of its data, hexadecimal."""

    of: Literal["base", "given"]
    width: int
    layer: int | None = None
    length: int = 512
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Routing:
    """`base`: from (a name), fingerprint (its content). `made`: what is known of how well it routes, for people."""

    name: str
    by: Kind
    base: Mapping[str, str]
    tasks: tuple[Task, ...]
    embedding: Embedding | None = None
    threshold: float = -1.0
    temperature: float = 1.0
    top: int = 1
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    def parts(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of every tensor of the file; all are F32."""
        if self.embedding is not None:
            width = self.embedding.width
            yield from (("center", (width,)), ("weight", (len(self.tasks), width)))
            if self.by == "classifier":
                yield from (("spread", (width,)), ("bias", (len(self.tasks),)))

    def to_text(self) -> str:
        tasks = [{"name": t.name, "packs": [vars(pack) for pack in t.packs]} for t in self.tasks]
        embedding = vars(self.embedding) if self.embedding else None
        content = {**vars(self), "format": VERSION, "tasks": tasks, "embedding": embedding}
        return json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def read_routing(path: Path) -> Routing:
    """Return the header of a router. AS610 to AS617 where the file is damaged, AS688 where it contradicts itself."""
    found = {name: (part.dtype, part.shape) for name, part in read_header(path).items()}
    text = metadata_of(path).get(KEY)
    if text is None:
        raise fail("AS688", f"'{path}' is no router: its metadata has no '{KEY}'", None, AGAIN)
    try:
        router = _routing(parsed(text))
    except ValueError as error:
        raise fail("AS688", f"the header of '{path.name}' {error}", None, AGAIN) from error
    if found != {name: ("F32", shape) for name, shape in router.parts()}:
        raise fail("AS688", f"'{path.name}' does not hold the tensors that its header calls for", None, AGAIN)
    return router


def _routing(value: Any) -> Routing:
    if not isinstance(value, dict):
        raise Malformed("is no map of keys")
    if value.get("format") != VERSION:
        raise Malformed(f"has format {value.get('format')!r}; this archspec reads {VERSION}")
    by, base, made = value.get("by"), _texts(value.get("base")), value.get("made", {})
    if by not in ("map", *LEAST) or not isinstance(value.get("name"), str) or not isinstance(made, dict):
        raise Malformed("lacks name or kind")
    tasks = tuple(map(_task, _list(value.get("tasks"), "tasks")))
    if not tasks or len({task.name for task in tasks}) != len(tasks):
        raise Malformed("has no tasks, or two of one name")
    threshold, temperature = _real(value.get("threshold")), _real(value.get("temperature"))
    if not LEAST.get(by, -1.0) <= threshold <= 1 or temperature <= 0:
        raise Malformed("has an impossible threshold or temperature")
    top = _count(value.get("top"))
    if top > len(tasks):
        raise Malformed("averages more tasks than it has")
    embedding = _embedding(value.get("embedding")) if by != "map" else None
    return Routing(value["name"], cast(Kind, by), base, tasks, embedding, threshold, temperature, top, made)


def _task(value: Any) -> Task:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise Malformed("has a task without a name")
    return Task(value["name"], tuple(map(_active, _list(value.get("packs"), "packs of a task"))))


def _active(value: Any) -> Active:
    if not isinstance(value, dict) or not isinstance(value.get("file"), str):
        raise Malformed("has a pack without a file")
    scale = _real(value.get("scale"))
    if abs(scale) > LARGEST_SCALE:
        raise Malformed("has a pack with an impossible scale")
    return Active(value["file"], scale)


def _embedding(value: Any) -> Embedding:
    if not isinstance(value, dict) or value.get("of") not in ("base", "given"):
        raise Malformed("does not say what prompts are told apart by")
    layer = value.get("layer")
    if layer is not None and type(layer) is not int:
        raise Malformed("has a layer that is no number")
    width, length = (_count(value.get(key)) for key in ("width", "length"))
    return Embedding(value["of"], width, layer, length, _texts(value.get("digests")))


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Malformed("lacks a base, or the digests of its tensors")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST:
        raise Malformed(f"has {what} that are no list")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST:
        raise Malformed("has a count that is none")
    return value


def _real(value: Any) -> float:
    if not is_real(value):
        raise Malformed("has a number that is none")
    return float(value)
