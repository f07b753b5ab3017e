"""`archspec diff A B`: what changed between two architectures, two checkpoints of one architecture, or two SkillPacks.

A and B are specs, compiled checkpoints, host folders, hub ids or `revision:path` of git, in any mix; or two packs.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from archspec.cli.diff_text import packs_text, text
from archspec.cli.failures import one_is_an_answer
from archspec.diagnostics import Collector
from archspec.diff import packs
from archspec.diff.compare import Difference, compare
from archspec.diff.outline import Outline
from archspec.diff.report import to_json, to_markdown
from archspec.diff.sides import read_side
from archspec.diff.weights import Weights, alike, compare_weights


@click.command()
@click.argument("before")
@click.argument("after")
@click.option(
    "--weights/--no-weights",
    default=None,
    help="Compare values, by role and depth (streamed; imports torch). Left out: of checkpoints of one architecture.",
)
@click.option(
    "--spectrum",
    type=click.IntRange(1),
    metavar="K",
    help="Of changed matrices, the energy in their K largest singular values and the stable rank (more passes).",
)
@click.option("--cost", is_flag=True, help="Price specs as well: FLOPs and memory (captures the host; imports torch).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Write what the terminal shows as a picture."
)
@click.option("--exit-code", is_flag=True, help="Leave with 1 if there are differences, as git diff does.")
def command(
    before: str,
    after: str,
    weights: bool | None,
    spectrum: int | None,
    cost: bool,
    as_json: bool,
    markdown: bool,
    svg: Path | None,
    exit_code: bool,
) -> int:
    """Compare BEFORE and AFTER: specs, checkpoints, folders, hub ids or `revision:path`, in any mix; or two packs.

    Structure is read from configs and headers. Where it is the same on both sides, values of weights are
    compared.
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    words = before, after
    with one_is_an_answer():
        found: tuple[Any, ...]
        if packs.are_packs(words):
            _refuse({"--weights": weights is not None, "--spectrum": spectrum is not None, "--cost": cost})
            show, found = _Shown(packs.to_json, packs.to_markdown, packs_text), (packs.compare_packs(words),)
        else:
            show, found = _Shown(to_json, to_markdown, text), _compared(words, weights, spectrum, cost)
        show("json" if as_json else "markdown" if markdown else None, svg, words, *found)
    return int(exit_code and any(map(bool, found)))


def _compared(
    words: tuple[str, str], weights: bool | None, spectrum: int | None, cost: bool
) -> tuple[Difference, Weights | None]:
    with tempfile.TemporaryDirectory(prefix="archspec-diff-") as scratch:
        sides = [read_side(word, Path(scratch) / str(n)) for n, word in enumerate(words)]
        difference = compare(*(_priced(side) if cost else side for side in sides))
        return difference, _weights(difference, weights, spectrum)


def _refuse(options: dict[str, bool]) -> None:
    problems = Collector()
    for name in (name for name, given in options.items() if given):
        problems.report("AS824", f"packs have no {name}", None, f"leave {name} out")
    problems.raise_if_errors()


def _weights(difference: Difference, wanted: bool | None, spectrum: int | None) -> Weights | None:
    if wanted is False or not (wanted or spectrum or alike(difference)):
        return None
    return compare_weights(difference.before, difference.after, spectrum or 0)


def _priced(side: Outline) -> Outline:
    """Return a spec's outline with its price and that of its base; a checkpoint has them on record."""
    if side.kind != "spec" or side.path is None:
        return side
    from archspec.compiler.driver import prepare
    from archspec.diff.sides import PRICE

    found = prepare(side.path).cost
    result, host = ({name: float(getattr(c, name)) for name in PRICE} for c in (found.result, found.host))
    return replace(side, recorded=result, of_base=host)


class _Shown:
    """What was found as JSON, Markdown, text or a picture of the text."""

    def __init__(self, data: Callable[..., Any], markdown: Callable[..., str], terminal: Callable[..., None]) -> None:
        self.data, self.markdown, self.terminal = data, markdown, terminal

    def __call__(self, form: str | None, svg: Path | None, words: tuple[str, str], *found: Any) -> None:
        if svg is not None:
            self._picture(svg, words, *found)
        if form == "json":
            click.echo(json.dumps(self.data(*found), indent=2))
        elif form == "markdown":
            click.echo(self.markdown(*found), nl=False)
        elif svg is None:
            from rich.console import Console

            self.terminal(Console(highlight=False), *found)

    def _picture(self, path: Path, words: tuple[str, str], *found: Any) -> None:
        from rich.console import Console

        from archspec.runtime.store.files import replace_text

        console = Console(highlight=False, record=True, width=100, file=io.StringIO(), force_terminal=True)
        self.terminal(console, *found)
        title = f"archspec diff {' '.join(words)}"
        replace_text(path, console.export_svg(title=title, unique_id="archspec-diff"))
