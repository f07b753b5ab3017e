"""What sentence embeddings are good for: answers found to questions, graded pairs put in order.

`data/questions.jsonl` has questions with one answer each, in topics of operating systems at scale (where the fine-tune
is at home) and others; every question is asked of all answers, those of its own topic among them. `data/terms.jsonl`
is of the form that the fine-tune was made on: descriptions, and the terms of its domain that they describe.
`data/similarity.jsonl` has pairs of sentences by this rubric (that of SemEval's semantic textual similarity):

    5  they say the same                            2  not the same, but a thing or detail is shared
    4  the same but for details that hardly matter  1  no more than the topic is shared
    3  much is shared, something that matters differs   0  nothing is shared

Both were written for this benchmark, by one hand; grades are the writer's, not an average of annotators.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr
from torch import Tensor
from torchmetrics.functional.retrieval import retrieval_recall, retrieval_reciprocal_rank

DATA = Path(__file__).parent / "data"
AT_HOME = (
    "kubernetes", "incidents", "databases", "networks", "observability", "deployment", "storage", "security", "queues",
)  # fmt: skip
"""Topics of the fine-tune's own domain."""
LENGTH = 64
"""Tokens of a text that are read."""
RESAMPLES = 2000
Values = NDArray[np.float64]
Embed = Callable[[str], Tensor]
"""Name of a set of texts -> embeddings (texts, width) of length 1."""


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]


def texts() -> dict[str, list[str]]:
    """Return the sets of texts that are embedded."""
    questions, terms, pairs = read("questions"), read("terms"), read("similarity")
    return {
        "sentences": (DATA / "sentences.txt").read_text("utf-8").splitlines(),
        "questions": [row["question"] for row in questions],
        "answers": [row["answer"] for row in questions],
        "descriptions": [row["question"] for row in terms],
        "terms": [row["answer"] for row in terms],
        "a": [row["a"] for row in pairs],
        "b": [row["b"] for row in pairs],
    }


@dataclass(frozen=True)
class Scores:
    """Of each sentence, question or pair. The first three tell how near a model is to the tuned one, the others how
    good it is."""

    cosine: Values
    """To the tuned model's embedding of each sentence."""
    order: Values
    """Rank correlation of all answers to a question with the tuned model's order of them."""
    same: Values
    """1 where the tuned model's first answer to a question comes first."""
    rank: Values
    """Reciprocal rank of the right answer among the first ten, else 0."""
    first: Values
    """1 where the right answer comes first."""
    terms: Values
    """Reciprocal rank of the right term of a description."""
    pairs: Values
    """Cosine of each graded pair."""


class Embedder:
    """Sentence embeddings (mean over tokens, as MiniLM is published) of a base with something added to it."""

    def __init__(self, base: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.model = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(base)
        self.inputs = {
            name: tokenizer(some, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            for name, some in texts().items()
        }
        self.base = {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def add(self, delta: Any) -> None:
        """Put base + delta into the model."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.base[name] + delta.get(name, torch.zeros(())))

    @torch.no_grad()
    def __call__(self, name: str) -> Tensor:
        inputs = self.inputs[name]
        states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        found: Tensor = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
        return found


@dataclass(frozen=True)
class Wanted:
    """What the tuned model gives: embeddings of the sentences, and cosines (questions, answers)."""

    sentences: Tensor
    asked: Tensor

    @staticmethod
    def of(embed: Embed) -> Wanted:
        return Wanted(embed("sentences"), embed("questions") @ embed("answers").T)


def score(embed: Embed, wanted: Wanted) -> Scores:
    asked, described = embed("questions") @ embed("answers").T, embed("descriptions") @ embed("terms").T
    return Scores(
        cosine=_values((embed("sentences") * wanted.sentences).sum(1)),
        order=np.array([spearman(_values(a), _values(b)) for a, b in zip(asked, wanted.asked, strict=True)]),
        same=_values(asked.argmax(1) == wanted.asked.argmax(1)),
        rank=reciprocal(asked),
        first=np.array([float(retrieval_recall(row, right, top_k=1)) for row, right in _asked(asked)]),
        terms=reciprocal(described),
        pairs=_values((embed("a") * embed("b")).sum(1)),
    )


def reciprocal(found: Tensor) -> Values:
    """Return the reciprocal rank among the first ten of cosines (questions, answers), the i-th answer being right."""
    return np.array([float(retrieval_reciprocal_rank(row, right, top_k=10)) for row, right in _asked(found)])


def _asked(found: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(found, torch.eye(len(found), dtype=torch.bool), strict=True)


def _values(x: Tensor) -> Values:
    return x.double().numpy()


def at_home() -> NDArray[np.bool_]:
    """Return which questions are of the fine-tune's own domain."""
    return np.array([row["topic"] in AT_HOME for row in read("questions")])


def grades() -> Values:
    return np.array([row["score"] for row in read("similarity")], dtype=np.float64)


def spearman(pairs: Values, wanted: Values) -> float:
    return float(spearmanr(pairs, wanted).statistic)


Interval = tuple[float, float]


def interval(statistic: Callable[..., Any], *data: Values, vectorized: bool) -> Interval:
    """Return the 95 % percentile bootstrap interval of a statistic over questions (or pairs), drawn together."""
    found = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=vectorized,
        n_resamples=RESAMPLES if vectorized else RESAMPLES // 4,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def difference(a: Values, b: Values) -> Interval:
    """Return the interval of mean(a) - mean(b), paired."""
    return interval(lambda x, axis: x.mean(axis=axis), a - b, vectorized=True)


def kept(a: Values, b: Values) -> Interval:
    """Return the interval of mean(a) / mean(b), paired."""
    return interval(lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis), a, b, vectorized=True)


def difference_of_spearman(a: Values, b: Values, wanted: Values) -> Interval:
    """Return the interval of the difference of two rank correlations with the same grades, paired."""
    return interval(lambda x, y, z: spearman(x, z) - spearman(y, z), a, b, wanted, vectorized=False)


def mean(values: Sequence[float] | Values) -> float:
    return float(np.mean(values))
