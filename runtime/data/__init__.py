"""Data: what a spec's `data` stanza stands for, as examples that a host can be fed.

    describe(data, near) -> Description     what and where it is, with a content identity; no torch
    open_data(data, near, needs) -> Examples

`data` is the resolved stanza as plain data (the keys of `language.stages.Data`), `near` the folder that relative
paths start from, `needs` what the host takes (`needs_of(folder)`). Examples are read lazily, one dict each: `x`
(channels, height, width) in [-1, 1] or a latent, and `label`; or `input_ids` (length,). A fraction is stratified by
class, and for one seed the smaller of two fractions is part of the larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archspec.runtime.data.examples import Examples
    from archspec.runtime.data.needs import Needs


def open_data(data: Mapping[str, Any], near: Path, needs: Needs | None = None) -> Examples:
    """Return the examples of a `data` stanza. Raises ArchspecError on missing, damaged or unfit data."""
    from archspec.runtime.data.opening import open_examples

    return open_examples(data, near, needs)
