"""Codes of 1 to 8 bits in a stream of bytes: the first in the lowest bits of the first byte, no padding between."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from archspec.packs.terms import packed_size

CHUNK = 1 << 20
"""Codes at a time, a multiple of 8: eight codes take as many bytes as one takes bits, and are put together as the bits
of one 64-bit number."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return the stream, uint8, of codes (any shape, uint8, each below 2 ** bits), row by row.

    >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 3)
    tensor([209,   0], dtype=torch.uint8)
    """
    flat = codes.reshape(-1).numpy()
    parts = [_pack(flat[start : start + CHUNK], bits) for start in range(0, len(flat), CHUNK)]
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.uint8))


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    eights = np.zeros((-(-len(codes) // 8), 8), np.uint8)
    eights.ravel()[: len(codes)] = codes
    words = eights[:, 0].astype("<u8")
    for place in range(1, 8):
        words |= eights[:, place].astype("<u8") << np.uint64(place * bits)
    stream: np.ndarray = words.view(np.uint8).reshape(-1, 8)[:, :bits].ravel()
    return stream[: packed_size(len(codes), bits)]


def unpack(stream: Tensor, bits: int, count: int) -> Tensor:
    """Return `count` codes (count,), uint8.

    >>> unpack(torch.tensor([209, 0], dtype=torch.uint8), 3, 3)
    tensor([1, 2, 3], dtype=torch.uint8)
    """
    found, data = np.empty(count, np.uint8), stream.numpy()
    for start in range(0, count, CHUNK):
        some = min(CHUNK, count - start)
        first = start * bits // 8
        found[start : start + some] = _unpack(data[first : first + packed_size(some, bits)], bits)[:some]
    return torch.from_numpy(found)


def _unpack(stream: np.ndarray, bits: int) -> np.ndarray:
    words = np.zeros((-(-len(stream) // bits), 8), np.uint8)
    whole = len(stream) // bits
    words[:whole, :bits] = stream[: whole * bits].reshape(whole, bits)
    words[whole:, : len(stream) - whole * bits] = stream[whole * bits :]
    codes = np.empty(words.shape, np.uint8)
    for place in range(8):
        codes[:, place] = (words.view("<u8")[:, 0] >> np.uint64(place * bits)) & np.uint64(2**bits - 1)
    return codes.ravel()


def unpack_at(stream: Tensor, bits: int, first: int, count: int) -> Tensor:
    """Return `count` codes from number `first` on, uint8; on any device, without a pass over the codes before them.

    >>> unpack_at(torch.tensor([209, 0], dtype=torch.uint8), 3, 1, 2)
    tensor([2, 3], dtype=torch.uint8)
    """
    at = torch.arange(first * bits, (first + count) * bits, bits, device=stream.device)
    place = at >> 3
    found = stream[place].to(torch.int16)
    found |= stream[place.add_(1).clamp_(max=len(stream) - 1)].to(torch.int16) << 8
    found >>= at.bitwise_and_(7).to(torch.int16)
    return found.bitwise_and_(2**bits - 1).to(torch.uint8)
