"""Commands of archspec, each in a process of its own that begins with the libraries loaded: where processes can be
forked, importing them is done once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Event

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
LIBRARIES = [
    "archspec.compiler.driver",
    "archspec.runtime.execution.execute",
    "archspec.runtime.measure.evaluate",
    "diffusers.models.transformers.dit_transformer_2d",
    "diffusers.pipelines.dit.pipeline_dit",
    "sklearn.datasets",
    "transformers.modeling_utils",
]
"""What the commands of the demo import."""


@dataclass(frozen=True)
class Done:
    """What a command printed, and its CPU seconds, without those in which libraries were loaded."""

    output: str
    cpu: float


class Failed(Exception):
    """A command left with an error; its own message says why."""


@dataclass(frozen=True)
class Commands:
    """Runs commands. `libraries` are loaded before their time counts; `stopped`: no other begins."""

    context: BaseContext
    libraries: Sequence[str] = ()
    stopped: Event = field(default_factory=Event)

    def __call__(self, *words: str | Path, fine: tuple[int, ...] = (0,)) -> Done:
        """Run `archspec WORDS` and wait for it. Raises Failed where it leaves with another code than these."""
        line = list(map(str, words))
        if self.stopped.is_set():
            raise Failed("stopped")
        found, told = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_tell, args=(line, self.libraries, told))  # type: ignore[attr-defined]
        process.start()
        told.close()
        try:
            code, output, errors, cpu = found.recv()
        except EOFError:
            code, output, errors, cpu = -1, "", "it was killed", 0.0
        process.join()
        if code not in fine:
            raise Failed(f"archspec {' '.join(line)}\n{errors or output}")
        return Done(output, cpu)


def commands() -> Commands:
    """Return what runs commands. Importing libraries takes longer than most of them."""
    os.environ.update(ENVIRONMENT)
    if sys.platform != "linux":
        return Commands(multiprocessing.get_context("spawn"), LIBRARIES)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return Commands(context, LIBRARIES)


def _tell(words: list[str], libraries: Sequence[str], told: Connection) -> None:
    for name in libraries:  # where this process was forked they are there
        import_module(name)
    told.send(_run(words))


def _run(words: list[str]) -> tuple[int, str, str, float]:
    """Return exit code, output, errors and CPU seconds of `archspec WORDS` in this process."""
    from archspec.cli import main

    output, errors, start, code = StringIO(), StringIO(), time.process_time(), 0
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            main(words, "archspec")
        except SystemExit as left:
            code = int(left.code or 0)
    return code, output.getvalue(), errors.getvalue(), time.process_time() - start
