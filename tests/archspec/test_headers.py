"""Headers of good files are read as they are; every lie in a bad one is an error with its own code."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save, save_file

from archspec.diagnostics import FEW, ArchspecError
from archspec.host.headers import read_folder, read_header, weight_files
from archspec.host.structure import TensorHeader
from archspec.source import Source

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: int = 8, length: int | None = None) -> Path:
    """Write a safetensors file with any header: an object, or its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return path


def codes(error: ArchspecError) -> list[str]:
    return [d.code for d in error.diagnostics]


def refused(path: Path) -> ArchspecError:
    with pytest.raises(ArchspecError) as caught:
        read_header(path)
    assert all(d.hints for d in caught.value.diagnostics if d.code in ("AS611", "AS612", "AS613", "AS616", "AS617"))
    return caught.value


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "empty": np.zeros((0, 5), np.float16),
        "scalar": np.asarray(7, np.int64),
        "flags": np.ones(3, np.bool_),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"format": "np"})
    headers = read_header(tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert headers.keys() == tensors.keys()
    for name, value in tensors.items():
        header = headers[name]
        assert header.shape == value.shape
        assert header.count == value.size
        assert content[header.start : header.end] == value.tobytes()
    assert [h.start for h in headers.values()] == sorted(h.start for h in headers.values())
    assert {n: h.dtype for n, h in headers.items()} == {"w": "F32", "empty": "F16", "scalar": "I64", "flags": "BOOL"}


def test_small_dtypes_count_in_bits(tmp_path: Path) -> None:
    header = {"q": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    assert read_header(write(tmp_path / "a.safetensors", header, 2))["q"].shape == (4,)
    header["q"]["shape"] = [3]
    assert codes(refused(write(tmp_path / "a.safetensors", header, 2))) == ["AS616"]


@pytest.mark.parametrize("padding", range(8))
def test_unaligned_data_is_legal(tmp_path: Path, padding: int) -> None:
    """The format does not ask for alignment, and old writers did not care."""
    header = {"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "b": {**ENTRY, "data_offsets": [3, 11]}}
    path = write(tmp_path / "a.safetensors", json.dumps(header).encode() + b" " * padding, 11)
    assert read_header(path)["b"].end == path.stat().st_size


HOSTILE: dict[str, tuple[object, int, str]] = {
    "not json": (b"{'w': 1}", 8, "AS614"),
    "not utf-8": (b'{"\xff": 1}', 8, "AS614"),
    "a list": (b"[1, 2]", 8, "AS614"),
    "deep nesting": (b"[" * 100_000, 8, "AS614"),
    "a number of many digits": (b'{"w": ' + b"9" * 5000 + b"}", 8, "AS614"),
    "not a number": (b'{"w": NaN}', 8, "AS614"),
    "the same tensor twice": (b'{"w": %(e)s, "w": %(e)s}' % {b"e": json.dumps(ENTRY).encode()}, 8, "AS614"),
    "the same key twice": (
        b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        8,
        "AS614",
    ),
    "metadata no map": ({"__metadata__": [], "w": ENTRY}, 8, "AS614"),
    "metadata no texts": ({"__metadata__": {"format": 1}, "w": ENTRY}, 8, "AS614"),
    "no object": ({"w": [1]}, 8, "AS615"),
    "a key missing": ({"w": {"dtype": "F32", "shape": [2]}}, 8, "AS615"),
    "a key too many": ({"w": {**ENTRY, "stride": [1]}}, 8, "AS615"),
    "unknown dtype": ({"w": {**ENTRY, "dtype": "F31"}}, 8, "AS615"),
    "dtype no text": ({"w": {**ENTRY, "dtype": ["F32"]}}, 8, "AS615"),
    "negative size": ({"w": {**ENTRY, "shape": [-2]}}, 8, "AS615"),
    "size that is true": ({"w": {**ENTRY, "shape": [True]}}, 8, "AS615"),
    "fractional size": ({"w": {**ENTRY, "shape": [2.0]}}, 8, "AS615"),
    "size past 63 bits": ({"w": {**ENTRY, "shape": [2**64]}}, 8, "AS615"),
    "too many dimensions": ({"w": {**ENTRY, "shape": [1] * 65 + [2]}}, 8, "AS615"),
    "three offsets": ({"w": {**ENTRY, "data_offsets": [0, 4, 8]}}, 8, "AS615"),
    "negative offset": ({"w": {**ENTRY, "data_offsets": [-8, 0]}}, 8, "AS615"),
    "unprintable name": ({"w\u0000": ENTRY}, 8, "AS615"),
    "empty name": ({"": ENTRY}, 8, "AS615"),
    "end before start": ({"w": {**ENTRY, "data_offsets": [8, 0]}}, 8, "AS616"),
    "data cut short": ({"w": ENTRY}, 7, "AS616"),
    "offsets far outside": ({"w": {**ENTRY, "data_offsets": [2**62, 2**62 + 8]}}, 8, "AS616"),
    "size and shape disagree": ({"w": {**ENTRY, "shape": [3]}}, 8, "AS616"),
    "shape that overflows": ({"w": {**ENTRY, "shape": [2**62, 2**62, 2**62]}}, 8, "AS616"),
    "overlap": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, 12, "AS617"),
    "twice the same place": ({"a": ENTRY, "b": ENTRY}, 8, "AS617"),
    "a hole": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}}, 20, "AS617"),
    "a hole at the start": ({"a": {**ENTRY, "data_offsets": [4, 12]}}, 12, "AS617"),
    "bytes behind the last": ({"a": ENTRY}, 9, "AS617"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(tmp_path: Path, case: str) -> None:
    header, data, code = HOSTILE[case]
    assert codes(refused(write(tmp_path / "a.safetensors", header, data))) == [code]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "AS612"),
        (b"\x08\0\0", "AS612"),
        (struct.pack("<Q", 50) + b"{}", "AS612"),
        (struct.pack("<Q", 2**63) + b"{}", "AS613"),
        (struct.pack("<Q", 100_000_001) + b"{}", "AS613"),
        (struct.pack("<Q", 0), "AS613"),
        (b"version https://git-lfs.github.com/spec/v1\n", "AS613"),
    ],
)
def test_lengths_that_lie(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert codes(refused(path)) == [code]


def test_every_cut_of_a_file_is_an_error(tmp_path: Path) -> None:
    save_file({"w": np.arange(6, dtype=np.float32), "v": np.ones(2, np.int8)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        refused(tmp_path / "cut.safetensors")


def test_a_file_that_ends_early_is_one_mistake(tmp_path: Path) -> None:
    header = {f"w{i}": {**ENTRY, "data_offsets": [8 * i, 8 * i + 8]} for i in range(30)}
    path = write(tmp_path / "a.safetensors", header, 100)
    size = path.stat().st_size
    (found,) = refused(path).diagnostics
    assert (found.code, found.message) == (
        "AS616",
        f"'a.safetensors' ends at byte {size}, its header calls for {size + 140}",
    )


def test_all_bad_entries_are_reported_but_not_a_flood(tmp_path: Path) -> None:
    header = {f"w{i}": {**ENTRY, "dtype": "F31"} for i in range(500)}
    error = refused(write(tmp_path / "a.safetensors", header))
    assert codes(error) == ["AS615"] * (FEW + 1)
    assert error.diagnostics[-1].message == f"and {500 - FEW} more tensors in 'a.safetensors'"
    two = refused(write(tmp_path / "a.safetensors", {"a": {**ENTRY, "shape": "x"}, "b": {**ENTRY, "shape": [5]}}))
    assert codes(two) == ["AS615", "AS616"]


def test_errors_point_at_the_base_in_the_spec(tmp_path: Path) -> None:
    span = Source("spec.yaml", "archspec: 1\nbase: ./host\n").span(18, 24)
    with pytest.raises(ArchspecError) as caught:
        read_header(write(tmp_path / "a.safetensors", b"nonsense"), span)
    primary = caught.value.diagnostics[0].primary
    assert primary is not None
    assert (primary.span.line, primary.span.column, primary.span.text) == (2, 7, "./host")


@pytest.mark.parametrize("name", ["model.bin", "a.pt", "b.ckpt", "c.pth", "d.pkl", "E.PT"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()  # opening it would be another error
    error = refused(tmp_path / name)
    assert codes(error) == ["AS611"]
    assert "safe_serialization=True" in error.diagnostics[0].hints[0]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("absent.safetensors", "pipe.safetensors", "folder.safetensors", "nul\0.safetensors"):
        with pytest.raises(ArchspecError) as caught:
            read_header(tmp_path / name)
        assert codes(caught.value) == ["AS610"]


def shard(folder: Path, files: dict[str, list[str]], weight_map: object = None, stem: str = "model") -> Path:
    """Write shards of tensors named in `files`, and their index."""
    for file, names in files.items():
        save_file({name: np.full(2, ord(name[0]), np.float32) for name in names}, folder / file)
    own = {name: file for file, names in files.items() for name in names}
    index = {"metadata": {}, "weight_map": own if weight_map is None else weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_sharded_folder(tmp_path: Path, stem: str) -> None:
    folder = shard(tmp_path, {"x-1.safetensors": ["a", "b"], "x-2.safetensors": ["c"]}, stem=stem)
    headers = read_folder(folder)
    assert {n: Path(h.file).name for n, h in headers.items()} == {
        "a": "x-1.safetensors",
        "b": "x-1.safetensors",
        "c": "x-2.safetensors",
    }
    assert [f.name for f in weight_files(folder)] == ["x-1.safetensors", "x-2.safetensors"]


@pytest.mark.parametrize(
    "file",
    ["../x-1.safetensors", "/etc/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "..", "x.bin", "", 7, None,
     "c:x.safetensors", ".hidden.safetensors", "x\n.safetensors"],
)  # fmt: skip
def test_index_may_not_leave_its_folder(tmp_path: Path, file: Any) -> None:
    folder = shard(tmp_path, {"x-1.safetensors": ["a"]}, {"a": "x-1.safetensors", "b": file})
    with pytest.raises(ArchspecError) as caught:
        read_folder(folder)
    assert codes(caught.value) == ["AS618"]


@pytest.mark.parametrize("weight_map", [{}, [], "x", {"a": "x-1.safetensors", "b": "x-1.safetensors"}])
def test_malformed_or_lying_index(tmp_path: Path, weight_map: object) -> None:
    folder = shard(tmp_path, {"x-1.safetensors": ["a"]}, weight_map)
    with pytest.raises(ArchspecError) as caught:
        read_folder(folder)
    assert codes(caught.value) == ["AS619" if isinstance(weight_map, dict) and weight_map else "AS618"]


def test_index_of_repeated_keys_and_missing_shards(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for text, code in (
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "AS618"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "AS610"),
        ("[]", "AS618"),
    ):
        index.write_text(text)
        with pytest.raises(ArchspecError) as caught:
            read_folder(tmp_path)
        assert codes(caught.value) == [code]


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    files = {"x-1.safetensors": ["a"], "x-2.safetensors": ["a", "b"]}
    folder = shard(tmp_path, files, {"a": "x-1.safetensors", "b": "x-2.safetensors"})
    with pytest.raises(ArchspecError) as caught:
        read_folder(folder)
    assert codes(caught.value) == ["AS619"]


def test_all_bad_shards_are_reported(tmp_path: Path) -> None:
    folder = shard(tmp_path, {"x-1.safetensors": ["a"], "x-2.safetensors": ["b"]})
    for file in ("x-1.safetensors", "x-2.safetensors"):
        (folder / file).write_bytes(b"short")
    with pytest.raises(ArchspecError) as caught:
        read_folder(folder)
    assert codes(caught.value) == ["AS612", "AS612"]


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    assert read_folder(tmp_path) == {}
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "anything.safetensors")
    assert list(read_folder(tmp_path)) == ["w"]
    save_file({"v": np.ones(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ArchspecError) as caught:
        read_folder(tmp_path)
    assert codes(caught.value) == ["AS610"]
    assert list(read_folder(tmp_path / "other.safetensors")) == ["v"]
    save_file({"u": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert list(read_folder(tmp_path)) == ["u"]


def test_folder_of_pickles_only(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ArchspecError) as caught:
        read_folder(tmp_path)
    assert codes(caught.value) == ["AS611"]
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert list(read_folder(tmp_path)) == ["w"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_is_accepted_safetensors_accepts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Damage a good file anywhere: the answer is the headers that the library itself reads, or an ArchspecError."""
    whole = bytearray(_good())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.sampled_from(b'0123456789",:[]{}F \x00\xff'))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(len(whole) - 20, len(whole)))])
    found: dict[str, TensorHeader] | None = None
    with suppress(ArchspecError):
        found = read_header(path)
    if found is not None:
        with safe_open(path, "np") as file:
            names = set(file.keys())
            assert found.keys() == names
            assert all(found[name].shape == tuple(file.get_slice(name).get_shape()) for name in names)


def _good() -> bytes:
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.ones(2, np.float32), "i": np.ones(4, np.int8)}
    return bytes(save(tensors, {"format": "pt"}))
