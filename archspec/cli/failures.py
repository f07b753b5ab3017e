"""From an exception to a message on stderr and an exit code.

What the user can cause is a diagnostic (1); a wrong command line is click's own usage error (2); everything else is a
bug of archspec (3), told in one line unless a traceback was asked for. Files are only ever published whole, by
renaming, so Ctrl-C may say that nothing is half-written. SIGTERM is taken as Ctrl-C is, with an exit code of its own.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from archspec.diagnostics import ArchspecError, Diagnostic, InternalError
from archspec.render import colored, render

FAILED, USAGE, INTERNAL, STOPPED, TERMINATED = 1, 2, 3, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever cleans up after Ctrl-C does so after this."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM; a second one ends the process at once. Where something else is done about the
    signal, or in another thread than the main one, nothing changes."""
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Terminated


def show_tracebacks() -> None:
    os.environ["ARCHSPEC_DEBUG"] = "1"


@contextmanager
def one_is_an_answer() -> Iterator[None]:
    """Leave with 2 where an error would leave with 1: of a verb that answers with 0 or 1."""
    try:
        yield
    except Exception as error:  # the boundary of such a verb
        code = report(error)
        raise click.exceptions.Exit(USAGE if code == FAILED else code) from error


def report(error: BaseException) -> int:
    """Print what went wrong to stderr and return the exit code."""
    if isinstance(error, (click.exceptions.Abort, KeyboardInterrupt)):
        click.echo("stopped; nothing half-written", err=True)
        return TERMINATED if isinstance(error.__cause__ or error, Terminated) else STOPPED
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if os.environ.get("ARCHSPEC_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    diagnostics = _diagnostics(error)
    if not diagnostics:
        return _internal(error)
    click.echo(render(diagnostics, "text", color=colored(sys.stderr)), err=True)
    return FAILED


def _diagnostics(error: BaseException) -> tuple[Diagnostic, ...]:
    """Return what the user can mend about `error`; nothing for a bug."""
    if isinstance(error, ArchspecError):
        return error.diagnostics
    if _is_out_of_memory(error):
        hints = ("lower 'batch' or the 'cache' of distill, or give the job more memory",)
        return (Diagnostic("AS801", f"out of memory{_said(error)}", hints=hints),)
    if isinstance(error, OSError):
        return (_file_trouble(error),)
    return ()


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, a device of torch, or torch's allocator on the CPU (by its message alone) had no more memory."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)


def _file_trouble(error: OSError) -> Diagnostic:
    name = f" '{error.filename}'" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hints = ("free some space and run the same command again",)
        return Diagnostic(
            "AS802", f"no space left to write{name or ' the result'}; nothing is half-written", hints=hints
        )
    return Diagnostic("AS803", f"cannot use{name or ' a file'}: {error.strerror or error}")


def _said(error: BaseException) -> str:
    first = str(error).partition("\n")[0]
    return f": {first}" if first else ""


def _internal(error: BaseException) -> int:
    what = "" if isinstance(error, InternalError) else f"{type(error).__name__}: "
    click.echo(f"internal error: {what}{str(error).partition(chr(10))[0]}", err=True)
    click.echo("This is a bug of archspec; please report it with the traceback of 'archspec --debug ...'", err=True)
    return INTERNAL
