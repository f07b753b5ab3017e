"""`archspec fmt FILES...`: print specs in the one layout, in either spelling; comments are kept.

Without `--write` and `--check` the result goes to standard output. `--to` with `--write` writes a file of the other
suffix beside the original, which stays. Files are replaced in one step, and only when their text changes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from archspec.diagnostics import ArchspecError, Collector, Diagnostic, fail
from archspec.language.build import build
from archspec.language.choice import merged
from archspec.language.holes import holes
from archspec.language.matrix import has_members
from archspec.language.parse import DSL, YAML, load_members, parse_tree, read_source
from archspec.language.spec import Spec
from archspec.source import Source
from archspec.syntax.fmt import format_dsl, format_yaml
from archspec.syntax.tree import Map

LOOKED_AT = 64
"""Most members of a matrix that are built before a spec changes its spelling."""
Spelling = Literal["yaml", "arch"]


@dataclass(frozen=True)
class Formatted:
    """What became of one file: `target` is where `--write` puts `text`; None for standard input."""

    source: Source
    target: Path | None
    text: str

    @property
    def changed(self) -> bool:
        return self.target is not None and (str(self.target) != self.source.name or self.text != self.source.text)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--to", type=click.Choice(["yaml", "arch"]), help="Spelling to print; default: that of the file.")
@click.option("--write", "-w", is_flag=True, help="Write files instead of printing.")
@click.option("--check", is_flag=True, help="Print the names of files that are not formatted, and exit with 1.")
@click.option("--stdin-name", default="stdin.yaml", show_default=True, help="Name of FILES '-'; its suffix counts.")
def command(files: tuple[str, ...], to: Spelling | None, write: bool, check: bool, stdin_name: str) -> int:
    """Format specs; turn YAML into the DSL and back.

    FILES are .yaml, .yml and .arch files, or - for standard input.
    """
    if write and check:
        raise click.UsageError("--write and --check exclude each other")
    collector = Collector()
    done = [found for name in files if (found := _format(name, to, stdin_name, collector))]
    if write:
        _refuse_overwriting(done, collector)
    collector.raise_if_errors()
    if check:
        return _check(done)
    for formatted in done:
        if write and formatted.target:
            _write(formatted)
        else:
            click.echo(formatted.text, nl=False)
    return 0


def _format(name: str, to: Spelling | None, stdin_name: str, collector: Collector) -> Formatted | None:
    try:
        source = Source(stdin_name, sys.stdin.read()) if name == "-" else read_source(name)
        old: Spelling = "arch" if Path(source.name).suffix.lower() in DSL else "yaml"
        text = print_as(source, old, to or old)
    except ArchspecError as error:
        collector.add(error.diagnostics)
        return None
    suffix = {"yaml": YAML[0], "arch": DSL[0]}[to or old]
    target = Path(name) if to in (None, old) else Path(name).with_suffix(suffix)
    return Formatted(source, None if name == "-" else target, text)


def print_as(source: Source, old: Spelling, new: Spelling) -> str:
    """Return the text in a spelling. Turned into the other one, a spec must be free of errors. Raises ArchspecError."""
    tree = parse_tree(source)
    if new != old:
        collector = Collector()
        if has_members(tree) or next(holes(tree), None):  # whole only with what it extends
            merged([(m, _wrong(m.tree)) for m in load_members(source, collector)[:LOOKED_AT]], collector)
        else:
            collector.add(_wrong(tree))
        collector.raise_if_errors()
    return format_yaml(tree) if new == "yaml" else format_dsl(tree)


def _wrong(tree: Map) -> tuple[Diagnostic, ...]:
    found = Collector()
    build(tree, Spec, found)
    return tuple(found)


def _refuse_overwriting(done: list[Formatted], collector: Collector) -> None:
    for formatted in done:
        target = formatted.target
        if target and str(target) != str(Path(formatted.source.name)) and target.exists():
            hint = f"remove it, or print to another file: `archspec fmt --to ... {formatted.source.name} > FILE`"
            collector.add(fail("AS161", f"'{target}' is already there", None, hint).diagnostics)


def _check(done: list[Formatted]) -> int:
    wrong = [formatted for formatted in done if formatted.text != formatted.source.text]
    for formatted in wrong:
        click.echo(formatted.source.name)
    return 1 if wrong else 0


def _write(formatted: Formatted) -> None:
    """Replace the target by the text in one step; its permissions stay."""
    from archspec.runtime.store.files import replace_text

    target = formatted.target
    assert target is not None
    if not formatted.changed:
        return
    replace_text(target, formatted.text, target if target.exists() else Path(formatted.source.name))
    click.echo(f"wrote {formatted.target}", err=True)
