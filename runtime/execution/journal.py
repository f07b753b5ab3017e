"""What a run tells while it works: a line of progress with its rate and the time left, and metrics for later.

<folder>/.archspec/log.jsonl       {"time": ..., "task": "regress/blocks[1].attn", "step": 40, "loss": 0.12}
<folder>/.archspec/tensorboard/    the same numbers, as TensorBoard reads them
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")


class Journal:
    """The open logs of one run. `console`: where progress is drawn; None: nowhere."""

    def __init__(self, root: Path, console: Console | None = None) -> None:
        self.root, self.console = root, console
        self.begun: set[str] = set()
        """Ids of the tasks that this run set about."""
        self._writer: Any = None
        self._progress: Progress | None = None
        self._bar: Any = None

    def __enter__(self) -> Journal:
        self.root.mkdir(parents=True, exist_ok=True)
        self._file = (self.root / "log.jsonl").open("a", encoding="utf-8", buffering=1)
        if self.console is not None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._writer is not None:
            self._writer.close()
        self._file.close()

    def tell(self, what: str) -> None:
        """Say what is going on instead of work."""
        if self._progress is not None:
            self._progress.console.print(what, markup=False)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        """Draw a bar over `total` units while the block runs; `advance` moves it."""
        if self._progress is None:
            yield
            return
        self._bar = self._progress.add_task(what, total=total)
        try:
            yield
        finally:
            self._progress.remove_task(self._bar)
            self._bar = None

    def advance(self, count: int = 1) -> None:
        if self._progress is not None and self._bar is not None:
            self._progress.advance(self._bar, count)

    def log(self, task: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write one line of metrics."""
        line = {"time": round(time.time(), 3), "task": task, "step": step, **numbers}
        self._file.write(json.dumps(line) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.root / "tensorboard"))
        for name, value in numbers.items():
            self._writer.add_scalar(f"{task}/{name}", value, step)
