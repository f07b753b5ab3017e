"""`archspec eval PATH`: measure a checkpoint beside its host, and hold its spec's expectations against it.

What is measured, and with what, is the spec's `eval` stanza (read from the lock); options go before it. The figures are
kept as `eval.json` in the checkpoint's folder, for its card and for `archspec show`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from archspec.cli.device import device_option
from archspec.cli.numbers import Finite
from archspec.diagnostics import ArchspecError, fail, nearest

NAME = "eval.json"
METRICS = ("fd", "agreement", "paired", "latency", "perplexity")
TITLES: Mapping[str, str] = {
    "fd": "FD to the data",
    "agreement": "class agreement",
    "paired": "error to the host",
    "paired_rmse": "RMSE to the host",
    "latency": "latency",
    "perplexity": "perplexity",
}
BETTER: Mapping[str, int] = {"agreement": 1}
"""1: more is better; all others: less."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), help="The host.  [default: the base that PATH was compiled from]"
)
@click.option("--metrics", help=f"Of {', '.join(METRICS)}.  [default: all that fit]")
@click.option("--data", help="Data to compare with.  [default: the spec's]")
@click.option("--classifier", help="Image classifier of transformers: folder or hub id.")
@click.option("-n", "--samples", type=click.IntRange(1), help="Samples to draw.  [default: the spec's, or 1000]")
@click.option("--steps", type=click.IntRange(1), help="Steps of the sampler.  [default: the spec's, or 25]")
@click.option("--guidance", type=Finite(1), help="Guidance scale.  [default: the spec's, or 1]")
@click.option("--batch", type=click.IntRange(1), help="Samples at a time.")
@click.option("--seed", type=int, help="Seed of the noise.  [default: the spec's, or 0]")
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which what the host draws is kept, for all that is measured beside it.",
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    path: Path, against: Path | None, store: Path | None, device: str | None, as_json: bool, **options: Any
) -> int:
    """Measure the model in PATH beside its host. Leaves with 1 if an expectation of its spec is broken."""
    from archspec.cli.terminal import quiet_libraries
    from archspec.host.locate import fingerprint
    from archspec.runtime.measure.evaluate import evaluate
    from archspec.runtime.measure.kept import Kept
    from archspec.runtime.store.artifacts import Artifacts, open_store
    from archspec.runtime.store.home import home
    from archspec.runtime.store.lock import is_compiled
    from archspec.runtime.store.opening import best_device

    quiet_libraries()
    place = home(path)
    host, near, settings, expectations = _origin(place.top)
    settings, near = _with_options(settings, options, near)
    host, chosen = against or host, device or best_device()
    if store and not host:
        raise click.UsageError("--store keeps what the host draws, and none is known: add --against HOST")
    kept = Kept(Artifacts(open_store(store)), fingerprint(home(host).model)) if store and host else None
    report = _watched(lambda progress: evaluate(path, host, settings, near, chosen, progress, kept), as_json)
    report["expectations"] = held(expectations, report)
    if is_compiled(place.top):
        _keep(place.top / NAME, report)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    return int(any(not found["holds"] for found in report["expectations"]))


def _origin(top: Path) -> tuple[Path | None, Path, dict[str, Any], list[str]]:
    """Return host, folder of the spec, `eval` stanza and expectations of a checkpoint; none of a plain model."""
    from archspec.runtime.execution.workspace import Workspace
    from archspec.runtime.store.lock import is_compiled, read_lock

    if not is_compiled(top):
        return None, Path.cwd(), {}, []
    lock, origin = read_lock(top), Workspace(top).origin()
    spec = lock.spec.get("resolved") or {}
    return origin.get("base"), origin.get("near") or Path.cwd(), spec.get("eval") or {}, spec.get("expect") or []


def _with_options(settings: Mapping[str, Any], options: Mapping[str, Any], near: Path) -> tuple[dict[str, Any], Path]:
    """Return the settings with the command line's before the spec's. Paths given there start at the working folder."""
    given = {name: value for name, value in options.items() if value is not None}
    if "metrics" in given:
        given["metrics"] = [_metric(word.strip()) for word in given["metrics"].split(",")]
    if "data" in given:
        given["data"] = {"from": _absolute(given["data"])}
    if "classifier" in given:
        given["classifier"] = _absolute(given["classifier"])
    return {**settings, **given}, near


def _metric(word: str) -> str:
    if word not in METRICS:
        raise fail("AS713", f"no metric '{word}'", None, *nearest(word, METRICS) or (f"known: {', '.join(METRICS)}",))
    return word


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _watched(work: Any, silent: bool) -> dict[str, Any]:
    """Run `work`, showing on stderr what is being measured."""
    from archspec.cli.terminal import progress_console

    with progress_console(silent).status("opening the models") as status:
        found: dict[str, Any] = work(lambda what: status.update(f"measuring: {what}"))
    return found


def held(expectations: list[str], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the expectations about what was measured; those that compiling decides were held there."""
    from archspec.language.expectations import parse_expectation
    from archspec.semantics.outcomes import evaluate_expectation

    found = []
    for text in expectations:
        expectation = parse_expectation(text)
        value = report["result"].get(expectation.metric)
        host = report["host"].get(expectation.metric)
        if value is None or (expectation.relative and host is None):
            continue
        outcome = evaluate_expectation(expectation, host, value)
        message = "" if outcome.holds else outcome.diagnostic().message
        found.append({"text": text, "holds": outcome.holds, "message": message})
    return found


def _keep(file: Path, report: Mapping[str, Any]) -> None:
    """Write the figures beside the checkpoint; a folder that cannot be written is no reason to lose them."""
    from archspec.runtime.store.files import replace_text

    try:
        replace_text(file, json.dumps(report, indent=2) + "\n")
    except ArchspecError as error:
        click.echo(f"note: the figures were not kept: {error.diagnostics[0].message}", err=True)


def _print(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("", no_wrap=True)
    for column in ("host", "result", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for metric, title in TITLES.items():
        host, result = report["host"].get(metric), report["result"].get(metric)
        if result is not None:
            table.add_row(
                title, _shown(metric, "host", report), _shown(metric, "result", report), _ratio(metric, host, result)
            )
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 100)  # of a pipe it is 80, too narrow
    console.print(table)
    for found in report["expectations"]:
        mark = "[green]holds[/]" if found["holds"] else "[red]broken[/]"
        console.print(f"  {mark}  {found['message'] or found['text']}")


def _shown(metric: str, side: str, report: Mapping[str, Any]) -> str:
    value = report[side].get(metric)
    if value is None:
        return ""
    if metric == "agreement":
        return f"{100 * value:.1f}%"
    if metric == "latency":
        spread = report["spread"][f"{side}.latency"]
        return f"{1000 * value:.2f} ms [dim]({1000 * spread['low']:.2f} to {1000 * spread['high']:.2f})[/]"
    return f"{100 * value:.2f}%" if metric == "paired" else f"{value:.4g}"


def _ratio(metric: str, host: float | None, result: float) -> str:
    if not host:
        return ""
    ratio = result / host
    worse = ratio * (-1 if metric in BETTER else 1) > 1.1 * (-1 if metric in BETTER else 1)
    return f"[{'yellow' if worse else 'green'}]{ratio:.3g}x[/]"
