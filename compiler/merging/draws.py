"""Draws of DARE: which numbers are kept, each by itself with one chance, the same from the same seed everywhere.

The chance is rounded to 2^-16 and read as binary digits, last to first: of random bits and what is drawn so far, `or`
for a 1, `and` for a 0 (p = 0.d₁d₂... is (d₁ + 0.d₂...) / 2). So 64 numbers share each step, and a chance of one digit,
a half, takes one random bit a number. Bits are numpy's SFC64.
"""

from __future__ import annotations

import numpy as np
import xxhash

DIGITS = 16


class Draws:
    """Yields whether the next numbers are kept; two of one seed draw the same."""

    def __init__(self, chance: float, *seed: object) -> None:
        """`chance`: from 0 to below 1."""
        text = "\n".join(map(str, seed))
        self._bits = np.random.SFC64(xxhash.xxh3_128_intdigest(text.encode()))
        parts = min(round(chance * 2**DIGITS), 2**DIGITS - 1)
        self._digits = [parts >> place & 1 for place in range(DIGITS)]
        while self._digits and not self._digits[0]:
            self._digits.pop(0)

    def __call__(self, count: int) -> np.ndarray:
        """Return (count,) bool."""
        words = -(-count // 64)
        kept = np.zeros(words, np.uint64)
        for digit in self._digits:
            (np.bitwise_or if digit else np.bitwise_and)(kept, self._bits.random_raw(words), out=kept)
        return np.unpackbits(kept.astype("<u8", copy=False).view(np.uint8), count=count).view(bool)
