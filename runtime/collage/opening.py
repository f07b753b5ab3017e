"""Opening the models that collages are made with: by transformers or diffusers, from a folder or a hub id."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from archspec.diagnostics import fail


def opened(what: str, source: Path | str, load: Callable[[], Any]) -> Any:
    """Return what `load` makes of the source; AS773 where that is no `what`, or its files are missing or damaged."""
    hint = f"give the folder or the hub id of a {what}"
    if str(source).startswith(("/", ".", "~")) and not Path(source).is_dir():
        raise fail("AS773", f"there is no folder '{source}'", None, hint)
    try:
        return load()
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, AttributeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise fail("AS773", f"'{source}' is no {what}: {first}", None, hint) from error


def check_whole(source: Path | str, missing: Collection[str]) -> None:
    """Raise AS773 where tensors are missing: the libraries would draw them at random, or leave them without data."""
    if missing:
        message = f"'{source}' lacks {len(missing)} of its tensors, '{min(missing)}' among them"
        raise fail("AS773", message, None, "copy or download it anew")
