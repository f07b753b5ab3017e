"""Headers of safetensors files: names, dtypes, shapes and places of tensors, without reading a single weight.

A file is eight bytes of header length (little endian), the header (JSON: name -> dtype, shape, data_offsets; and
`__metadata__`), then the data, which the offsets must cover without overlap or hole. That is all the format says
(https://github.com/huggingface/safetensors#format), and none of it is believed before it is checked: the length
against the file, the JSON for repeated keys, every entry for its types, its size against its shape, all offsets
against each other. Data that is not aligned to its dtype is fine: the format allows it and every reader copes.

`read_header` reads one file. `read_folder` reads a model: one file, or the shards that an index names; every error
found in a header is reported, not the first alone. Pickles are never opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archspec.diagnostics import ArchspecError, Collector, fail
from archspec.host.strict_json import Malformed, open_regular, parse_json, read_json
from archspec.host.structure import TensorHeader
from archspec.source import Span

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""
MOST_DIMENSIONS = 64

BITS: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
STEMS = ("model", "diffusion_pytorch_model")
"""Names that transformers and diffusers give the weights of a model."""
AGAIN = "copy or download the file again"
CONVERT = "save the model again as safetensors: `model.save_pretrained(folder, safe_serialization=True)`"


def read_header(path: Path, span: Span | None = None) -> dict[str, TensorHeader]:
    """Return name -> header of the tensors in one safetensors file, in the order of their data.

    `span` is the text to blame: the name of the base in the spec.
    """
    if path.suffix.lower() in PICKLES:
        raise fail("AS611", f"'{path.name}' is a pickle, which can run code when it is opened", span, CONVERT)
    text, start, size = _read_text(path, span)
    entries = _objects(text, path, span)
    problems = Collector()
    headers = dict(_headers(entries, path, start, size, problems, span))
    if not problems.has_errors:
        headers = _check_cover(headers, path, start, size, problems, span)
    problems.raise_if_errors()
    return headers


def _read_text(path: Path, span: Span | None) -> tuple[bytes, int, int]:
    """Return the header's text, where the data starts, and the size of the file."""
    with open_regular(path, span) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise fail("AS612", f"'{path.name}' is {size} bytes long: too short for a safetensors file", span, AGAIN)
        length = int.from_bytes(prefix, "little")
        if length > LARGEST_HEADER or length < 2:
            raise fail("AS613", f"'{path.name}' claims a header of {length} bytes", span, f"is it safetensors? {AGAIN}")
        text = file.read(length)
        if len(text) < length:
            message = f"'{path.name}' ends inside its header ({size} bytes, header of {length})"
            raise fail("AS612", message, span, AGAIN)
    return text, 8 + length, size


def _objects(text: bytes, path: Path, span: Span | None) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise fail("AS614", f"the header of '{path.name}' is not readable JSON: {error}", span, AGAIN) from error
    if not isinstance(found, dict):
        raise fail("AS614", f"the header of '{path.name}' is not a JSON object", span)
    notes = found.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise fail("AS614", f"the __metadata__ of '{path.name}' is not a map of texts", span)
    return found


def _headers(
    entries: Mapping[str, Any], path: Path, start: int, size: int, problems: Collector, span: Span | None
) -> Iterator[tuple[str, TensorHeader]]:
    """Yield the good entries and report the bad ones (the first few)."""
    bad: dict[str, list[str]] = {"AS615": [], "AS616": []}
    needed = size
    for name, entry in entries.items():
        try:
            header = _header(name, entry, path, start)
            needed = max(needed, header.end)
            yield name, header
        except Malformed as error:
            code = "AS616" if isinstance(error, _OutOfPlace) else "AS615"
            bad[code].append(f"tensor {name!r} in '{path.name}' {error}")
    if needed > size:
        problems.report("AS616", f"'{path.name}' ends at byte {size}, its header calls for {needed}", span, AGAIN)
    for code, messages in bad.items():
        problems.report_few(code, messages, f"tensors in '{path.name}'", span, AGAIN)


class _OutOfPlace(Malformed):
    """Offsets that cannot be."""


def _header(name: str, entry: Any, path: Path, start: int) -> TensorHeader:
    if not name or not name.isprintable():
        raise Malformed("has an unprintable name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Malformed("must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Malformed(f"has the unknown dtype {str(dtype)[:40]!r}")
    if not _is_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise Malformed("has a shape that is not a list of sizes")
    if not _is_counts(offsets) or len(offsets) != 2:
        raise Malformed("has data_offsets that are not two counts")
    first, last = offsets
    if first > last:
        raise _OutOfPlace(f"ends at byte {last}, before its start at {first}")
    header = TensorHeader(dtype, tuple(shape), str(path), start + first, start + last)
    if header.count * BITS[dtype] != (last - first) * 8:
        raise _OutOfPlace(f"has {last - first} bytes, which is not {dtype} of shape {header.shape}")
    return header


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _check_cover(
    headers: dict[str, TensorHeader], path: Path, start: int, size: int, problems: Collector, span: Span | None
) -> dict[str, TensorHeader]:
    """Report the first place where the tensors do not follow one another; return them in the order of the file."""
    ordered = dict(sorted(headers.items(), key=lambda item: (item[1].start, item[1].end)))
    position, before = start, "the header"
    for name, header in ordered.items():
        if header.start != position:
            what = "overlaps" if header.start < position else "leaves a hole behind"
            problems.report("AS617", f"tensor {name!r} in '{path.name}' {what} {before}", span, AGAIN)
            return ordered
        position, before = header.end, repr(name)
    if position != size:
        problems.report("AS617", f"'{path.name}' has {size - position} bytes behind its last tensor", span, AGAIN)
    return ordered


def weight_files(path: Path, span: Span | None = None) -> tuple[Path, ...]:
    """Return the safetensors files of a model (one file, or its shards in order); none when it has no weights at all.

    `path` is the model's folder, or one file of it. A folder with pickles only is an error, as is one with several
    files that no index joins.
    """
    if not path.is_dir():
        return (path,)
    return tuple(path / name for name in _file_names(path, span))


def _file_names(folder: Path, span: Span | None) -> list[str]:
    for stem in STEMS:
        if (folder / f"{stem}.safetensors").exists():
            return [f"{stem}.safetensors"]
        if (folder / f"{stem}.safetensors.index.json").exists():
            return sorted(set(read_index(folder / f"{stem}.safetensors.index.json", span).values()))
    found = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".safetensors")
    if len(found) > 1:
        message = f"'{folder}' holds {len(found)} safetensors files and no index: {', '.join(found[:4])}"
        raise fail("AS610", message, span, "name one of the files as the base")
    pickles = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICKLES)
    if pickles and not found:
        message = f"the weights in '{folder}' are a pickle ('{pickles[0]}'), which can run code when it is opened"
        raise fail("AS611", message, span, CONVERT)
    return found


def read_index(path: Path, span: Span | None = None) -> dict[str, str]:
    """Return tensor name -> file name of a `*.safetensors.index.json`; file names are plain, within the folder."""
    found = read_json(path, "AS618", span).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise fail("AS618", f"'{path.name}' has no weight_map", span)
    problems = Collector()
    for file in sorted({str(file) for file in found.values()}):
        if not _is_plain(file):
            problems.report("AS618", f"'{path.name}' names the file {file!r}, which is not a plain file name", span)
    problems.raise_if_errors()
    return {str(name): str(file) for name, file in found.items()}


def _is_plain(name: str) -> bool:
    return name.endswith(".safetensors") and name.isprintable() and not set(name) & set("/\\:") and name[0] != "."


def read_folder(path: Path, span: Span | None = None) -> dict[str, TensorHeader]:
    """Return name -> header of all tensors of a model, file by file; empty when the folder has no weights.

    `path` is the model's folder, or one file of it.
    """
    files = weight_files(path, span)
    if len(files) == 1 and not path.is_dir():
        return read_header(files[0], span)
    tensors: dict[str, TensorHeader] = {}
    problems = Collector()
    for file in files:
        try:
            headers = read_header(file, span)
        except ArchspecError as error:
            problems.add(error.diagnostics)
            continue
        for name in sorted(headers.keys() & tensors.keys()):
            problems.report(
                "AS619", f"tensor {name!r} is in both '{Path(tensors[name].file).name}' and '{file.name}'", span
            )
        tensors.update(headers)
    problems.raise_if_errors()
    _check_index(path, tensors, span)
    return tensors


def _check_index(folder: Path, tensors: Mapping[str, TensorHeader], span: Span | None) -> None:
    """Every tensor that an index promises must be in the file that it names."""
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if not index.exists() or (folder / f"{stem}.safetensors").exists():
            continue
        problems = Collector()
        wrong = [n for n, file in read_index(index, span).items() if _home(tensors.get(n)) != file]
        told = (f"'{index.name}' promises tensor {name!r} in a file that does not hold it" for name in wrong)
        problems.report_few("AS619", told, f"tensors of '{index.name}'", span, AGAIN)
        problems.raise_if_errors()
        return


def _home(header: TensorHeader | None) -> str | None:
    return Path(header.file).name if header else None
