"""Streamed safetensors: grouping, links, exact bytes, and what is left behind when writing fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from archspec.diagnostics import ArchspecError, InternalError
from archspec.host.headers import BITS, read_folder, read_header
from archspec.host.structure import TensorHeader
from archspec.runtime.store import checkpoint, files
from archspec.runtime.store.checkpoint import NAMES, Piece, Shard, Writer, live, rewrite, shards, stem_of
from archspec.runtime.store.files import copy_bytes, hash_file, link_or_copy, publish

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.bool)


def mixed(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {f"t{i}": torch.randn(3 + i, 5, generator=generator).to(dtype) for i, dtype in enumerate(DTYPES)}
    return {**found, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}


def kept(headers: Mapping[str, TensorHeader], rename: Mapping[str, str] | None = None) -> list[Piece]:
    return [Piece((rename or {}).get(n, n), h.dtype, h.shape, h) for n, h in headers.items()]


def new(name: str, *shape: int, dtype: str = "F32", home: str | None = None) -> Piece:
    return Piece(name, dtype, shape, None, home)


def write(folder: Path, parts: list[Shard], values: Mapping[str, Tensor] | None = None) -> Writer:
    folder.mkdir(exist_ok=True)
    with Writer(folder, parts) as writer:
        for name, tensor in (values or {}).items():
            writer.put(name, tensor)
    return writer


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(mixed(), folder / "model.safetensors")
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    weights: dict[str, str] = {}
    for i in range(1, 4):
        name = f"model-{i:05}-of-00003.safetensors"
        tensors = {f"layers.{i}.{n}": torch.full((2, 3), float(i)) for n in ("a", "b")}
        save_file(tensors, folder / name)
        weights |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return folder


def test_every_dtype_is_copied_to_the_byte(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    write(tmp_path / "out", shards(kept(headers), headers, "model"))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == mixed().keys()
    for name, tensor in mixed().items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert raw(found[name]) == raw(tensor)


def test_what_is_written_is_what_safetensors_reads(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    pieces = [*kept(headers), new("z", 2, 2), new("half", 3, dtype="BF16"), new("nothing", 0)]
    values = {"z": torch.eye(2), "half": torch.arange(3).bfloat16(), "nothing": torch.zeros(0)}
    writer = write(tmp_path / "out", shards(pieces, headers, "model"), values)
    assert read_header(tmp_path / "out" / "model.safetensors").keys() == {p.name for p in pieces}
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert all(torch.equal(file.get_tensor(name), value) for name, value in values.items())
    assert writer.digests.keys() == values.keys()


def test_tensors_are_aligned_to_their_dtype(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    write(tmp_path / "out", shards(kept(headers), headers, "model"))
    for header in read_folder(tmp_path / "out").values():
        assert header.start % min(BITS[header.dtype] // 8, 8) == 0


def test_the_same_input_gives_the_same_bytes(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    for name in ("one", "two"):
        write(tmp_path / name, shards([*kept(headers), new("z", 2)], headers, "model"), {"z": torch.ones(2)})
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_shards_stay_shards_with_the_same_grouping(sharded: Path, tmp_path: Path) -> None:
    headers = read_folder(sharded)
    home = headers["layers.2.a"].file
    pieces = [*kept(headers, {"layers.2.b": "layers.2.renamed"}), new("layers.2.new", 4, home=home)]
    write(tmp_path / "out", shards(pieces, headers, "model"), {"layers.2.new": torch.zeros(4)})
    found = read_folder(tmp_path / "out")
    assert Path(found["layers.2.new"].file).name == Path(found["layers.2.renamed"].file).name == Path(home).name
    assert len({h.file for h in found.values()}) == 3
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.size for p in pieces)
    assert index["weight_map"] == {name: Path(header.file).name for name, header in sorted(found.items())}


def test_a_shard_that_loses_all_is_gone(sharded: Path, tmp_path: Path) -> None:
    headers = read_folder(sharded)
    write(tmp_path / "out", shards([p for p in kept(headers) if "layers.3" not in p.name], headers, "model"))
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_a_large_file_is_split(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LARGEST_SHARD", 100)
    headers = read_folder(base)
    parts = shards(kept(headers), headers, "diffusion_pytorch_model")
    assert len(parts) > 2
    assert parts[0].name == f"diffusion_pytorch_model-00001-of-{len(parts):05}.safetensors"
    assert all(sum(p.size for p in part.pieces) <= 100 or len(part.pieces) == 1 for part in parts)
    write(tmp_path / "out", parts)
    assert read_folder(tmp_path / "out").keys() == headers.keys()
    assert stem_of(tmp_path / "out") == "diffusion_pytorch_model"


def test_new_values_must_be_as_announced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    part = shards([new("w", 2, 3)], {}, "model")
    for wrong in (torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float64)):
        with pytest.raises(InternalError, match="announced as F32"), Writer(tmp_path / "out", part) as writer:
            writer.put("w", wrong)
    with pytest.raises(InternalError, match=r"no values were written for \['w'\]"), Writer(tmp_path / "out", part):
        pass


# links


def test_a_file_whose_tensors_keep_their_names_is_linked(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    pieces = [*(p for p in kept(headers) if p.name != "t0"), new("n.weight", 2)]
    parts = shards(pieces, headers, "model", link=True)
    assert [part.name for part in parts] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert parts[0].dead == ("t0",)
    write(tmp_path / "out", parts, {"n.weight": torch.ones(2)})
    assert (tmp_path / "out" / parts[0].name).samefile(base / "model.safetensors")
    found = live(tmp_path / "out", read_folder(tmp_path / "out"))
    assert found.keys() == {p.name for p in pieces}


def test_a_dead_tensor_may_not_have_a_living_name(base: Path, tmp_path: Path) -> None:
    """Loaders read whole files: an old `t0` beside a new `t0` would be a lottery."""
    headers = read_folder(base)
    taken = [*(p for p in kept(headers) if p.name != "t0"), new("t0", 2)]
    renamed = kept({n: h for n, h in headers.items() if n != "t1"}, {"t0": "t1"})
    for pieces in (taken, renamed):
        assert [part.link for part in shards(pieces, headers, "model", link=True)] == [None]


def test_copies_of_linked_tensors_go_to_a_file_of_their_own(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    pieces = [*kept(headers), *kept({"t2": headers["t2"]}, {"t2": "copy"})]
    parts = shards(pieces, headers, "model", link=True)
    assert [[p.name for p in part.pieces] for part in parts if not part.link] == [["copy"]]
    write(tmp_path / "out", parts)
    assert raw(load_file(tmp_path / "out" / parts[1].name)["copy"]) == raw(mixed()["t2"])


def test_only_the_shards_that_can_be_are_linked(sharded: Path, tmp_path: Path) -> None:
    headers = read_folder(sharded)
    gone = {n: h for n, h in headers.items() if "layers.1" not in n}
    pieces = kept(gone, {f"layers.3.{x}": f"layers.2.{x}{x}" for x in "ab"})
    parts = shards(pieces, headers, "model", link=True)
    assert [bool(part.link) for part in parts] == [True, False]
    write(tmp_path / "out", parts)
    assert set(live(tmp_path / "out", read_folder(tmp_path / "out"))) == {p.name for p in pieces}


def test_a_link_to_another_disk_becomes_a_copy(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert not link_or_copy(base / "model.safetensors", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (base / "model.safetensors").read_bytes()
    assert not (tmp_path / "copy").samefile(base / "model.safetensors")


def test_a_link_to_a_link_is_of_the_content(base: Path, tmp_path: Path) -> None:
    (tmp_path / "soft").symlink_to(base / "model.safetensors")
    assert link_or_copy(tmp_path / "soft", tmp_path / "hard")
    assert not (tmp_path / "hard").is_symlink()
    assert (tmp_path / "hard").samefile(base / "model.safetensors")


# rewriting


def test_rewrite_changes_what_it_is_told(sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    rewrite(sharded, tmp_path / "out", {"layers.2.a": torch.full((2, 3), 9.0, dtype=torch.float64)})
    headers = read_folder(tmp_path / "out")
    assert headers.keys() == read_folder(sharded).keys()
    two = load_file(headers["layers.2.a"].file)
    assert torch.equal(two["layers.2.a"], torch.full((2, 3), 9.0))
    assert torch.equal(two["layers.2.b"], torch.full((2, 3), 2.0))
    first = "model-00001-of-00003.safetensors"
    assert load_file(tmp_path / "out" / first).keys() == load_file(sharded / first).keys()
    with pytest.raises(InternalError, match="has no tensor"):
        rewrite(sharded, tmp_path / "out", {"stranger": torch.zeros(1)})


# copying


@pytest.mark.parametrize("missing", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_bytes_are_copied_by_what_the_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EXDEV, "no")

    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    with (tmp_path / "a").open("rb") as a, (tmp_path / "b").open("wb") as b:
        copy_bytes(a.fileno(), b.fileno(), 1000, 2_500_000, 17)
    assert (tmp_path / "b").read_bytes() == bytes(17) + content[1000:2_500_000]


def test_a_file_that_ends_early_is_an_error(base: Path, tmp_path: Path) -> None:
    headers = read_folder(base)
    parts = shards(kept(headers), headers, "model")
    os.truncate(base / "model.safetensors", 900)
    with pytest.raises(ArchspecError) as caught, publish(tmp_path / "out") as folder:
        write(folder, parts)
    assert caught.value.diagnostics[0].code == "AS632"
    assert "ends before its header says" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_hashes_are_of_the_content(tmp_path: Path) -> None:
    for name, content in (("a", b"x" * 100), ("b", b"x" * 100), ("c", b"x" * 99 + b"y"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
    hashes = [hash_file(tmp_path / name) for name in ("a", "b", "c", "empty")]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[3] == "xxh3:99aa06d3014798d86001c324468d497f"


# publishing


def test_a_folder_appears_at_once(tmp_path: Path) -> None:
    with publish(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "a").read_text() == "a"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_folder_is_replaced_whole_but_for_what_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("old", ".archspec/artifacts/k", ".archspec/compiled/x"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    with publish(out, (".archspec/artifacts",)) as folder:
        (folder / "new").write_text("new")
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert found == [".archspec/artifacts/k", "new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), OSError(errno.EIO, "disk")])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")

    def run() -> None:
        with publish(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises((ArchspecError, type(error))):
        run()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["out", "out/old"]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "AS631"), (errno.EDQUOT, "AS631"), (errno.EIO, "AS632")])
def test_a_full_or_broken_disk_is_a_diagnostic(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    headers = read_folder(base)
    monkeypatch.setattr(os, "copy_file_range", fail)
    with pytest.raises(ArchspecError) as caught, publish(tmp_path / "out") as folder:
        write(folder, shards(kept(headers), headers, "model"))
    assert caught.value.diagnostics[0].code == code
    assert "out" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_a_disk_that_is_too_small_is_seen_before_writing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchspecError) as caught, publish(tmp_path / "out") as folder:
        write(folder, shards([new("huge", 1 << 45)], {}, "model"))
    assert caught.value.diagnostics[0].code == "AS631"
    assert "needs 128.00TiB" in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_kernels_own_refusal_is_a_diagnostic(tmp_path: Path) -> None:
    with pytest.raises(ArchspecError) as caught, files.writing(tmp_path), open("/dev/full", "wb", buffering=0) as full:
        files.write_at(full.fileno(), memoryview(b"x"), 0)
    assert caught.value.diagnostics[0].code in ("AS631", "AS632")


def test_a_read_only_place_is_a_diagnostic(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArchspecError) as caught, publish(tmp_path / "file" / "out"):
        pass
    assert caught.value.diagnostics[0].code == "AS632"


CHILD = """
    import sys, time
    from pathlib import Path
    from archspec.runtime.store.files import publish
    with publish(Path(sys.argv[1])) as folder:
        (folder / "half").write_text("half")
        print("writing", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def other_run(tmp_path: Path) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_run_leaves_no_final_name_and_the_next_goes_on(tmp_path: Path, other_run: Any) -> None:
    other_run.send_signal(signal.SIGKILL)
    other_run.wait()
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.partial" / "half").exists()
    with publish(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
        (folder / "whole").write_text("whole")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_runs_do_not_meet(tmp_path: Path, other_run: Any) -> None:
    with pytest.raises(ArchspecError) as caught, publish(tmp_path / "out"):
        pass
    assert caught.value.diagnostics[0].code == "AS633"
    assert (tmp_path / ".out.partial" / "half").exists()  # the other's work is not touched
    assert other_run.poll() is None


def test_ctrl_c_cleans_up(tmp_path: Path, other_run: Any) -> None:
    other_run.send_signal(signal.SIGINT)
    other_run.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_kill_while_replacing_loses_nothing(tmp_path: Path, when: str) -> None:
    """The old folder has been set aside, and the new one is (`between`), or is not (`before`), in its place."""
    former = tmp_path / ".out.former"
    (former / ".archspec" / "artifacts").mkdir(parents=True)
    (former / "old").write_text("old")
    if when == "between":
        (tmp_path / "out").mkdir()
    with publish(tmp_path / "out", (".archspec/artifacts",)) as folder:
        assert (tmp_path / "out").exists()
        (folder / "new").write_text("new")
    assert (tmp_path / "out" / ".archspec" / "artifacts").exists()
    assert not (tmp_path / "out" / "old").exists()
    assert not former.exists()


def test_dtype_names_match_safetensors(tmp_path: Path) -> None:
    for dtype, name in NAMES.items():
        save_file({"x": torch.zeros(8).to(dtype)}, tmp_path / "x.safetensors")
        assert read_header(tmp_path / "x.safetensors")["x"].dtype == name


def test_nothing_but_a_new_tensor_is_held(tmp_path: Path) -> None:
    """64 MB are copied with a few MB of anonymous memory."""
    save_file({f"w{i}": torch.zeros(1 << 20) for i in range(16)}, tmp_path / "model.safetensors")
    headers = read_folder(tmp_path)

    def anonymous() -> int:
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("needs /proc")
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssAnon"))

    before = anonymous()
    start = time.perf_counter()
    write(tmp_path / "out", shards(kept(headers), headers, "model"))
    hash_file(tmp_path / "out" / "model.safetensors")
    assert anonymous() - before < 16_000
    assert time.perf_counter() - start < 60
