"""What can be measured on hosts of a family, and what they are trained by. Of a host of no known family nothing is
known, so nothing is refused."""

from __future__ import annotations

from collections.abc import Mapping

from archspec.families import FAMILIES
from archspec.host.structure import Structure

IMAGES = frozenset({"fd", "agreement", "paired", "latency"})
TEXT = frozenset({"perplexity", "latency"})
METRICS: Mapping[str, frozenset[str]] = {
    "images": IMAGES,
    "text": TEXT,
    "encoder": frozenset({"latency"}),
    "vision": frozenset({"latency"}),
}
OBJECTIVES: Mapping[str, frozenset[str]] = {
    "images": frozenset({"auto", "flow", "epsilon"}),
    "text": frozenset({"auto", "lm"}),
    "encoder": frozenset({"auto", "mlm"}),
    "vision": frozenset({"auto", "classification"}),
}


def metrics_of(structure: Structure) -> frozenset[str]:
    """Return the metrics of `eval` that make sense for a host."""
    family = FAMILIES.get(structure.family)
    return METRICS[family.task] if family else IMAGES | TEXT


def objectives_of(structure: Structure) -> frozenset[str] | None:
    """Return the objectives of `finetune` that make sense for a host, None for all."""
    family = FAMILIES.get(structure.family)
    if family is None:
        return None
    return frozenset({"auto", "features"}) if is_headless(structure) else OBJECTIVES[family.task]


def is_headless(structure: Structure) -> bool:
    """Whether a host has no task of its own."""
    family = FAMILIES.get(structure.family)
    return family is not None and structure.architecture in family.headless


def has_null_label(structure: Structure) -> bool:
    """Whether the host knows "no condition": what `label_dropout` puts in place of a class or a caption."""
    family = FAMILIES.get(structure.family)
    return family is None or family.task == "images"
