"""The store of artifacts: what is believed of it, who makes what, and what a full disk leaves behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from archspec.diagnostics import ArchspecError
from archspec.runtime.data.encoded import _array
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.learn.cache import ActivationCache
from archspec.runtime.learn.taps import Record
from archspec.runtime.store import artifacts
from archspec.runtime.store.artifacts import MARK, Artifacts, open_store
from archspec.runtime.store.files import room
from tests.disk import narrow

KEY, OTHER = "0" * 32, "1" * 32


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "store")


def codes(error: pytest.ExceptionInfo[ArchspecError]) -> list[str]:
    return [diagnostic.code for diagnostic in error.value.diagnostics]


def visible(store: Artifacts) -> set[str]:
    """Return every file under the store; folders alone do not matter."""
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


def test_what_is_kept_is_found(store: Artifacts) -> None:
    assert not store.holds(KEY)
    shared = torch.arange(6.0)
    store.keep(KEY, {"kind": "fit"}, {"a": shared, "b": shared.view(2, 3)})
    assert store.holds(KEY)
    assert store.report(KEY) == {"kind": "fit"}
    assert torch.equal(store.tensors(KEY)["b"], torch.arange(6.0).view(2, 3))
    assert visible(store) == {f"{KEY}/{name}" for name in ("report.json", "sums.json", "weights.safetensors")}
    modes = {path.stat().st_mode for path in store.folder(KEY).iterdir()}
    assert len(modes) == 1  # whoever may read the report may read the weights
    store.drop(KEY)
    assert not store.holds(KEY)
    assert visible(store) == set()
    store.drop(KEY)  # twice is once


@pytest.mark.parametrize("harm", ["cut off", "changed", "missing", "another's", "no sums"])
def test_what_was_damaged_is_made_again(store: Artifacts, harm: str) -> None:
    store.keep(KEY, {"kind": "fit"}, {"a": torch.zeros(1000)})
    assert store.holds(KEY)
    file = store.folder(KEY) / "weights.safetensors"
    if harm == "cut off":
        os.truncate(file, file.stat().st_size - 1)
    elif harm == "changed":
        with file.open("r+b") as opened:
            opened.seek(-1, os.SEEK_END)
            opened.write(b"\1")
    elif harm == "missing":
        file.unlink()
    elif harm == "another's":
        store.keep(OTHER, {"kind": "fit"}, {"a": torch.ones(1000)})
        store.drop(KEY)
        store.folder(OTHER).rename(store.folder(KEY))
    else:
        (store.folder(KEY) / "sums.json").write_text('{"key": 1}')
    assert not store.holds(KEY)
    found = store.once(KEY, {"kind": "fit"}, lambda: {"a": torch.full((1000,), 2.0)})
    assert torch.equal(found["a"], torch.full((1000,), 2.0))
    assert store.holds(KEY)
    assert not list((store.root / ".partial").iterdir())


def test_of_many_who_need_the_same_one_makes_it(store: Artifacts) -> None:
    made: list[int] = []
    found: list[float] = []
    start = threading.Barrier(8)

    def make(number: int) -> dict[str, torch.Tensor]:
        made.append(number)
        return {"a": torch.full((10,), float(number))}

    def work(number: int) -> None:
        start.wait()
        found.extend(float(store.once(key, {}, lambda: make(number))["a"][0]) for key in (KEY, OTHER))

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert set(found) == {float(number) for number in made}
    assert not list((store.root / ".claims").iterdir())


def test_claims_in_any_order_never_wait_for_each_other(store: Artifacts) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with store.claim([KEY, OTHER] if number % 2 else [OTHER, KEY]):
                done.append(number)

    threads = [threading.Thread(target=work, args=[number], daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 80


def test_a_claim_ends_with_its_process_and_its_rest_is_swept(store: Artifacts) -> None:
    code = f"""
import time
from pathlib import Path
from archspec.runtime.store.artifacts import Artifacts
store = Artifacts(Path({str(store.root)!r}))
with store.claim([{KEY!r}]), store._making({KEY!r}) as folder:
    (folder / "weights.safetensors").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    waited: list[str] = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        def kill(key: str) -> None:
            waited.append(key)
            process.send_signal(signal.SIGKILL)

        assert list((store.root / ".partial").iterdir())
        with store.claim([KEY], kill):
            assert waited == [KEY]
            assert not store.holds(KEY)
            assert not list((store.root / ".partial").iterdir())


def test_a_store_takes_over_what_another_holds(store: Artifacts, tmp_path: Path) -> None:
    other = Artifacts(tmp_path / "other")
    for key in (KEY, OTHER):
        other.keep(key, {"kind": key}, {"a": torch.ones(4)})
    os.truncate(other.folder(OTHER) / "weights.safetensors", 20)
    store.take_over(other.root)
    assert store.holds(KEY)
    assert not store.holds(OTHER)
    assert store.report(KEY) == {"kind": KEY}
    store.take_over(tmp_path / "nowhere")


def test_a_folder_of_something_else_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("a")
    with pytest.raises(ArchspecError) as caught:
        open_store(tmp_path / "photos")
    assert codes(caught) == ["AS817"]
    assert open_store(open_store(tmp_path / "new" / "store")).is_dir()
    assert json.loads((tmp_path / "new" / "store" / MARK).read_text()) == {"format": 1}


def test_a_workspace_keeps_what_it_has_when_it_begins_to_share(tmp_path: Path) -> None:
    folder, store = Workspace(tmp_path / "out"), tmp_path / "store"
    folder.keep(KEY, {"kind": "fit"}, {"a": torch.ones(3)})
    for _ in range(2):
        folder.share(store)
        assert (folder.root / "artifacts").is_symlink()
        assert folder.finished(KEY)
    assert Artifacts(store).holds(KEY)
    folder.share(tmp_path / "second")  # a store that is changed takes along what the former has
    assert Artifacts(tmp_path / "second").holds(KEY)
    (tmp_path / "second").rename(tmp_path / "third")
    assert not folder.finished(KEY)
    with pytest.raises(ArchspecError) as caught:
        folder.check_store()
    assert codes(caught) == ["AS737"]


def test_a_full_disk_leaves_nothing_half_written(store: Artifacts) -> None:
    with pytest.raises(ArchspecError) as caught, narrow(10_000):
        store.keep(KEY, {"kind": "fit"}, {"a": torch.zeros(10_000)})
    assert codes(caught) == ["AS631"]
    assert not store.holds(KEY)
    assert visible(store) == set()
    assert not list((store.root / ".partial").iterdir())
    store.keep(KEY, {"kind": "fit"}, {"a": torch.zeros(10_000)})
    assert store.holds(KEY)


def test_whoever_writes_a_full_disk_is_told_of(tmp_path: Path) -> None:
    def archive() -> None:
        torch.save(torch.zeros(10_000), tmp_path / "a.pt")

    def text() -> None:
        (tmp_path / "a.txt").write_text("a" * 20_000)

    for write in (archive, text):
        with pytest.raises(ArchspecError) as caught, narrow(10_000), room(tmp_path):
            write()
        assert codes(caught) == ["AS631"]
    with pytest.raises(RuntimeError, match="size mismatch"), room(tmp_path):
        raise RuntimeError("size mismatch")
    with pytest.raises(FileNotFoundError), room(tmp_path):
        (tmp_path / "nothing").read_text()


def test_room_for_mapped_files_is_taken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a sparse file that the disk has no room for would end the process."""
    monkeypatch.setattr("archspec.runtime.learn.cache.MEMORY_SHARE", 0.0)
    tokens = torch.randn(8, 4, 64)
    with pytest.raises(ArchspecError) as caught, narrow(10_000):
        ActivationCache(64, tmp_path).write(0, {"site": Record((tokens,), {}, tokens)})
    assert codes(caught) == ["AS631"]
    with pytest.raises(ArchspecError) as caught, narrow(10_000):
        _array(tmp_path / "rows.npy", (100, 64), "float32")
    assert codes(caught) == ["AS631"]
    found = _array(tmp_path / "rows.npy", (100, 64), "float32")
    size = (tmp_path / "rows.npy").stat()
    assert size.st_blocks * 512 >= size.st_size
    assert found.shape == (100, 64)


def test_a_site_leaves_a_cache_and_enters_another(tmp_path: Path) -> None:
    """Bit by bit, whatever else the first watched: tensors that sites share, constants, plain arguments, no gate."""
    cache, time_, table = ActivationCache(8), torch.rand(4), torch.rand(3, 5)
    x, y = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    for start in (0, 4):
        cache.write(
            start,
            {
                "one": Record((x,), {"t": time_, "table": table, "heads": 2, "mask": None}, y),
                "two": Record((y,), {"t": time_, "scale": 0.5, "ok": True}, x, gate=x[:, :1]),
            },
        )
    other = ActivationCache(8)
    for name in ("two", "one"):
        packed = cache.packed(name)
        assert packed is not None
        layout, tensors = packed
        artifacts.Artifacts(tmp_path).keep(KEY, {"layout": layout}, tensors)
        kept = artifacts.Artifacts(tmp_path)
        other.unpack(name, kept.report(KEY)["layout"], kept.tensors(KEY))
        kept.drop(KEY)
    rows = [7, 0, 3]
    for name in ("one", "two"):
        a, b = cache.read(name, rows), other.read(name, rows)
        assert torch.equal(a.output, b.output)
        assert torch.equal(a.args[0], b.args[0])
        assert a.kwargs.keys() == b.kwargs.keys()
        assert all(
            torch.equal(v, b.kwargs[k]) if isinstance(v, torch.Tensor) else v == b.kwargs[k]
            for k, v in a.kwargs.items()
        )
        assert (a.gate is None) == (b.gate is None)
    with pytest.raises(ValueError, match="8 examples, not 9"):
        ActivationCache(9).unpack("one", layout, tensors)
    cache.write(0, {"odd": Record((x,), {"how": object()}, y)})
    assert cache.packed("odd") is None


def test_a_store_that_two_open_at_once_is_a_store_to_both(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        opened = [pool.submit(open_store, tmp_path / str(i // 2)) for i in range(600)]
    assert [future.result() for future in opened] == [tmp_path / str(i // 2) for i in range(600)]


def test_a_store_that_was_killed_while_it_was_made_is_one(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / f".{MARK}.1234").touch()
    assert open_store(tmp_path / "store").is_dir()
