"""Fractions of data that are too small, told before anything is run wherever the data's size is known without reading
them (`runtime.data.sizes`); a run tells the rest. AS715.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archspec.diagnostics import ArchspecError, Collector
from archspec.language.spec import Spec
from archspec.language.stages import Data, Finetune
from archspec.runtime.data.sizes import Size, shortage, told_size
from archspec.semantics.resolve import explicit


def check_fractions(spec: Spec, near: Path) -> None:
    """Refuse fractions in which some class would have no example, at their spans. Data that are not there are told
    elsewhere."""
    found = Collector()
    for node, data, of in _fractions(spec):
        size = _size(data, near) if node.fraction < 1 else None
        if size is None or shortage(size, of, data.from_):
            continue
        if short := shortage(size, node.fraction, data.from_, of):
            found.report("AS715", short.message, node.span("fraction"), short.hint)
    found.raise_if_errors()


def _fractions(spec: Spec) -> Iterator[tuple[Data | Finetune, Data, float]]:
    """Yield (who writes a fraction, of which data, the part of these that it is a fraction of). A part that is too
    small itself is told where it is written."""
    for stage in (spec, spec.finetune, spec.eval):
        if stage and stage.data:
            yield stage.data, stage.data, 1.0
    finetuned = spec.finetune and (spec.finetune.data or spec.data)
    if spec.finetune and finetuned:
        yield spec.finetune, finetuned, finetuned.fraction


def _size(data: Data, near: Path) -> Size | None:
    try:
        return told_size(explicit(data), near)
    except ArchspecError:
        return None
