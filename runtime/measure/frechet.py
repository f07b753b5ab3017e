"""Frechet distance between two sets of features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (1706.08500, Eq. 6).

The statistics and the distance are torchmetrics', in float64. A covariance of fewer samples than features has no full
rank and the distance means nothing, so that is refused. It is no FID unless the features are Inception's: values are
comparable within one classifier, one data set and one number of samples.
"""

from __future__ import annotations

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


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the distance between features (samples, features) and (samples, features)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = a.shape[1]
    fewest = min(len(a), len(b))
    if fewest <= features:
        hint = f"draw at least {features + 1}, better ten times as many"
        raise fail("AS710", f"{fewest} samples are too few for a distance in {features} features", None, hint)
    metric = FrechetInceptionDistance(feature=_AsGiven(features))
    metric.set_dtype(torch.float64)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    return max(0.0, float(metric.compute()))
