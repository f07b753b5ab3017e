"""Uniform levels without a zero point: a code c of b bits at scale s stands for (c - (2^b - 1) / 2) s.

The levels lie symmetric about zero, half a step beside it, which is right for differences of weights: they have mean
zero. With one bit they are a sign and a size, +-s/2, as in BitDelta (https://arxiv.org/abs/2402.10193, Eq. 1). A scale
belongs to `group` consecutive values of a row; a row that is no multiple of it ends with a shorter group. All-zero
groups have scale zero and are exact. Scales are float16, as parts of one float32 unit, so that differences of any
magnitude keep their precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Range = Literal["max", "search"]
SHRINK = torch.linspace(1.0, 0.3, 8)
"""What part of the largest value the outermost level is tried at."""
FINE = 6
"""Bits from which the first try is as good as the best."""
CACHED = 1 << 17
"""Values at a time that tries run over: what they make of them stays in the processor's cache."""


@dataclass(frozen=True)
class Coded:
    """`codes` (rows, columns) uint8; `scales` (rows, groups) float16, in parts of `unit`."""

    codes: Tensor
    scales: Tensor
    unit: float


def encode(values: Tensor, bits: int, group: int, fit: Range = "search") -> Coded:
    """Return the codes of values (rows, columns), float32.

    `fit`: "max" puts the outermost level at a group's largest value, so that no error exceeds half a step; "search"
    takes the scale of least squared error among shrunken ones, each refined by least squares on its own codes.
    """
    columns = values.shape[1]
    group = min(group, columns)
    blocks = torch.unflatten(pad(values, (0, -columns % group)), 1, (-1, group))
    # a short last group is padded with zeros, which have no level: they must not weigh in the fit
    real = torch.unflatten(pad(torch.ones(1, columns), (0, -columns % group)), 1, (-1, group))
    some = max(1, CACHED // max(1, columns))
    scales = torch.cat([_scales(rows, real, bits, fit) for rows in torch.split(blocks, some)])
    unit = float(scales.amax()) or 1.0
    scales = (scales / unit).to(torch.float16)
    pairs = zip(torch.split(blocks, some), torch.split(scales.float() * unit, some), strict=True)
    codes = torch.cat([_codes(rows, step, bits).flatten(1)[:, :columns].to(torch.uint8) for rows, step in pairs])
    return Coded(codes, scales, unit)


def decode(coded: Coded, bits: int, group: int) -> Tensor:
    """Return the values (rows, columns), float32."""
    values: Tensor = (coded.codes.float() - (2**bits - 1) / 2) * steps(coded, group)
    return values


def steps(coded: Coded, group: int) -> Tensor:
    """Return the scale of every value (rows, columns), float32."""
    columns = coded.codes.shape[1]
    group = min(group, columns)  # a header may state any group
    return (coded.scales.float() * coded.unit).repeat_interleave(group, 1)[:, :columns]


def _codes(blocks: Tensor, scales: Tensor, bits: int) -> Tensor:
    steps = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    codes: Tensor = steps.add_((2**bits - 1) / 2).round_().clamp_(0, 2**bits - 1)
    return codes


def _scales(blocks: Tensor, real: Tensor, bits: int, fit: Range) -> Tensor:
    """Return scales (rows, groups), float32."""
    outermost = (2**bits - 1) / 2
    widest: Tensor = blocks.abs().amax(2) / outermost
    if fit == "max":
        return widest
    if bits == 1:  # the mean size is the best, in closed form
        mean: Tensor = blocks.double().abs().sum(2) / real.sum(2)
        return 2 * mean.float()
    best: Tensor = widest
    most = torch.full_like(widest, -torch.inf)
    for shrink in SHRINK[:1] if bits >= FINE else SHRINK:
        levels = _codes(blocks, widest * shrink, bits).sub_(outermost).mul_(real)
        product = (blocks * levels).sum(2)
        scales = product / levels.square().sum(2)
        taken = scales * product  # of the squares; scales by least squares leave the rest
        better = taken > most
        best, most = torch.where(better, scales, best), torch.where(better, taken, most)
    return best
