"""The page and the picture of the continual-learning results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from archspec.runtime.measure.intervals import interval
from benchmarks.continual import SKILLS, TASKS
from benchmarks.continual_study import BUDGETS, EXAMPLES, RANK, Measured, Plan, Row
from benchmarks.plots import Curve, curves

HEAD = """# Continual learning: three skills in a row

Written by `make repro-continual`. A Llama of {params:,} parameters, trained here for each seed, copies strings of six
letters; then it learns to sort them, to reverse them, and to shift each by three, one skill after another. The
prompt says by a word what is to be done: each task has four words that mean it. The base knows from lines of words
which go together; skills and routers learn from three of them, tests draw from all four. {tests:,} strings of each
task, right where all six letters are; means over {seeds} seeds, which differ in everything but the tests, with 95 %
intervals (Student's t).

- **task given**: the caller names the task. **routed**: the router tells it from the prompt, by the base's own
  embedding (mean of its last hidden states) of {examples} examples per task. Copying is a task of no pack.
- **kept**: mean of the three skills at the end. **forgotten**: mean over sorting and reversing of the best accuracy
  after any earlier stage, less that at the end (https://arxiv.org/abs/1801.10112).
- **bytes**: what is kept at the end beside the base, float32; sequential, joint and merged models replace the base.
- Merges are `archspec merge`'s, of the three tuned models; their weights and densities are the best of a few on other
  strings, which favours them. Joint training sees all four tasks at once, in {joint:,} steps; a skill by itself takes
  {skill:,} of as many strings, a LoRA (rank {rank}, all linear maps, peft) {lora:,}.

"""
COLUMNS = ("kept", "forgotten", *TASKS, "bytes")


def page(found: Sequence[Measured], picture: str) -> str:
    """Return docs/results/continual.md."""
    plan = Plan()
    numbers = {"tests": plan.tests, "seeds": len(found), "examples": EXAMPLES, "rank": RANK, "params": parameters()}
    steps = {"joint": plan.joint.steps, "skill": plan.skill.steps, "lora": plan.lora.steps}
    lines = [HEAD.format(**numbers, **steps), f"![accuracy after each stage]({picture})\n", "## At the end\n"]
    lines += [f"| way | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    lines += [_end(title, _of(found, title)) for title in titles(found)]
    lines += ["", "## After each stage\n", f"| way | learnt | {' | '.join(TASKS)} |", "|---" * (2 + len(TASKS)) + "|"]
    lines += [line for title in titles(found) for line in _stages(title, _of(found, title))]
    lines += ["", *(_facts(found) if all(measured.routed for measured in found) else ["Not all is measured yet."])]
    return "\n".join([*lines, ""])


def parameters() -> int:
    from benchmarks.continual import new_model

    return sum(p.numel() for p in new_model(0).parameters())


def titles(found: Sequence[Measured]) -> list[str]:
    """Return the ways that every seed has measures of."""
    common = set.intersection(*({row.title for row in measured.rows} for measured in found))
    return [row.title for row in found[0].rows if row.title in common]


def _of(found: Sequence[Measured], title: str) -> list[Row]:
    """Return the row of each seed."""
    return [next(row for row in measured.rows if row.title == title) for measured in found]


def kept(row: Row) -> float:
    return mean(row.stages[-1][1:])


def forgotten(row: Row) -> float:
    """Return the mean loss of the skills before the last, from the best that they were."""
    end = row.stages[-1]
    return mean(max(stage[t] for stage in row.stages[t - 1 : -1]) - end[t] for t in range(1, len(SKILLS)))


def _end(title: str, rows: Sequence[Row]) -> str:
    joint = title.startswith("all tasks")
    cells = [interval([kept(row) for row in rows], 3), "" if joint else interval(map(forgotten, rows), 3)]
    cells += [f"{mean(row.stages[-1][t] for row in rows):.3f}" for t in range(len(TASKS))]
    return f"| {title} | {' | '.join(cells)} | {mean(row.size for row in rows):,.0f} |"


def _stages(title: str, rows: Sequence[Row]) -> list[str]:
    if title.startswith("all tasks"):
        return []
    return [
        f"| {title if place == 0 else ''} | {skill} | "
        + " | ".join(interval([row.stages[place][t] for row in rows], 3) for t in range(len(TASKS)))
        + " |"
        for place, skill in enumerate(SKILLS)
    ]


def _facts(found: Sequence[Measured]) -> list[str]:
    exact = sum(measured.exact for measured in found)
    lines = ["## What stays, and how requests are routed\n"]
    lines.append(
        "- After each stage the answers of packs learnt before (all logits of their tests, task given) and the base's\n"
        f"  content are equal bit by bit to what they were: in {exact} of {len(found)} seeds."
    )
    for by in found[0].routed:
        seen, unseen = (interval([measured.routed[by][place] for measured in found], 3) for place in (0, 1))
        lines.append(f"- Routed by {by}, {seen} of the requests go to their task, by the unseen word {unseen}.")
    switch = mean(measured.switch for measured in found)
    count = found[0].exchanged
    lines.append(f"- From one skill to another ({count} tensors exchanged) takes {switch:.2f} ms, the least of 50.")
    return lines


SHOWN = {
    f"packs of {BUDGETS[-1]} %, routed by classifier": "packs, routed",
    "sequential finetuning": "sequential",
    "one LoRA, sequentially": "one LoRA",
    "merge of whole models: TIES": "TIES",
}
"""Row -> its name in the picture."""


def picture(found: Sequence[Measured], path: Path) -> None:
    """Draw the accuracy of each task over the stages: a panel per task, a line per way."""
    panels = {
        task: [Curve(name, [[r.stages[s][t] for r in _of(found, title)] for s in range(len(SKILLS))])
               for title, name in SHOWN.items() if title in titles(found)]
        for t, task in enumerate(TASKS)
    }  # fmt: skip
    curves(path, panels, [f"+ {skill}" for skill in SKILLS], "right answers")
