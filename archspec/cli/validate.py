"""`archspec validate FILES...`: check specs; nothing is run, downloaded or written."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

import click

from archspec.diagnostics import Collector, Diagnostic, Severity, fail
from archspec.language.parse import DSL, YAML
from archspec.render import FORMATS, colored, render
from archspec.semantics.validate import validate, validate_source
from archspec.source import Source

_DSL_START = re.compile(r"\s*(#[^\n]*\s*)*spec\b")


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Form of the report."
)
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--quiet", "-q", is_flag=True, help="Print findings only, no summary.")
def command(files: tuple[str, ...], form: str, strict: bool, quiet: bool) -> int:
    """Check specs: files, folders (every spec in them), patterns, or '-' for a spec on standard input.

    Syntax, names, types, operators and their parameters, selectors and shapes against the host's config and tensor
    headers, edits that contradict one another, and every expectation that needs no run.
    """
    found = Collector()
    names = list(dict.fromkeys(name for given in files for name in _specs(given, found)))
    for name in names:
        found.add(_findings(name))
    diagnostics = tuple(found)
    out = render(diagnostics, form, color=colored(sys.stdout))
    click.echo(out, nl=bool(out))
    if form == "text" and not quiet:
        click.echo(("\n" if out else "") + _summary(len(names), diagnostics), err=True)
    return 1 if any(_fails(d, strict) for d in diagnostics) else 0


def _specs(given: str, found: Collector) -> Iterator[str]:
    """Yield the specs that an argument stands for; a folder or pattern without any is an error."""
    if given == "-":
        yield given
        return
    if Path(given).is_dir():
        matches = sorted(
            str(path) for path in Path(given).rglob("*") if _is_spec(path.relative_to(given)) and path.is_file()
        )
    elif has_magic(given) and not Path(given).exists():
        matches = sorted(glob(given, recursive=True))
    else:
        matches = [given]
    if not matches:
        found.add(fail("AS806", f"no spec in '{given}'", None, "specs end in .yaml, .yml or .arch").diagnostics)
    yield from matches


def _is_spec(path: Path) -> bool:
    """Tell a spec by its suffix; what lies in hidden folders (`.git`, `.github`, `.venv`) is none."""
    return path.suffix in (*YAML, *DSL) and not any(part.startswith(".") for part in path.parts)


def _findings(name: str) -> tuple[Diagnostic, ...]:
    if name != "-":
        return validate(name)
    text = sys.stdin.read()
    suffix = ".arch" if _DSL_START.match(text) else ".yaml"
    return validate_source(Source(f"<stdin>{suffix}", text))


def _fails(diagnostic: Diagnostic, strict: bool) -> bool:
    return diagnostic.severity is Severity.ERROR or (strict and diagnostic.severity is Severity.WARNING)


def _summary(count: int, diagnostics: Sequence[Diagnostic]) -> str:
    kinds = {kind: sum(d.severity is kind for d in diagnostics) for kind in Severity}
    told = ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in kinds.items() if number)
    return f"{count} spec{'s' if count != 1 else ''} checked: {told or 'all fine'}"
