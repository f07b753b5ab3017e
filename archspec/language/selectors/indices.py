"""Lists of indices as the shortest brackets that name them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise


def brackets(indices: Collection[int], length: int) -> str:
    """Return the brackets that choose these entries of a list of `length`.

    >>> [brackets(x, 8) for x in (range(8), [1, 3, 5, 7], [2], [0, 1, 2], [1, 2, 3, 6], [0, 2, 4])]
    ['[*]', '[1::2]', '[2]', '[0:3]', '[1:4, 6]', '[0:5:2]']
    """
    found = sorted(set(indices))
    if found == list(range(length)):
        return "[*]"
    steps = {b - a for a, b in pairwise(found)}
    if len(found) > 2 and len(steps) == 1 and (step := steps.pop()) > 1:
        stop = "" if found[-1] + step >= length else str(found[-1] + 1)
        return f"[{found[0]}:{stop}:{step}]"
    return f"[{', '.join(_runs(found))}]"


def _runs(found: list[int]) -> list[str]:
    """Return runs of neighbours as slices; two neighbours stand as they are."""
    runs: list[list[int]] = []
    for index in found:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [part for run in runs for part in ([f"{run[0]}:{run[-1] + 1}"] if len(run) > 2 else map(str, run))]
