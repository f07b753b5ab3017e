"""Safetensors written without ever holding a model.

What a checkpoint will consist of is settled first, as data: `Shard`s of `Piece`s, each with its dtype, shape and
either the extent of a file that holds its bytes already, or nothing when it is new. Then the files are made: the
header, the extents copied as bytes (past the page cache: `direct.py`), and room for the new tensors, which
`Writer.put` fills one at a time in any order. So memory holds one new tensor at a time, and dtypes that nothing here
computes with pass through.

    shards(pieces, base, stem)   sharded in, sharded out: a tensor stays with the file that held its bytes; one file
                                 stays one file up to 5 GB. With `link`, a file whose surviving tensors keep their
                                 names is hard-linked as it is; its dead tensors stay in it, out of the index
    Writer(folder, shards)       writes files and index, byte for byte the same for the same input
    rewrite(folder, target, ...) the same model with other values for some tensors

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from archspec.diagnostics import InternalError, fail
from archspec.host.headers import BITS, STEMS, read_folder, read_index
from archspec.host.structure import TensorHeader
from archspec.quantity import quantity
from archspec.runtime.store.direct import BUFFER, Output
from archspec.runtime.store.files import ROOM, link_or_copy

LARGEST_SHARD = 5_000_000_000
"""Bytes; where transformers splits files."""
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """One tensor of the result. `source` holds its bytes; a new tensor has none and belongs to the `home` of others."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorHeader | None = None
    home: str | None = None
    """Path of the file that a new tensor goes with."""

    @property
    def size(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8

    @property
    def file(self) -> str | None:
        return self.source.file if self.source else self.home


@dataclass(frozen=True)
class Shard:
    """One file of the result, by its plain name; `link` is the file that it is another name of."""

    name: str
    pieces: tuple[Piece, ...]
    link: str | None = None
    dead: tuple[str, ...] = ()
    """Tensors of a linked file that the result does not use."""


def shards(pieces: Sequence[Piece], base: Mapping[str, TensorHeader], stem: str, link: bool = False) -> list[Shard]:
    """Group the tensors of a result into files named after `stem`. `base` has all tensors of the base."""
    groups = _by_file(pieces)
    linked = _linked(groups, base) if link else []
    taken = {piece.name for shard in linked for piece in shard.pieces}
    rest = [[piece for piece in group if piece.name not in taken] for group in groups.values()]
    if linked or len(rest) == 1:
        rest = _split([piece for group in rest for piece in group])
    found = linked + [Shard("", tuple(sorted(group, key=_order))) for group in rest if group]
    return [replace(shard, name=name) for shard, name in zip(found, _names(stem, len(found)), strict=True)]


def _names(stem: str, total: int) -> list[str]:
    if total == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)]


def _by_file(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Group by the file that holds the bytes; new tensors without a home go with the last file."""
    groups: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        groups[piece.file or ""].append(piece)
    orphans = groups.pop("", [])
    if orphans:
        groups[max(groups, default="")] += orphans
    return {file: groups[file] for file in sorted(groups)}


def _linked(groups: Mapping[str, list[Piece]], base: Mapping[str, TensorHeader]) -> list[Shard]:
    """Return the files that can be linked: some tensors live on under their names, and no dead tensor has the name of
    a living one (loaders read whole files)."""
    live = {piece.name for group in groups.values() for piece in group}
    found = []
    for file, group in groups.items():
        held = {name for name, header in base.items() if header.file == file}
        same = tuple(piece for piece in group if piece.source and base.get(piece.name) == piece.source)
        dead = held - {piece.name for piece in same}
        if same and not dead & live:
            found.append(Shard("", same, file, tuple(sorted(dead))))
    return found


def _split(pieces: list[Piece]) -> list[list[Piece]]:
    """Cut a list of tensors into files of at most `LARGEST_SHARD` bytes."""
    parts: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if parts[-1] and size + piece.size > LARGEST_SHARD:
            parts.append([])
            size = 0
        parts[-1].append(piece)
        size += piece.size
    return parts


def _order(piece: Piece) -> tuple[int, bool, int, str]:
    """Wide dtypes first, so that data stays aligned; then as in the base, so that runs are copied at once."""
    return (-BITS[piece.dtype], piece.source is None, piece.source.start if piece.source else 0, piece.name)


def header(pieces: Sequence[Piece]) -> tuple[bytes, list[int]]:
    """Return the head of a file (length and padded JSON) and where each piece's data begins in the file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, position = [], 0
    for piece in pieces:
        entries[piece.name] = {
            "dtype": piece.dtype,
            "shape": list(piece.shape),
            "data_offsets": [position, position + piece.size],
        }
        starts.append(position)
        position += piece.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + start for start in starts]


class Writer:
    """Writes the shards of a model to a folder. `put` every new tensor before `close`."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self.folder, self.shards = folder, tuple(shards)
        self._files = ExitStack()
        self._open: dict[str, tuple[Output, int, Piece]] = {}
        self.digests: dict[str, str] = {}
        """XXH3-128 of the data of every new tensor that was put, hexadecimal."""
        self._check_space()

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            for shard in self.shards:
                if shard.link:
                    link_or_copy(Path(shard.link), self.folder / shard.name)
                else:
                    self._write(shard, stack)
            self._files = stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._files.close()
        if kind is None:
            if self._open:
                raise InternalError(f"emit: no values were written for {sorted(self._open)[:4]}")
            self._write_index()

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the new tensors that have no values yet."""
        return tuple(self._open)

    def _check_space(self) -> None:
        need = sum(piece.size for shard in self.shards if not shard.link for piece in shard.pieces)
        free = shutil.disk_usage(self.folder).free
        if need > free:
            sizes = f"{quantity(need, 'bytes')}, {quantity(free, 'bytes')} are free"
            raise fail("AS631", f"the checkpoint needs {sizes}", None, ROOM)

    def _write(self, shard: Shard, stack: ExitStack) -> None:
        head, starts = header(shard.pieces)
        file = stack.enter_context(Output(self.folder / shard.name))
        file.write(memoryview(head), 0)
        placed = list(zip(shard.pieces, starts, strict=True))
        for source, run in groupby(placed, key=lambda item: item[0].source.file if item[0].source else None):
            if source:
                _copy_runs(Path(source), file, list(run))
        file.truncate(placed[-1][1] + placed[-1][0].size)
        self._open |= {piece.name: (file, start, piece) for piece, start in placed if not piece.source}

    def put(self, name: str, tensor: Tensor) -> None:
        """Write the values of a new tensor; dtype and shape are as announced."""
        file, start, piece = self._open.pop(name)
        if tuple(tensor.shape) != piece.shape or tensor.dtype != DTYPES[piece.dtype]:
            found = f"{NAMES.get(tensor.dtype)} {tuple(tensor.shape)}"
            raise InternalError(f"emit: '{name}' is {found}, announced as {piece.dtype} {piece.shape}")
        data = memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        file.write(data, start)
        self.digests[name] = xxhash.xxh3_128_hexdigest(data)

    def put_blocks(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Write the values of a new tensor, its flat blocks in order; dtype and count are as announced."""
        file, start, piece = self._open.pop(name)
        hasher, done, held = xxhash.xxh3_128(), 0, bytearray()
        for block in blocks:
            if block.dtype != DTYPES[piece.dtype]:
                raise InternalError(f"emit: a block of '{name}' is {NAMES.get(block.dtype)}, announced {piece.dtype}")
            data = memoryview(block.contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]
            hasher.update(data)
            held += data
            if len(held) >= BUFFER:  # large enough to go to the disk directly
                file.write(memoryview(held), start + done)
                done, held = done + len(held), bytearray()
        file.write(memoryview(held), start + done)
        done += len(held)
        if done != piece.size:
            raise InternalError(f"emit: '{name}' got {done} bytes, announced as {piece.size}")
        self.digests[name] = hasher.hexdigest()

    def _write_index(self) -> None:
        if len(self.shards) == 1:
            return
        weights = {piece.name: shard.name for shard in self.shards for piece in shard.pieces}
        total = sum(piece.size for shard in self.shards for piece in shard.pieces)
        stem = self.shards[0].name.rsplit("-", 3)[0]
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
        (self.folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _copy_runs(source: Path, target: Output, placed: Sequence[tuple[Piece, int]]) -> None:
    """Copy the bytes of pieces from one file, neighbours in both files at once."""
    with source.open("rb") as file:
        for start, end, at in _runs(placed):
            target.copy(file.fileno(), start, end, at)


def _runs(placed: Sequence[tuple[Piece, int]]) -> list[tuple[int, int, int]]:
    """Return (start, end, at) of the fewest copies."""
    found: list[tuple[int, int, int]] = []
    for piece, at in placed:
        assert piece.source is not None
        start, end = piece.source.start, piece.source.end
        if found and found[-1][1] == start and found[-1][2] + (start - found[-1][0]) == at:
            found[-1] = (found[-1][0], end, found[-1][2])
        else:
            found.append((start, end, at))
    return found


def rewrite(folder: Path, target: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the model of `folder` to the (empty) folder `target` with other values for some tensors.

    Shapes and dtypes stay; everything else is copied as bytes. The files keep their grouping.
    """
    base = read_folder(folder)
    unknown = sorted(tensors.keys() - base.keys())
    if unknown:
        raise InternalError(f"rewrite: '{folder.name}' has no tensor {unknown[:4]}")
    pieces = [
        Piece(name, h.dtype, h.shape, None if name in tensors else h, h.file) for name, h in live(folder, base).items()
    ]
    with Writer(target, shards(pieces, base, stem_of(folder))) as writer:
        for name in writer.missing:
            writer.put(name, tensors[name].to(DTYPES[base[name].dtype]))


def live(folder: Path, headers: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """Leave out the dead tensors of linked files: those that the folder's index does not name."""
    for path in sorted(folder.glob("*.safetensors.index.json")):
        index = read_index(path)
        return {name: header for name, header in headers.items() if name in index}
    return dict(headers)


def stem_of(folder: Path) -> str:
    """Return the name that a folder's files of weights are named after.

    >>> stem_of(Path("no/such/folder"))
    'model'
    """
    for stem in STEMS:
        if (folder / f"{stem}.safetensors").exists() or (folder / f"{stem}.safetensors.index.json").exists():
            return stem
    return STEMS[0]
