"""The command line: one verb, one file.

`VERBS` is the only table: verb -> the line that `--help` prints. The file of a verb is `archspec/cli/<verb>.py`; it has
a click command named `command`, and is imported only when that verb runs, so that `validate`, `fmt`, `explain` and
`diff` never pay for torch. A verb returns nothing, or its exit code. Library functions raise; only this folder prints.

Exit codes: 0 fine, 1 the spec or a check failed, 2 usage, 3 a bug of archspec, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn, cast

import click

from archspec.cli import conflict, failures
from archspec.diagnostics import nearest

VERBS: Mapping[str, str] = {
    "validate": "Check specs: syntax, names, selectors against the host, shapes, expectations.",
    "fmt": "Format specs; turn YAML into the DSL and back.",
    "explain": "Explain an error code.",
    "schema": "Print the JSON Schema of specs, for editors.",
    "plan": "Show sites, instructions, costs and tasks of a spec.",
    "compile": "Compile a spec into a checkpoint folder.",
    "run": "Carry out the plan of a compiled checkpoint.",
    "sweep": "Compile, run and rank every member of a spec's matrix.",
    "probe": "Measure a host at each of its sites, for selectors that rank.",
    "search": "Choose an operator for each site under a budget.",
    "sample": "Sample from a checkpoint.",
    "inject": "Draw with features of donors.",
    "eval": "Measure a checkpoint beside its host.",
    "show": "Describe a checkpoint.",
    "convert": "Turn published DiT files, grafts and their configs into ours.",
    "pack": "Make a SkillPack: what tuning changed of a base, in one small file.",
    "attach": "Add SkillPacks to the base that they were made of.",
    "detach": "Take SkillPacks off a checkpoint again, bit by bit.",
    "packs": "List, describe, verify and export SkillPacks; ask a router.",
    "route": "Make a router: which SkillPacks are active for a request.",
    "merge": "Merge checkpoints of one architecture: linear, TIES, DARE, SLERP, SCE.",
    "diff": "Compare specs, checkpoints and hub models.",
}


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return cast(click.Command, import_module(f"archspec.cli.{cmd_name}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail("; ".join((f"no verb '{args[0]}'", *nearest(args[0], VERBS))))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def main(  # type: ignore[override]  # click's has overloads of the same
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a verb and leave the process with its exit code."""
        extra["standalone_mode"] = False
        gc.set_threshold(20_000)  # imports make no garbage; looking for it every 700 objects costs 20 ms
        try:
            conflict.refuse()
            with failures.terminable():
                code = super().main(args, prog_name, **extra)
        except (
            Exception,
            KeyboardInterrupt,
        ) as error:  # the boundary: every failure becomes a message and an exit code
            sys.exit(failures.report(error))
        sys.exit(code if isinstance(code, int) else 0)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from archspec import __version__

        click.echo(f"archspec {__version__}")
        ctx.exit()


def _debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        failures.show_tracebacks()


@click.group(
    cls=Verbs,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'archspec VERB --help' tells more of a verb.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_debug,
    help="Print the traceback of an internal error (also: ARCHSPEC_DEBUG=1).",
)
def main() -> None:
    """The compiler for the architecture of pretrained models."""
