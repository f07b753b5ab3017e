"""Frechet distance between two sets of features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (1706.08500, Eq. 6).

The distance is torchmetrics', in float64, of sums that are gathered as it does: those of data are kept. A covariance
of fewer samples than features has no full rank and the distance means nothing, so that is refused. It is no FID unless
the features are Inception's: values are comparable within one classifier, one data set and one number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail


class _AsGiven(nn.Module):
    """Features that are features already. torchmetrics asks for `num_features` and calls it."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Statistics:
    """Sums over features, float64: their number, () int64; themselves, (features,); x x^T, (features, features)."""

    count: Tensor
    total: Tensor
    products: Tensor

    @staticmethod
    def of(features: Tensor) -> Statistics:
        x = features.double()
        return Statistics(torch.tensor(len(x)), x.sum(0), x.T @ x)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the distance between features (samples, features) and (samples, features)."""
    return distance(Statistics.of(a), Statistics.of(b))


def check_samples(samples: int, features: int) -> None:
    """Refuse fewer samples than a covariance of this many features takes. AS710."""
    if samples <= features:
        hint = f"draw at least {features + 1}, better ten times as many"
        raise fail("AS710", f"{samples} samples are too few for a distance in {features} features", None, hint)


def distance(a: Statistics, b: Statistics) -> float:
    """Return the distance of features that have these statistics. AS710."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = len(a.total)
    check_samples(int(min(a.count, b.count)), features)
    metric: Any = FrechetInceptionDistance(feature=_AsGiven(features))
    metric.set_dtype(torch.float64)
    for side, one in (("real", a), ("fake", b)):
        for name, value in (("num_samples", one.count), ("sum", one.total), ("cov_sum", one.products)):
            setattr(metric, f"{side}_features_{name}", value)
    metric.orig_dtype, metric._update_count = torch.float64, 1  # as `update` would leave it
    return max(0.0, float(metric.compute()))
