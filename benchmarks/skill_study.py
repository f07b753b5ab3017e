"""What is left of a skill when what tuning changed is compressed: SmolLM2-135M and the skill of `benchmarks.skill_sql`.

Accuracy is that of greedy answers to held-out questions, word for word with the end: greedy decoding writes the wanted
answer if and only if every one of its tokens is the most probable after those before it, so that one run over prompt
and answer tells. Losses are those of the answers, and of texts that have nothing to do with the skill. Every row is
kept as a file, so a stopped study goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.compiler.packing.pack import job_of, pack_budgets
from archspec.runtime.packs.reading import open_pack
from benchmarks.deltas import FIXED, METHODS, Delta, Method, Subject, fitted
from benchmarks.retrieval import AT_HOME, read
from benchmarks.skill_sql import examples
from benchmarks.skill_tune import IGNORED, batched, encoded, host, tune

BUDGETS = (5, 2, 10)
QUESTIONS, SEED = 96, 1
BATCH = 16
GENERAL = 4
"""Of the general texts of `data/questions.jsonl` every so many."""
PACK, TUNED, BASE = "SkillPack", "tuned model", "base (nothing)"
CHOSEN = ("rank-f16", "delta-come", "pruning")
"""Methods with a setting that are measured at the bytes of packs."""


@dataclass(frozen=True)
class Row:
    """Lists are of questions, or of general texts. `loss` is summed over tokens."""

    title: str
    size: int
    error: float
    right: list[int]
    loss: list[float]
    tokens: list[int]
    general_loss: list[float]
    general_tokens: list[int]


class Exam:
    """Measures a model: the host, with something added to it."""

    def __init__(self, out: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(host(out))
        self.model: Any = AutoModelForCausalLM.from_pretrained(host(out), dtype=torch.float32).eval()
        self.base = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.pad: int = tokenizer.eos_token_id
        self.asked = encoded(tokenizer, examples(QUESTIONS, SEED, held=True))
        texts = [f"{r['question']} {r['answer']}" for r in read("questions") if r["topic"] not in AT_HOME][::GENERAL]
        ids = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]] for text in texts]
        self.general = [{"input_ids": row, "labels": [IGNORED, *row[1:]]} for row in ids]

    def row(self, title: str, size: int, error: float, delta: Delta) -> Row:
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.base[name] + delta[name] if name in delta else self.base[name])
        asked, general = list(self._run(self.asked)), list(self._run(self.general))
        return Row(
            title,
            size,
            error,
            right=[int(right) for right, _, _ in asked],
            loss=[loss for _, loss, _ in asked],
            tokens=[count for _, _, count in asked],
            general_loss=[loss for _, loss, _ in general],
            general_tokens=[count for _, _, count in general],
        )

    @torch.no_grad()
    def _run(self, rows: Sequence[dict[str, list[int]]]) -> Iterator[tuple[bool, float, int]]:
        """Yield of each row whether all its labels are the most probable, its summed loss, and its labels' count."""
        for start in range(0, len(rows), BATCH):
            batch = batched(rows[start : start + BATCH], self.pad)
            labels = batch.pop("labels")[:, 1:]
            states = self.model.model(**batch).last_hidden_state[:, :-1]
            for one, wanted in zip(states, labels, strict=True):
                at = wanted != IGNORED
                logits = self.model.lm_head(one[at])
                loss = torch.nn.functional.cross_entropy(logits, wanted[at], reduction="sum")
                yield bool((logits.argmax(1) == wanted[at]).all()), float(loss), int(at.sum())


@dataclass(frozen=True)
class Tuning:
    """One tuned model: where it is, and what is made of it."""

    kind: str
    out: Path

    @property
    def folder(self) -> Path:
        folder = self.out / f"{self.kind}-study"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def spec(self) -> Path:
        path = self.folder / "skill.yaml"
        source = f"{'lora' if self.kind == 'lora' else 'tuned'}: {tune(self.kind, self.out).absolute()}"
        path.write_text(f"name: sql-{self.kind}\nbase: {host(self.out).absolute()}\npack: {{{source}, budget: 5%}}\n")
        return path

    @cached_property
    def subject(self) -> Subject:
        source = job_of(self.spec, self.folder).source
        found = {name: source.delta(name) for name in source.names()}
        return Subject({name: delta for name, delta in found.items() if delta.any()})

    @cached_property
    def whole(self) -> int:
        """Bytes of the tensors that differ, in float32."""
        return sum(4 * d.numel() for d in self.subject.delta.values())

    def packs(self) -> dict[int, Path]:
        """Return the pack of each budget in percent, made unless they are there."""
        paths = {budget: self.folder / f"{budget}.skillpack.safetensors" for budget in BUDGETS}
        if not all(path.is_file() for path in paths.values()):
            start = time.process_time()
            pack_budgets(self.spec, {budget / 100: path for budget, path in paths.items()})
            (self.folder / "seconds").write_text(str(time.process_time() - start))
        return paths


Measure = Callable[[], Row]


def rows(tuning: Tuning, exam: Exam) -> Iterator[tuple[str, Measure]]:
    """Yield name -> what measures the row, the most telling first."""
    yield "base", partial(exam.row, BASE, 0, 1.0, {})
    yield "tuned", partial(exam.row, TUNED, tuning.whole, 0.0, tuning.subject.delta)
    paths = tuning.packs()
    for budget, path in paths.items():
        yield f"pack-{budget}", partial(_pack, tuning, exam, path)
    for budget, path in paths.items():
        for method in (method for method in METHODS if method.name in CHOSEN):
            yield f"{method.name}-{budget}", partial(_method, tuning, exam, method, path.stat().st_size)
    for method in FIXED:
        yield method.name, partial(_method, tuning, exam, method, None)


def _pack(tuning: Tuning, exam: Exam, path: Path) -> Row:
    pack = open_pack(path)
    delta = {name: pack.delta(name) for name in pack.header.tensors}
    return exam.row(PACK, path.stat().st_size, tuning.subject.error(delta), delta)


def _method(tuning: Tuning, exam: Exam, method: Method, budget: int | None) -> Row:
    """Measure a method at the largest setting that fits, or as it is."""
    setting = 1.0 if budget is None else fitted(method, tuning.subject, budget)
    assert setting is not None
    delta: Mapping[str, Tensor] = method.decode(tuning.subject, setting)
    size = method.size(tuning.subject, setting)
    return exam.row(method.title, size, tuning.subject.error(delta), delta)


def measure(tuning: Tuning) -> None:
    """Measure every row that is not on record."""
    exam = Exam(tuning.out)
    for name, run in rows(tuning, exam):
        path = tuning.folder / f"{name}.json"
        if not path.exists():
            found = run()
            print(f"{tuning.kind}: {name} {sum(found.right)} of {len(found.right)} right", flush=True)
            path.with_suffix(".part").write_text(json.dumps(asdict(found)))
            path.with_suffix(".part").rename(path)


def recorded(tuning: Tuning) -> dict[str, Row]:
    """Return name -> row of what is on record."""
    return {path.stem: Row(**json.loads(path.read_text())) for path in sorted(tuning.folder.glob("*.json"))}
