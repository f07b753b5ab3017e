"""`archspec plan SPEC`: what a compile would do and what it costs, and nothing is written.

A tree of five branches: what is edited (sites and the change in FLOPs, within the sites, their slot and the model), the
instructions, the price of host and result side by side, what was proved, and the tasks that teach the new parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from archspec.quantity import duration, quantity

if TYPE_CHECKING:
    from rich.tree import Tree

    from archspec.compiler.driver import Prepared
    from archspec.compiler.pricing.cost import Cost, CostReport, EditCost
    from archspec.compiler.pricing.injection import InjectionCost
    from archspec.plan import Task

WIDTH = 100
METRICS = (
    ("params", "parameters", "count"),
    ("weights", "weights", "bytes"),
    ("flops", "FLOPs", "count"),
    ("mixing", "of these, attention kernels", "count"),
    ("activations", "peak activations", "bytes"),
)


@click.command()
@click.argument("spec", required=False, type=click.Path(dir_okay=False))
@click.option("--member", metavar="AXIS=VALUE,...", help="Which member of the spec's matrix to show.")
@click.option("--json", "as_json", is_flag=True, help="Print plain data.")
@click.option("--tokens", type=click.IntRange(min=1), help="Price at this number of tokens per example.")
@click.option("--list-passes", is_flag=True, help="Print the compiler's passes in order, and stop.")
def command(spec: str | None, member: str | None, as_json: bool, tokens: int | None, list_passes: bool) -> int:
    """Show sites, instructions, costs and tasks of a spec; of one with a matrix, its members and what all of them cost,
    or one member with `--member`."""
    if list_passes:
        from archspec.compiler.rewrite.pipeline import list_passes as passes

        click.echo("\n".join(f"{name:<12} {text}" for name, text in passes()))
        return 0
    if spec is None:
        raise click.UsageError("name a spec, or ask for --list-passes")
    from archspec.cli.terminal import note_search, quiet_libraries
    from archspec.compiler.driver import prepare

    quiet_libraries()
    if member is None:
        from archspec.cli.plan_members import members_of, show_members

        members = members_of(spec)
        if len(members) > 1:
            return show_members(spec, members, as_json)
    ready = prepare(spec, member=member)
    note_search(ready.spec, spec)
    cost = ready.cost.at(tokens)
    estimate = _estimates(ready.plan.tasks)
    if as_json:
        click.echo(json.dumps(_plain(ready, cost, estimate), indent=2))
    else:
        _show(ready, cost, estimate)
    return 0


def _estimates(tasks: Sequence[Task]) -> dict[str, tuple[float, float]]:
    """Return task -> (fewest, most) seconds on this machine."""
    from archspec.compiler.pricing.timing import estimate, measure_rate

    rate = measure_rate() if tasks else 1.0
    return {task.id: estimate(task.cost.flops, rate) for task in tasks}


def _plain(ready: Prepared, cost: CostReport, estimate: dict[str, tuple[float, float]]) -> dict[str, Any]:
    from archspec.instructions import to_json

    return {
        "spec": ready.spec.name,
        "sites": [site.path for edit in ready.resolved.edits for site in edit.sites],
        "instructions": to_json(ready.program),
        "cost": cost.to_json(),
        "injection": injection.to_json() if (injection := _injection(ready, cost)) else None,
        "proof": ready.proof.to_json(),
        "expectations": [{"text": str(o.expectation), "holds": o.holds, "result": o.result} for o in ready.outcomes],
        "plan": ready.plan.to_json(),
        "estimate_seconds": estimate,
        "warnings": [str(warning) for warning in ready.warnings],
        "seconds": {stage: round(value, 3) for stage, value in ready.seconds.items()},
    }


def _show(ready: Prepared, cost: CostReport, estimate: dict[str, tuple[float, float]]) -> None:
    from rich.console import Console
    from rich.tree import Tree

    structure = ready.structure
    title = f"[bold]{ready.spec.name}[/]: {structure.architecture}"
    tree = Tree(f"{title}, {structure.family} family, {len(structure.sites)} sites")
    _edits(tree.add("edits, and their change in FLOPs"), ready, cost)
    _program(tree.add(f"instructions ({len(ready.program)})"), ready)
    _prices(tree, cost)
    _injected(tree, ready, cost)
    _proof(tree.add("proof"), ready)
    _tasks(tree.add(f"tasks ({len(ready.plan.tasks)})"), ready.plan.tasks, estimate)
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.print(tree)
    for warning in ready.warnings:
        click.echo(str(warning), err=True)


def _edits(branch: Tree, ready: Prepared, cost: CostReport) -> None:
    for edit, price in zip(ready.resolved.edits, cost.edits, strict=True):
        node = branch.add(_plain_text(f"{price.edit}: {_sites([site.name for site in edit.sites])}"))
        node.add(_change(price))
        operators = {config.name: config.settings() for config in edit.configs}
        for name, settings in operators.items():
            told = ", ".join(f"{key}={value}" for key, value in settings.items())
            init = f", init {edit.init.kind}" if edit.init else ""
            node.add(_plain_text(f"{name}({told}){init}"))


def _change(price: EditCost) -> str:
    within = [(price.sites_flops, "of these sites"), (price.slot_flops, "of all sites of the slot")]
    told = [f"{value:+.1%} {what}" for value, what in within if value is not None]
    return ", ".join([*told, f"[bold]{price.model_flops:+.1%} of the model[/]"])


def _plain_text(text: str) -> Any:
    """Return text in which brackets are no markup."""
    from rich.text import Text

    return Text(text)


def _sites(names: Sequence[str], most: int = 3) -> str:
    """Return names, the middle left out.

    >>> _sites(["a", "b", "c", "d", "e"])
    '5 sites, a, b ... e'
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{len(names)} sites, {', '.join(names[: most - 1])} ... {names[-1]}"


def _program(branch: Tree, ready: Prepared) -> None:
    from archspec.instructions import Install, Relist, Share

    installs: dict[str, list[str]] = {}
    for instruction in ready.program:
        match instruction:
            case Install():
                installs.setdefault(f"install {instruction.operator}", []).append(instruction.path)
            case Share():
                installs.setdefault(f"share {instruction.to} with", []).append(instruction.path)
            case Relist():
                forms = ["skip" if entry.skip is not None else entry.form for entry in instruction.entries]
                told = ", ".join(f"{forms.count(form)} {form}" for form in dict.fromkeys(forms))
                text = f"relist {instruction.path}: {instruction.length} blocks to {len(forms)} ({told})"
                installs.setdefault(text, [])
    for text, paths in installs.items():
        branch.add(_plain_text(f"{text} {_sites(paths)}".rstrip()))


def _prices(tree: Tree, cost: CostReport) -> None:
    from rich.table import Table

    at = f" of one example of {cost.tokens} tokens" if cost.tokens else ""
    table = Table("price" + at, "host", "result", "result / host", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in _rows(cost.host, cost.result):
        table.add_row(*row)
    branch = tree.add(table)
    if cost.mixing_share:
        branch.add(f"attention kernels are {cost.mixing_share:.1%} of the host's attention and MLP FLOPs")


def _injection(ready: Prepared, cost: CostReport) -> InjectionCost | None:
    from archspec.compiler.pricing.injection import price_injection

    injection = ready.resolved.injection
    return price_injection(injection, ready.structure, cost) if injection else None


def _injected(tree: Tree, ready: Prepared, cost: CostReport) -> None:
    price = _injection(ready, cost)
    if price is None or ready.resolved.injection is None:
        return
    sites = {site for graft in ready.resolved.injection.grafts for site in graft.sites}
    branch = tree.add(f"injection into {len(sites)} attentions: at most {price.ratio:.2f} times a plain evaluation")
    for name, flops in (("donors' branches", price.branches), ("matching", price.matching), ("their keys", price.keys)):
        branch.add(f"{name}: {quantity(flops, 'count')} FLOPs, {flops / price.plain:+.1%}")
    if price.matching_bytes:
        branch.add(f"memory of a match: {quantity(price.matching_bytes, 'bytes')}")


def _rows(host: Cost, result: Cost) -> Iterator[tuple[str, str, str, str]]:
    for key, name, unit in METRICS:
        before, after = getattr(host, key), getattr(result, key)
        ratio = f"{after / before:.3f}" if before else ""
        yield name, quantity(before, unit), quantity(after, unit), ratio


def _proof(branch: Tree, ready: Prepared) -> None:
    proof = ready.proof
    branch.add(f"{proof.nodes} nodes of {proof.graphs} graphs match the edited model")
    kept, new, dropped = proof.parameters.kept, proof.parameters.new, proof.parameters.dropped
    branch.add(f"parameters: {kept:,} kept, {new:,} new, {dropped:,} dropped")
    numbers = proof.numbers
    told = "" if numbers.difference is None else f": largest relative difference {numbers.difference:.1g}"
    branch.add(f"run on random weights and inputs, {numbers.size}{told}")
    for outcome in ready.outcomes:
        branch.add(_plain_text(f"expectation '{outcome.expectation}' {'holds' if outcome.holds else 'is broken'}"))


def _tasks(branch: Tree, tasks: Sequence[Task], estimate: dict[str, tuple[float, float]]) -> None:
    groups: dict[tuple[str, int], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.kind, task.wave), []).append(task)
    for (kind, wave), members in groups.items():
        cache = sum(task.cost.cache_bytes for task in members)
        fewest, most = (sum(estimate[task.id][end] for task in members) for end in (0, 1))
        flops = quantity(sum(task.cost.flops for task in members), "count")
        held = f", {quantity(cache, 'bytes')} held" if cache else ""
        count = f"{len(members)} x {kind}, wave {wave}" if len(members) > 1 else kind
        examples = f"{max(task.cost.examples for task in members):,} examples"
        node = branch.add(f"{count}: {examples}, {flops} FLOPs{held}, {duration(fewest)} to {duration(most)} here")
        for why in dict.fromkeys(str(task.settings["why"]) for task in members if "why" in task.settings):
            node.add(_plain_text(why))
    if not tasks:
        branch.add("none: the result has no new weights to teach")
