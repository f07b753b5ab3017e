"""Commands of archspec, each in a process of its own that begins with the libraries loaded: where processes can be
forked, importing them is done once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

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
    pool: ProcessPoolExecutor

    def __call__(self, *words: str | Path, fine: tuple[int, ...] = (0,)) -> Done:
        """Run `archspec WORDS` and wait for it. Raises Failed where it leaves with another code than these."""
        code, output, errors, cpu = self.pool.submit(_run, list(map(str, words))).result()
        if code not in fine:
            raise Failed(f"archspec {' '.join(map(str, words))}\n{errors or output}")
        return Done(output, cpu)


@contextmanager
def commands(jobs: int) -> Iterator[Commands]:
    """Give what runs commands, so many at a time."""
    os.environ.update(ENVIRONMENT)
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(LIBRARIES)
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        yield Commands(pool)


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
