from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from archspec.runtime.store import direct
from archspec.runtime.store.direct import BLOCK, LEAST, Output

SIZE = 3 * LEAST + 12_345
STARTS = [0, 1, 17, BLOCK - 1, BLOCK, BLOCK + 8]


@pytest.fixture
def content() -> bytes:
    return random.Random(0).randbytes(SIZE)


def refuse(*_: object) -> int:
    raise OSError(errno.EINVAL, "no direct writes")


@pytest.fixture(params=["direct", "no descriptor", "refused"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test holds with direct writes, without them, and where they are refused when tried."""
    monkeypatch.setattr(direct, "BUFFER", 1 << 20)  # several rounds
    if request.param == "no descriptor":
        monkeypatch.setattr(direct, "_open_direct", lambda path: None)
    if request.param == "refused":
        plain = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda f, data, at: refuse() if at % BLOCK == 0 else plain(f, data, at))
        monkeypatch.setattr(direct, "write_at", lambda f, data, at: plain(f, data, at))


@pytest.mark.parametrize("at", STARTS)
def test_bytes_written_anywhere_are_the_bytes(content: bytes, tmp_path: Path, at: int) -> None:
    with Output(tmp_path / "out") as out:
        out.write(memoryview(content), at)
        out.write(memoryview(b"x" * at), 0)
    assert (tmp_path / "out").read_bytes() == b"x" * at + content


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("at", STARTS)
def test_bytes_copied_anywhere_are_the_bytes(content: bytes, tmp_path: Path, start: int, at: int) -> None:
    (tmp_path / "in").write_bytes(content)
    with Output(tmp_path / "out") as out, (tmp_path / "in").open("rb") as source:
        out.copy(source.fileno(), start, SIZE - 3, at)
        out.truncate(at + SIZE)
    assert (tmp_path / "out").read_bytes() == bytes(at) + content[start:-3] + bytes(start + 3)


def test_a_source_that_ends_early_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(content)
    with (
        Output(tmp_path / "out") as out,
        (tmp_path / "in").open("rb") as source,
        pytest.raises(OSError, match="ends before") as caught,
    ):
        out.copy(source.fileno(), 0, SIZE + LEAST, 0)
    assert caught.value.errno == errno.EIO
