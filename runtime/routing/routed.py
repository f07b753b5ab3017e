"""`routed(model, router)`: a loaded model whose requests are answered each by the packs of its own task.

    with archspec.routed(model, "skills.router.safetensors", tokenizer) as skills:
        skills.route(["how many users are there?"])           # a Choice for each prompt
        logits = skills(tokenizer(prompts, ..., return_tensors="pt"))
        tokens = skills.generate(inputs, max_new_tokens=64)
        with skills.task("sql"):                              # given, for whatever the model is run for
            model(...)

Entering checks the base and decodes all packs; from then on an active set is switched by exchanging tensors (or hooks,
in mode `branch`, which needs little memory). A batch is divided by active set: every set in it runs once, on its own
rows. Where a router weighs several tasks, the outputs of the sets are averaged (probabilities, where there are
logits), row by row. That is an ensemble of outputs, at the price of a run per set; adding up the packs is another
thing, and is what several packs in one task do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.runtime.packs.check import origin
from archspec.runtime.packs.skills import Mode, Skills, digest_of, names_in, tensors_of
from archspec.runtime.routing.embed import BaseEmbedding
from archspec.runtime.routing.mixture import generate
from archspec.runtime.routing.router import Choice, Embed, Router, Set, open_router

Inputs = Mapping[str, Tensor] | Tensor
Run = Callable[[nn.Module, Any], Any]
Tasks = Sequence[str | None] | str
"""Of each request its task (None: the base), or one task for all."""
Share = Mapping[Set, float]
"""Active set -> weight, of one request."""


class Routed(AbstractContextManager["Routed"]):
    """A model and a router. The model has packs on it only while one of the methods runs."""

    def __init__(self, model: nn.Module, router: Router, embed: Embed | None, mode: Mode) -> None:
        self.model, self.router, self._embed = model, router, embed
        sets = dict.fromkeys(router.active(task) for task in router.routing.names)
        self._skills = {active: Skills(model, router.uses(active), mode) for active in sets if active}

    def __enter__(self) -> Self:
        self._check()
        for skills in self._skills.values():
            skills.prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _check(self) -> None:
        """Hold the model to the base whose embeddings the router knows: AS689. Packs look at what they change alone."""
        embedding, tensors = self.router.routing.embedding, tensors_of(self.model)
        digests = embedding.digests if embedding is not None else {}
        names = {own: name for own, name in names_in(self.model, digests).items() if name is not None}
        wrong = [name for own, name in names.items() if digest_of(tensors[name].detach()) != digests[own]]
        if wrong or (digests and not names):
            what = f"'{wrong[0]}' has other values or another data type" if wrong else "it has none of its tensors"
            hint = origin(self.router.routing.base)
            raise fail("AS689", f"the model is not the base of '{self.router.routing.name}': {what}", None, hint)

    def task(self, name: str | None) -> AbstractContextManager[object]:
        """Return a context in which the packs of a task are on the model; None: the base. AS687."""
        return self.switched(self.router.active(name) if name is not None else ())

    def switched(self, active: Set) -> AbstractContextManager[object]:
        """Return a context in which an active set is on the model."""
        return self._skills[active] if active else nullcontext()

    def route(self, requests: Any) -> list[Choice]:
        """Return the choice for each request: a list of prompts, or the model's inputs. AS687 of a map."""
        if any(skills.is_on for skills in self._skills.values()):
            raise RuntimeError("packs are on the model, and prompts are embedded by the base: route before `task`")
        return self.router.route(requests, self._embed)

    def __call__(self, inputs: Inputs, tasks: Tasks | None = None, run: Run | None = None) -> Tensor:
        """Return the model's output, its rows in the order of the requests.

        `inputs`: named tensors, or one, batch first. `tasks`: of each request, or one name for all, where they are
        known. `run(model, inputs)`: by default the model's own call; of an output with `logits` these are returned (of
        several sets the logarithm of their mean probabilities), of others the first tensor. AS687."""
        shares = self._shares(inputs, tasks)
        found = [
            (active, rows, *_read((run or _run)(self.model, taken(inputs, rows))))
            for active, rows in self._on_each(_rows(shares))
        ]
        return _combined(found, shares)

    def generate(self, inputs: Inputs, tasks: Tasks | None = None, **options: Any) -> Tensor:
        """Return tokens as `model.generate` does, each request by its own packs; rows that end early are padded.

        Of several sets, the next token's probabilities are averaged at every step."""
        shares, inputs = self._shares(inputs, tasks), inputs if isinstance(inputs, Mapping) else {"input_ids": inputs}
        alike: dict[tuple[Set, ...], list[int]] = {}
        for row, share in enumerate(shares):
            alike.setdefault(tuple(share), []).append(row)
        found: dict[int, Tensor] = {}
        for sets, rows in alike.items():
            weights = torch.tensor([[shares[row][active] for active in sets] for row in rows])
            out = generate(self.model, taken(inputs, rows), [self.switched(s) for s in sets], weights, options)
            found |= zip(rows, out, strict=True)
        return _joined([found[row] for row in range(len(shares))], self.model)

    def _shares(self, inputs: Inputs, tasks: Tasks | None) -> list[Share]:
        choices = self.route(inputs) if tasks is None else self._given(tasks, _count(inputs))
        return [self._share(choice) for choice in choices]

    def _given(self, tasks: Tasks, count: int) -> list[Choice]:
        """Return the choice of `count` requests whose tasks are known. AS687 where there are more or fewer of them."""
        each = [tasks] * count if isinstance(tasks, str) else tasks
        if len(each) != count:
            message = f"{len(each)} task{'' if len(each) == 1 else 's'} for {count} request{'' if count == 1 else 's'}"
            raise fail("AS687", message, None, "give one of each request, None for the base, or one name for all")
        return self.router.given(each)

    def _share(self, choice: Choice) -> Share:
        """Return the sets of a choice; tasks of one set share their weights."""
        found: dict[Set, float] = {}
        for task, weight in choice.weights.items():
            active = self.router.active(task)
            found[active] = found.get(active, 0.0) + weight
        return found or {(): 1.0}

    def _on_each(self, rows: Mapping[Set, list[int]]) -> Iterator[tuple[Set, list[int]]]:
        """Yield every set with its rows, while it is on the model."""
        for active, some in rows.items():
            with self.switched(active):
                yield active, some


def routed(
    model: nn.Module,
    router: str | Path | Router,
    tokenizer: Any = None,
    embed: Embed | None = None,
    mode: Mode = "weights",
) -> Routed:
    """Return a model whose requests are answered each by the packs of its own task, to be entered by `with`.

    `tokenizer`: for prompts that are text. `embed`: requests -> (requests, width), for a router that was made of
    embeddings of the caller's. AS688 for a file that is no sound router, AS689 for packs of another base than the
    router's; when it is entered, AS681 or AS689 for a model that is not that base."""
    opened = router if isinstance(router, Router) else open_router(router)
    embedding = opened.routing.embedding
    if embed is None and embedding is not None and embedding.of == "base":
        embed = BaseEmbedding(model, embedding, tokenizer)
    return Routed(model, opened, embed, mode)


def taken(inputs: Inputs, rows: list[int]) -> Any:
    """Return some rows of the inputs."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: value[rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _count(inputs: Inputs) -> int:
    """Return how many requests there are: rows of the first tensor."""
    tensors = [inputs] if isinstance(inputs, Tensor) else [v for v in inputs.values() if isinstance(v, Tensor)]
    return len(tensors[0]) if tensors else 0


def _run(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def _read(output: Any) -> tuple[Tensor, bool]:
    """Return the tensor of an output, and whether it is of logits."""
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits, True
    return (output if isinstance(output, Tensor) else output[0]), False


def _rows(shares: Sequence[Share]) -> dict[Set, list[int]]:
    found: dict[Set, list[int]] = {}
    for row, share in enumerate(shares):
        for active in share:
            found.setdefault(active, []).append(row)
    return found


def _combined(found: Sequence[tuple[Set, list[int], Tensor, bool]], shares: Sequence[Share]) -> Tensor:
    """Return the rows in order: those of one set as they came, bit by bit, those of several averaged."""
    _, _, first, is_logits = found[0]
    mixed = torch.tensor([len(share) > 1 for share in shares])
    dtype = torch.promote_types(first.dtype, torch.float32) if mixed.any() else first.dtype
    total = first.new_zeros(len(shares), *first.shape[1:], dtype=dtype)
    for active, rows, output, _ in found:
        where = torch.tensor(rows)
        several = mixed[where]
        total[where[~several]] = output[~several].to(dtype)
        weight = torch.tensor([shares[row][active] for row in where[several].tolist()]).to(total)
        values = output[several].to(dtype)
        values = torch.softmax(values, -1) if is_logits else values
        total[where[several]] += weight.reshape(-1, *[1] * (values.dim() - 1)) * values
    if is_logits and mixed.any():
        total[mixed] = total[mixed].log()
    return total


def _joined(rows: Sequence[Tensor], model: Any) -> Tensor:
    """Return (requests, longest): rows with the model's padding behind them."""
    config = model.generation_config
    ends = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    padding = next((token for token in (config.pad_token_id, ends) if token is not None), 0)
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=float(padding))
