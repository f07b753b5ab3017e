"""Tables: parquet, json-lines, text, and data sets of a hub, through `datasets`: memory-mapped, never read whole.

A table of images needs a column of images; a table of text is cut by the host's tokenizer into pieces of the host's
length, document after document with the end-of-text token between them; an encoder reads its rows one by one, padded.
A column `input_ids` is taken as tokens already. Tokens are kept in `datasets`' own cache, so the second run finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from archspec.diagnostics import fail, nearest
from archspec.runtime.data.describe import Description, setting
from archspec.runtime.data.encoded import pixels_of, through_autoencoder
from archspec.runtime.data.examples import Example, Examples, Shape, fit_image
from archspec.runtime.data.folder import image_tensor
from archspec.runtime.data.needs import NO_TOKENIZER, Needs

LOADERS = {"parquet": "parquet", "jsonl": "json", "text": "text"}
FILES = {
    "parquet": frozenset({".parquet"}),
    "jsonl": frozenset({".jsonl", ".json"}),
    "text": frozenset({".txt", ".md"}),
}


def open_table(found: Description, data: Mapping[str, Any], needs: Needs) -> Examples:
    table = _load(found, str(setting(data, "split", "train")))
    column = _column(table, setting(data, "column"), found.name)
    if column == "input_ids":
        return Tokens(_pack(table, column, needs, None), found.identity, needs)
    if _is_text(table, column) and needs.sentences:
        return Sentences(_encode(table, column, needs, _tokenizer(needs, found.name)), found.identity, needs)
    if _is_text(table, column):
        return Tokens(_pack(table, column, needs, _tokenizer(needs, found.name)), found.identity, needs)
    label = _label(table, setting(data, "label"), found.name)
    return through_autoencoder(Pictures(table, column, label, found, pixels_of(needs)), needs)


def _load(found: Description, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    datasets.disable_progress_bars()
    try:
        if found.kind == "hub":
            return datasets.load_dataset(found.name, split=split)
        files = [str(f) for f in _split_files(found, split)]
        return datasets.load_dataset(LOADERS[found.kind], data_files={split: files}, split=split)
    except (DatasetsError, FileNotFoundError, ConnectionError) as error:
        hint = "give the path of a file or folder, a bundled data set, or a hub id that is at hand"
        raise fail("AS709", f"cannot load '{found.name}': {_first_line(error)}", None, hint) from error
    except ValueError as error:
        raise fail("AS703", f"cannot load '{found.name}': {_first_line(error)}") from error


def _split_files(found: Description, split: str) -> list[Path]:
    """Of a folder, the files that are named for the split (`train-00000.parquet`), or all when none is."""
    files = found.files(FILES[found.kind])
    return [f for f in files if f.name.startswith(split) or f.parent.name == split] or files


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _column(table: Any, written: str | None, name: str) -> str:
    columns: list[str] = list(table.column_names)
    if written is not None:
        if written not in columns:
            hints = nearest(written, columns) or (f"it has {', '.join(columns)}",)
            raise fail("AS703", f"'{name}' has no column '{written}'", None, *hints)
        return written
    images = [c for c in columns if type(table.features[c]).__name__ == "Image"]
    known = [c for c in ("image", "img", "input_ids", "text", "content") if c in columns]
    if not images and not known:
        raise fail("AS703", f"'{name}' has no column of images or text", None, f"write column: {columns[0]}")
    return (images or known)[0]


def _label(table: Any, written: str | None, name: str) -> str | None:
    if written is not None:
        return _column(table, written, name)
    classes = [c for c in table.column_names if type(table.features[c]).__name__ == "ClassLabel"]
    return next(iter(classes), "label" if "label" in table.column_names else None)


def _is_text(table: Any, column: str) -> bool:
    return getattr(table.features[column], "dtype", None) in ("string", "large_string")


class Pictures(Examples):
    """A column of images, with or without a column of labels."""

    def __init__(self, table: Any, column: str, label: str | None, found: Description, shape: Shape | None) -> None:
        self.table, self.column, self.shape, self.identity = table, column, shape, found.identity
        if type(table.features[column]).__name__ != "Image":
            raise fail("AS703", f"the column '{column}' of '{found.name}' holds neither images nor text")
        if label is not None:
            self.labels = np.asarray(table[label], dtype=np.int64)
            self.classes = tuple(getattr(table.features[label], "names", None) or ())

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Example:
        try:
            x = image_tensor(self.table[index][self.column])
        except (OSError, ValueError, SyntaxError) as error:
            raise fail("AS704", f"row {index} is no readable image: {error}") from error
        found: Example = {"x": x if self.shape is None else fit_image(x, self.shape)}
        return found if self.labels is None else found | {"label": torch.tensor(self.labels[index])}


class Tokens(Examples):
    """Rows of `input_ids`, each of the host's length."""

    def __init__(self, table: Any, identity: str, needs: Needs) -> None:
        self.table, self.needs = table, needs
        self.identity = identity

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Example:
        ids = torch.tensor(self.table[index]["input_ids"], dtype=torch.int64)
        top = self.needs.vocabulary
        if top is not None and (int(ids.max()) >= top or int(ids.min()) < 0):
            raise fail("AS705", f"token {int(ids.max())} in row {index}; the host knows 0 to {top - 1}")
        return {"input_ids": ids}


class Sentences(Tokens):
    """Texts one by one, padded on the right to the longest of them: `input_ids` and `attention_mask`, (length,)."""

    def __init__(self, table: Any, identity: str, needs: Needs) -> None:
        super().__init__(table, identity, needs)
        self.length = max((len(ids) for ids in table["input_ids"]), default=0)

    def __getitem__(self, index: int) -> Example:
        ids = super().__getitem__(index)["input_ids"]
        room = (0, self.length - len(ids))
        mask = torch.ones_like(ids)
        return {"input_ids": pad(ids, room), "attention_mask": pad(mask, room)}


def _encode(table: Any, column: str, needs: Needs, tokenizer: Any) -> Any:
    """Return a table of `input_ids`, a text each, with the host's special tokens, at most as long as wanted."""

    def encode(rows: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        lines = [text for text in rows[column] if text]
        found = tokenizer(lines, truncation=True, max_length=needs.length)["input_ids"] if lines else []
        return {"input_ids": found}

    return table.map(encode, batched=True, batch_size=1000, remove_columns=table.column_names)


def _tokenizer(needs: Needs, name: str) -> Any:
    if needs.tokenizer is None:
        raise fail("AS708", f"'{name}' is text and the host has no tokenizer", None, NO_TOKENIZER)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(needs.tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise fail("AS708", f"cannot load the tokenizer in '{needs.tokenizer}': {_first_line(error)}") from error


def _pack(table: Any, column: str, needs: Needs, tokenizer: Any) -> Any:
    """Return a table of `input_ids`, each of exactly the wanted length; what is left over at the end is dropped."""
    pack = partial(pack_tokens, column=column, length=needs.length, tokenizer=tokenizer)
    return table.map(pack, batched=True, batch_size=1000, remove_columns=table.column_names)


def pack_tokens(rows: Mapping[str, Any], column: str, length: int, tokenizer: Any) -> dict[str, list[list[int]]]:
    """Join the rows' tokens, an end-of-text token after each text, and cut them into pieces of `length`."""
    if tokenizer is None:
        texts = rows[column]
    else:
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        lines = [text for text in rows[column] if text]
        texts = [ids + end for ids in tokenizer(lines, add_special_tokens=False)["input_ids"]] if lines else []
    stream = [token for ids in texts for token in ids]
    return {"input_ids": [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]}
