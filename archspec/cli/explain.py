"""`archspec explain CODE...`: what an error means, with a wrong and a right example."""

from __future__ import annotations

import textwrap

import click

from archspec.codes import table
from archspec.codes.base import Code
from archspec.diagnostics import fail


@click.command()
@click.argument("codes", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="List every code with its title.")
def command(codes: tuple[str, ...], listed: bool) -> None:
    """Explain error codes: archspec explain AS203 AS301."""
    if listed:
        click.echo("\n".join(f"{code.id}  {code.title}" for code in table().values()))
    elif not codes:
        raise click.UsageError("name an error code, or --list")
    click.echo("\n\n".join(_page(_find(code)) for code in codes), nl=bool(codes))


def _find(written: str) -> Code:
    """Return the entry of a code, written as people do: AS203, as203 or 203."""
    wanted = f"AS{written.upper().removeprefix('AS')}"
    if wanted not in table():
        raise fail("AS805", f"no error code '{written}'", None, "'archspec explain --list' shows all codes")
    return table()[wanted]


def _page(code: Code) -> str:
    text = textwrap.fill(code.explanation, 88)
    examples = (f"{name}:\n{textwrap.indent(example, '    ')}" for name, example in _examples(code))
    return "\n\n".join((f"{code.id}: {code.title}", text, *examples))


def _examples(code: Code) -> tuple[tuple[str, str], ...]:
    return (("wrong", code.bad), ("right", code.good))
