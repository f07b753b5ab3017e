"""What can be measured on hosts of a family, and what they are trained by."""

from __future__ import annotations

from collections.abc import Mapping

from archspec.host.structure import Structure

IMAGES = frozenset({"fd", "agreement", "paired", "latency"})
TEXT = frozenset({"perplexity", "latency"})

OUTPUTS: Mapping[str, frozenset[str]] = {
    "dit": IMAGES,
    "pixart": IMAGES,
    "llama": TEXT,
    "unknown": IMAGES | TEXT,
}
"""Family -> the metrics of `eval` that make sense for it; where nothing is known, nothing is refused."""

OBJECTIVES: Mapping[str, frozenset[str]] = {
    "dit": frozenset({"auto", "flow", "epsilon"}),
    "pixart": frozenset({"auto", "flow", "epsilon"}),
    "llama": frozenset({"auto", "lm"}),
}
"""Family -> the objectives of `finetune` that make sense for it."""


def has_null_label(structure: Structure) -> bool:
    """Whether the host knows "no condition": what `label_dropout` puts in place of a class or a caption."""
    return structure.family in ("dit", "pixart", "unknown")
