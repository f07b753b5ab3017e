"""`archspec schema`: print the JSON Schema of specs; `--write` renews all generated files of a checkout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from archspec.language.reference import errors_page, operators_page
from archspec.language.schema import schema_text
from archspec.syntax.tables import tables_text

GENERATED: Mapping[str, Callable[[], str]] = {
    "grammars/spec.schema.json": schema_text,
    "grammars/tables.json": tables_text,
    "docs/errors.md": errors_page,
    "docs/operators.md": operators_page,
}
"""Path in the repository -> its text."""


@click.command()
@click.option("--write", is_flag=True, help="Rewrite the generated files of the checkout in the current folder.")
@click.option("--check", is_flag=True, help="Fail when a generated file of the checkout is out of date.")
def command(write: bool, check: bool) -> int:
    """Print the JSON Schema (draft-07) of spec files.

    For yaml-language-server, put this line at the top of a spec:
    # yaml-language-server: $schema=spec.schema.json
    """
    if not write and not check:
        click.echo(schema_text(), nl=False)
        return 0
    if not Path("grammars").is_dir():
        raise click.UsageError("run this at the top of a checkout of archspec: there is no folder 'grammars' here")
    from archspec.runtime.store.files import replace_text

    stale = [path for path, text in GENERATED.items() if not _same(Path(path), text())]
    for path in stale:
        if write:
            replace_text(Path(path), GENERATED[path]())
        click.echo(f"{'wrote' if write else 'out of date:'} {path}")
    return 1 if stale and check and not write else 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
