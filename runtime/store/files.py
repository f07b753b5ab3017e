"""Files written so that a final name never holds half of anything.

`publish(out)` gives a working folder beside `out`; what is written there appears under the final name in one
rename, after everything is on the disk. A run that is killed, crashes or fills the disk leaves the final name as it
was: absent, or the earlier result. What it leaves behind (a hidden `.NAME.partial`) is removed by the next run; a lock
on that folder keeps two runs apart.

`copy_bytes` moves bytes between files within the kernel where the system can, so that they never pass through this
process; `hash_file` reads through a mapping. Every OSError of writing becomes a diagnostic (AS631, AS632); a full disk
does so whoever wrote: safetensors and torch say it in ways of their own.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import xxhash
from safetensors import SafetensorError

from archspec.diagnostics import fail

CHUNK = 1 << 26
TICK = 2_000_000_000
"""Nanoseconds: more than the coarsest times of file systems in use."""
ENDED = "the file being copied ends before its header says"
_NOT_HERE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
ROOM = "free some space and run the same command again, or write to another disk"
"""What to do about a full disk."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing under `path` into a diagnostic."""
    with room(path):
        try:
            yield
        except OSError as error:
            if is_full(error):
                raise
            raise fail("AS632", f"cannot write '{path}': {error.strerror or error}") from error


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Turn a full disk under `path` into AS631, whoever found it full; other errors pass."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise fail("AS631", f"no space left to write '{path}'", None, ROOM) from error


def is_full(error: BaseException) -> bool:
    """Say whether an error means that a file had no room: Python's, safetensors' (Rust's, as text), or that of torch's
    writer of archives, which tells that fewer bytes arrived than it wrote."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    text = str(error)
    if isinstance(error, SafetensorError):
        return any(f"(os error {number})" in text for number in _FULL)
    return isinstance(error, RuntimeError) and "inline_container" in text and "unexpected pos" in text


def reserve(file: int, size: int) -> None:
    """Give an open file `size` bytes at once: a sparse file that is mapped would end the process when a page of it is
    written to a full disk."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


@contextmanager
def claimed(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`, which is gone when nobody holds it. Whoever comes second calls `waits` and waits. A
    process that is killed holds nothing; where the system knows no locks, nobody waits."""
    guard = _lock(path, waits)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: who then gets it finds another file, and begins again
        os.close(guard)


def _lock(path: Path, waits: Callable[[], None]) -> int:
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            guard = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(guard, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            return guard
        if _is_at(guard, path):
            return guard
        os.close(guard)


def _is_at(descriptor: int, path: Path) -> bool:
    """Say whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _unfinished(name: str) -> str:
    """Return how the names begin under which `replace_text` writes a file."""
    return f".{name}."


def replace_text(path: Path, text: str, like: Path | None = None) -> None:
    """Write a small file under another name and rename it; its rights are those of `like`. A link stays one; a pipe
    or a device, which keeps nothing, is written to as it is."""
    with writing(path):
        if path.exists() and not path.is_file():
            path.write_text(text, "utf-8")
        else:
            _replace(path.resolve(), text, like)


def _replace(path: Path, text: str, like: Path | None) -> None:
    partial = path.with_name(f"{_unfinished(path.name)}{os.getpid()}")
    try:
        partial.write_text(text, "utf-8", newline="\n")
        if like:
            shutil.copymode(like, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def publish(out: Path, keep: tuple[str, ...] = ()) -> Iterator[Path]:
    """Give a folder to write to; on success it becomes `out`, else nothing changes.

    Of what stood there before, only the entries `keep` (paths within it) move over; the rest is removed.
    """
    out, partial, former = _places(out)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    guard = _claim(partial, out)
    try:
        with writing(out):
            _recover(out, former, keep)
            _empty(partial)
            yield partial
            _sync_tree(partial)
            _swap(partial, out, former)
            _recover(out, former, keep)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(guard)


def recover(out: Path) -> None:
    """Put back what a killed run moved aside when it was about to publish, if nothing stands at `out` for it."""
    out, partial, former = _places(out)
    if former.exists() and not out.exists():
        guard = _claim(partial, out)
        try:
            with writing(out):
                _recover(out, former, ())
        finally:
            os.close(guard)


def _places(out: Path) -> tuple[Path, Path, Path]:
    """Return the folder itself, where a link leads to it, and the names of what is written and of what stood there."""
    out = out.resolve()
    return out, out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.former")


def check_replaceable(
    out: Path, mark: str | None, what: str, code: str = "AS630", hint: str = "name another folder: `-o OUT`"
) -> None:
    """Refuse a folder that is there, unless it is empty or `mark`, a file in it, shows that it is `what` is expected.
    A mark that another run is about to put there, or was killed at, is nothing. AS630, or `code`."""
    others = [name for name in _entries(out) if mark is None or not name.startswith(_unfinished(mark))]
    if others and not (mark is not None and (out / mark).is_file()):
        raise fail(code, f"'{out}' exists and is no {what}", None, hint)


def _entries(path: Path) -> list[str]:
    """Return the names in a folder, in one look, as another run may be making it; of a file one that nothing has."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return [""]


def check_file(out: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """Refuse to replace a file, unless it is empty or `is_ours`: one that is `what` would be written. AS630."""
    if out.exists() and not (out.is_file() and (not out.stat().st_size or is_ours(out))):
        raise fail("AS630", f"'{out}' exists and is no {what}", None, "name another file: `-o FILE`")


def _claim(partial: Path, out: Path) -> int:
    """Return an open, locked descriptor of the working folder; AS633 when another run has it."""
    with writing(out):
        partial.mkdir(exist_ok=True)
        guard = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(guard, partial):
            return guard
    except BlockingIOError:
        pass
    os.close(guard)
    raise fail("AS633", f"another run is writing '{out}'", None, "wait for it to end, or write elsewhere with `-o`")


def _empty(folder: Path) -> None:
    """Remove what a killed run left."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync_tree(folder: Path) -> None:
    """Bring all files and folders to the disk before the rename that makes them visible."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(partial: Path, out: Path, former: Path) -> None:
    """Put the new folder in place; what stood there is now `former`."""
    if out.exists():
        out.rename(former)
    try:
        partial.rename(out)
    except OSError:
        if former.exists():
            former.rename(out)
        raise
    _sync(out.parent)


def _recover(out: Path, former: Path, keep: tuple[str, ...]) -> None:
    """Finish a replacement, now or after a kill: put the former folder back, or take over what is kept of it."""
    if not former.exists():
        return
    if not out.exists():
        former.rename(out)
        return
    for name in keep:
        if (former / name).exists() and not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (former / name).rename(out / name)
    shutil.rmtree(former)


def copy_bytes(source: int, target: int, start: int, end: int, at: int) -> None:
    """Copy bytes `start` to `end` of descriptor `source` to offset `at` of `target`; EIO when they end early."""
    while start < end:
        count = min(end - start, CHUNK)
        done = _copy_some(source, target, start, count, at)
        if done == 0:
            raise OSError(errno.EIO, ENDED)
        start, at = start + done, at + done


def _copy_some(source: int, target: int, start: int, count: int, at: int) -> int:
    """Copy at most `count` bytes by the best way that both file systems know."""
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, count, start, at)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    try:
        os.lseek(target, at, os.SEEK_SET)
        return os.sendfile(target, source, start, count)
    except OSError as error:
        if error.errno not in _NOT_HERE | {errno.ENOTSOCK}:
            raise
    return os.pwrite(target, os.pread(source, min(count, 1 << 20), start), at)


def read_at(source: int, into: memoryview, at: int) -> None:
    """Fill a buffer from an offset; EIO when the file ends early."""
    while into:
        done = os.preadv(source, [into], at)
        if done == 0:
            raise OSError(errno.EIO, ENDED)
        into, at = into[done:], at + done


def write_at(target: int, data: memoryview, at: int) -> None:
    """Write all of `data` at an offset."""
    while data:
        done = os.pwrite(target, data, at)
        data, at = data[done:], at + done


def link_or_copy(source: Path, target: Path) -> bool:
    """Make `target` another name of `source`'s content; False when it had to be copied (another disk)."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in _NOT_HERE | {errno.EMLINK, errno.EACCES}:
            raise
        copy_file(source, target)
        return False
    return True


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file, not its times or rights."""
    with source.open("rb") as a, target.open("wb") as b:
        size = os.fstat(a.fileno()).st_size
        copy_bytes(a.fileno(), b.fileno(), 0, size, 0)


def known_hash(path: Path) -> str:
    """Return `hash_file`, read once per process, and again only when the file was written anew. One that was written
    just now is not trusted to show a second writing by its time."""
    found = path.stat()
    if time.time_ns() - found.st_mtime_ns < TICK:
        return hash_file(path)
    return _known(path.resolve(), found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _known(path: Path, *state: int) -> str:
    return hash_file(path)


def hash_file(path: Path) -> str:
    """Return the content hash (XXH3, 128 bits) of a file, read through a mapping."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as view:
                for start in range(0, size, CHUNK):
                    with view[start : start + CHUNK] as piece:
                        hasher.update(piece)
    return f"xxh3:{hasher.hexdigest()}"
