"""Codes of this stage; see the table in `archspec.codes`."""

from __future__ import annotations

from archspec.codes.base import Code

CODES: tuple[Code, ...] = (
    Code(
        "AS790",
        "tokens do not form the operator's grid",
        "A 2-D operator arranges its tokens on the site's grid, at the native size or another one of the same aspect "
        "ratio. The model was run on an input of another aspect ratio.",
        bad="pipeline(prompt, height=512, width=768)   # host trained on squares, layout: grid",
        good="pipeline(prompt, height=768, width=768)",
    ),
)
