"""Ridge regression from streamed sums: the closed-form initialization of a read-out.

A read-out y = W h + b is fitted to a teacher's outputs. All that the data contribute are sums of products, width x
width whatever the number of tokens, gathered while the teacher runs; several accumulators (shards, processes) merge
by addition. Sums are kept in float64, shifted by the first batch's means so that a large mean does not drown the
spread. Devices without float64 (MPS) send their rows to the CPU.

Minimised: Σ_n w_n |y_n - W h_n - b|² + λ |W|², λ = ridge x mean diagonal of the centred Gram matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 8192
"""Most rows that are added at once: they are copied to float64."""


def gram_bytes(features: int, outputs: int) -> int:
    """Return the bytes of a GramAccumulator.

    >>> gram_bytes(3, 2) == GramAccumulator.empty(3, 2).bytes
    True
    """
    return 8 * (features * (features + outputs) + 2 * features + 3 * outputs + 1)


@dataclass
class GramAccumulator:
    """Weighted sums over rows h (features) and y (outputs), relative to the fixed shifts `h0` and `y0`."""

    weight: Tensor
    h0: Tensor
    y0: Tensor
    hh: Tensor
    """Σ w (h - h0)(h - h0)ᵀ, (features, features)."""
    hy: Tensor
    """Σ w (h - h0)(y - y0)ᵀ, (features, outputs)."""
    yy: Tensor
    """Σ w (y - y0)², (outputs,)."""
    h: Tensor
    """Σ w (h - h0)."""
    y: Tensor

    @classmethod
    def empty(cls, features: int, outputs: int, device: torch.device | str = "cpu") -> GramAccumulator:
        device = torch.device(device)
        place = torch.device("cpu") if device.type == "mps" else device

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=place)

        return cls(
            weight=zeros(),
            h0=zeros(features),
            y0=zeros(outputs),
            hh=zeros(features, features),
            hy=zeros(features, outputs),
            yy=zeros(outputs),
            h=zeros(features),
            y=zeros(outputs),
        )

    @torch.no_grad()
    def update(self, h: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        """Add rows: h (..., features), y (..., outputs), weight (...) of each row, default 1."""
        w = h.new_ones(h.shape[:-1]) if weight is None else weight
        flat = (h.flatten(0, -2), y.flatten(0, -2), w.flatten())
        for piece in zip(*(torch.split(t.detach(), ROWS) for t in flat), strict=True):
            self._add(*(t.to(self.hh.device, torch.float64) for t in piece))

    def _add(self, rows: Tensor, targets: Tensor, w: Tensor) -> None:
        if not self.weight:
            total = w.sum().clamp(min=torch.finfo(w.dtype).tiny)
            self.h0, self.y0 = (w @ rows) / total, (w @ targets) / total
        rows, targets = rows - self.h0, targets - self.y0
        heavy = rows * w[:, None]
        self.weight = self.weight + w.sum()
        self.hh.addmm_(heavy.T, rows)
        self.hy.addmm_(heavy.T, targets)
        self.yy += w @ targets.square()
        self.h += heavy.sum(0)
        self.y += w @ targets

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in vars(self).values())

    def merge(self, other: GramAccumulator) -> None:
        """Add what another accumulator gathered."""
        if not self.weight:
            self.__dict__.update({k: v.clone().to(self.hh.device) for k, v in other.__dict__.items()})
            return
        a, b = (other.h0.to(self.h0) - self.h0), (other.y0.to(self.y0) - self.y0)
        w, h, y = other.weight.to(self.h0), other.h.to(self.h0), other.y.to(self.y0)
        self.hh += other.hh.to(a) + torch.outer(h, a) + torch.outer(a, h) + w * torch.outer(a, a)
        self.hy += other.hy.to(a) + torch.outer(h, b) + torch.outer(a, y) + w * torch.outer(a, b)
        self.yy += other.yy.to(a) + 2 * y * b + w * b.square()
        self.h += h + w * a
        self.y += y + w * b
        self.weight = self.weight + w

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return Σ w (h - h̄)(h - h̄)ᵀ and Σ w (h - h̄)(y - ȳ)ᵀ: what a read-out with a bias sees."""
        total = self.weight.clamp(min=torch.finfo(self.hh.dtype).tiny)
        return self.hh - torch.outer(self.h, self.h) / total, self.hy - torch.outer(self.h, self.y) / total

    def raw(self) -> tuple[Tensor, Tensor]:
        """Return Σ w h hᵀ and Σ w h yᵀ: what a read-out without a bias sees."""
        w, a, b = self.weight, self.h0, self.y0
        gram = self.hh + torch.outer(self.h, a) + torch.outer(a, self.h) + w * torch.outer(a, a)
        return gram, self.hy + torch.outer(self.h, b) + torch.outer(a, self.y) + w * torch.outer(a, b)

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the weighted means of h and of y."""
        total = self.weight.clamp(min=torch.finfo(self.hh.dtype).tiny)
        return self.h0 + self.h / total, self.y0 + self.y / total

    def variance(self) -> Tensor:
        """Return the variance of each feature, (features,)."""
        return self.centred()[0].diagonal() / self.weight.clamp(min=torch.finfo(self.hh.dtype).tiny)

    def relative_error(self, weight: Tensor, bias: Tensor | None) -> float:
        """Return sqrt(Σ w |y - W h - b|² / Σ w |y|²) over all rows, without seeing them again."""
        gram, cross = self.raw()
        h, y = (mean * self.weight for mean in self.means())
        energy = (self.yy + 2 * self.y * self.y0 + self.weight * self.y0.square()).sum()
        matrix = weight.detach().to(gram)
        b = torch.zeros_like(y) if bias is None else bias.detach().to(y)
        squares = energy - 2 * (matrix * cross.T).sum() + ((matrix @ gram) * matrix).sum()
        squares = squares + 2 * b @ (matrix @ h) - 2 * b @ y + self.weight * b @ b
        return float((squares.clamp(min=0) / energy.clamp(min=torch.finfo(gram.dtype).tiny)).sqrt())


def fit(sums: GramAccumulator, ridge: float, bias: bool = True) -> tuple[Tensor, Tensor | None]:
    """Return the read-out (weight (outputs, features), bias or None) that fits the sums best."""
    if not bias:
        return ridge_solve(*sums.raw(), ridge), None
    weight = ridge_solve(*sums.centred(), ridge)
    h, y = sums.means()
    return weight, y - weight @ h


def fit_subset(sums: GramAccumulator, kept: Tensor, ridge: float, bias: bool = True) -> tuple[Tensor, Tensor | None]:
    """As `fit`, for a read-out that sees the features `kept` only: weight (outputs, len(kept))."""
    kept = kept.to(sums.h.device)
    part = GramAccumulator(
        sums.weight, sums.h0[kept], sums.y0, sums.hh[kept][:, kept], sums.hy[kept], sums.yy, sums.h[kept], sums.y
    )
    return fit(part, ridge, bias)


@torch.no_grad()
def ridge_solve(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Return W (outputs, features) with (gram + λ 1) Wᵀ = cross; of smallest norm where that has many solutions.

    Cholesky where the matrix allows it to within float64's accuracy, else its eigenvectors with a cut-off.
    """
    gram = (gram + gram.T) / 2
    shifted = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    pivots = factor.diagonal()
    precision = torch.finfo(gram.dtype).eps * len(gram)
    if not failed and pivots.min().square() > 1e3 * precision * pivots.max().square():
        solved: Tensor = torch.cholesky_solve(cross, factor)
        return solved.T
    values, vectors = torch.linalg.eigh(shifted)
    kept = values > 10 * precision * values.abs().max()
    inverse = torch.where(kept, 1 / torch.where(kept, values, torch.ones_like(values)), torch.zeros_like(values))
    shortest: Tensor = vectors @ (inverse[:, None] * (vectors.T @ cross))
    return shortest.T
