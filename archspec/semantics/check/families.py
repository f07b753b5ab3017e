"""What can be measured on hosts of a family, and what they are trained by. Of a host of no known family nothing is
known, so nothing is refused."""

from __future__ import annotations

from collections.abc import Mapping

from archspec.families import FAMILIES
from archspec.host.structure import Structure

IMAGES = frozenset({"fd", "agreement", "paired", "latency"})
TEXT = frozenset({"perplexity", "latency"})
METRICS: Mapping[str, frozenset[str]] = {"images": IMAGES, "text": TEXT}
OBJECTIVES: Mapping[str, frozenset[str]] = {
    "images": frozenset({"auto", "flow", "epsilon"}),
    "text": frozenset({"auto", "lm"}),
}


def metrics_of(structure: Structure) -> frozenset[str]:
    """Return the metrics of `eval` that make sense for a host."""
    family = FAMILIES.get(structure.family)
    return METRICS[family.task] if family else IMAGES | TEXT


def objectives_of(structure: Structure) -> frozenset[str] | None:
    """Return the objectives of `finetune` that make sense for a host, None for all."""
    family = FAMILIES.get(structure.family)
    return OBJECTIVES[family.task] if family else None


def has_null_label(structure: Structure) -> bool:
    """Whether the host knows "no condition": what `label_dropout` puts in place of a class or a caption."""
    family = FAMILIES.get(structure.family)
    return family is None or family.task == "images"
