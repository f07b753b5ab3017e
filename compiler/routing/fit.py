"""A head from embeddings of examples, with a temperature and a threshold from examples that are held out in turn.

Prototypes are means of unit vectors, taken from the middle of all tasks: hidden states of language models lie in a
narrow cone (https://arxiv.org/abs/1909.00512), in which every cosine is near 1. The classifier is scikit-learn's
logistic regression on standardized embeddings. Examples of all tasks weigh alike however many there are.

Scores of examples that a head has seen flatter it, so threshold and temperature come from heads that have not seen
them (folds, stratified). The temperature makes softmax(logits / temperature) as likely as can be
(https://arxiv.org/abs/1706.04599), with Platt's targets, short of certain, so that examples without a mistake do not
make it zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from archspec.diagnostics import Collector
from archspec.packs.router import Kind
from archspec.runtime.routing.head import Head

FOLDS = 5
TEMPERATURES = (0.01, 100.0)
STEADY = 1e-6
"""Least spread of a feature, relative to the largest: one that never changes tells nothing."""


@dataclass(frozen=True)
class Fitted:
    """`accuracy`, `rejected`: parts of the held-out examples that the best task is right of, and that score below the
    threshold."""

    head: Head
    temperature: float
    threshold: float
    accuracy: float
    rejected: float
    examples: Mapping[str, int]

    @property
    def told(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "rejected": self.rejected, "examples": dict(self.examples)}


def fit(
    by: Kind, examples: Mapping[str, Tensor], threshold: float | None = None, reject: float = 0.01, seed: int = 0
) -> Fitted:
    """Return the head of tasks, in their order, from embeddings (examples of the task, width). Without a `threshold` it
    is the score that a part `reject` of the held-out examples stays below. AS678 for too few examples."""
    _check(by, examples)
    features = torch.cat([rows.float().cpu() for rows in examples.values()])
    labels = torch.cat([torch.full((len(rows),), place) for place, rows in enumerate(examples.values())])
    head = HEADS[by](features, labels)
    held = _held_out(by, features, labels, seed)
    temperature = _temperature(held, labels)
    scores = head.scores(held, temperature).amax(1)
    found = float(torch.quantile(scores, reject)) if threshold is None else threshold
    accuracy = float((held.argmax(1) == labels).float().mean())
    rejected = float((scores < found).float().mean())
    return Fitted(head, temperature, found, accuracy, rejected, {name: len(rows) for name, rows in examples.items()})


def _check(by: Kind, examples: Mapping[str, Tensor]) -> None:
    problems = Collector()
    for name, rows in examples.items():
        if len(rows) < 2:
            hint = "write two or more: threshold and weights are found on examples that are held out"
            problems.report("AS678", f"task '{name}' has {len(rows)} example{'s' * (len(rows) != 1)}", None, hint)
    if by == "classifier" and len(examples) < 2:
        hint = "add a task, `packs: []` with examples of what the base answers, or route by prototypes"
        problems.report("AS678", "a classifier of a single task has nothing to tell apart", None, hint)
    problems.raise_if_errors()


def prototypes(features: Tensor, labels: Tensor) -> Head:
    """Return means of unit vectors; with a single task they are taken from zero."""
    means = _means(features, labels)
    center = means.mean(0) if len(means) > 1 else torch.zeros_like(means[0])
    return Head(center, _means(normalize(features - center, dim=1), labels))


def _means(features: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([features[labels == place].mean(0) for place in range(int(labels.max()) + 1)])


def classifier(features: Tensor, labels: Tensor) -> Head:
    """Return a multinomial logistic regression, L2 with C = 1."""
    spread = features.std(0)
    spread = spread.clamp(min=max(float(spread.max()) * STEADY, 1e-12))
    center = features.mean(0)
    model = LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced")
    model.fit(((features - center) / spread).numpy(), labels.numpy())
    weight, bias = (torch.from_numpy(np.asarray(a)).float() for a in (model.coef_, model.intercept_))
    if len(weight) == 1:  # of two tasks: one row, whose logit is their difference
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return Head(center, weight, spread, bias)


HEADS = {"prototypes": prototypes, "classifier": classifier}


def _held_out(by: Kind, features: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return logits (examples, tasks), each by a head that has not seen the example."""
    folds = StratifiedKFold(min(FOLDS, int(labels.bincount().min())), shuffle=True, random_state=seed)
    found = torch.zeros(len(features), int(labels.max()) + 1)
    for seen, held in folds.split(features.numpy(), labels.numpy()):
        found[held] = HEADS[by](features[seen], labels[seen]).logits(features[held])
    return found


def _temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of least cross entropy to targets of (n + 1) / (n + 2), Platt's of n examples."""
    tasks = logits.shape[1]
    if tasks == 1:
        return 1.0
    doubt = 1 / (labels.bincount().float()[labels] + 2)
    targets = (doubt / (tasks - 1))[:, None].repeat(1, tasks)
    targets[torch.arange(len(labels)), labels] = 1 - doubt

    def loss(log: float) -> float:
        return -float((targets * log_softmax(logits / np.exp(log), 1)).sum(1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))
