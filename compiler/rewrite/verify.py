"""What must hold of a graph after every pass. torch's own `lint` accepts a graft of the wrong width; this does not.

* `lint`, and every target is a module of the base or something new
* every node has a fake value
* an operator reads tokens of its site's width, and gives what the base's module gave at that place (where there was
  none: tokens as it reads them)
* a merge reads as many widths as it has members
* parameters: kept + dropped = the base's
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, fx

from archspec.compiler.capture.values import summary
from archspec.compiler.rewrite.graph import Body, HostGraph, NewMerge, NewOperator
from archspec.compiler.rewrite.ledger import ledger, parameter_sizes
from archspec.diagnostics import InternalError
from archspec.host.structure import EXIT

Check = Callable[[HostGraph, HostGraph], Iterator[str]]


def verify(before: HostGraph, after: HostGraph, stage: str) -> None:
    """Raise InternalError, which names the stage and every fault, unless `after` is sound."""
    faults = [fault for check in CHECKS for fault in check(before, after)]
    if faults:
        raise InternalError(f"{stage} left an invalid graph: {'; '.join(faults)}")


def _lints(before: HostGraph, after: HostGraph) -> Iterator[str]:
    for body in after.graphs():
        try:
            body.graph.lint()
        except (RuntimeError, ValueError) as error:
            yield f"graph of {body.path or 'root'}: {error}"


def _targets(before: HostGraph, after: HostGraph) -> Iterator[str]:
    known = {path for path, _ in after.model.named_modules()}
    for body, node in _calls(after):
        if node.target not in known and not node.meta.get("new"):
            yield f"{_place(body, node)} calls '{node.target}', which does not exist"


def _values(before: HostGraph, after: HostGraph) -> Iterator[str]:
    for body in after.graphs():
        for node in body.graph.nodes:
            if node.op != "output" and "val" not in node.meta:
                yield f"{_place(body, node)} has no value"


def _cuts(before: HostGraph, after: HostGraph) -> Iterator[str]:
    """Yield where shapes or types disagree at something new."""
    for body, node in _calls(after):
        new = node.meta.get("new")
        if isinstance(new, NewOperator):
            given = _tokens(node, new.site.port.input)
            shape = new.site.shape
            if given is None or given.shape[-1] != shape.foreign + shape.width:
                yield f"{_place(body, node)} reads {summary(given)}, its site has width {shape.foreign + shape.width}"
            through = new.site.slot == EXIT and not shape.foreign
            was = given if through else next((n.meta["val"] for _, n in before.nodes(new.site.paths[-1])), given)
            if new.site.exit and isinstance(node.meta["val"], tuple):
                was = (was, *node.meta["val"][1:])
            if summary(was) != summary(node.meta["val"]):
                yield f"{_place(body, node)} gives {summary(node.meta['val'])}, not {summary(was)}"
        elif isinstance(new, NewMerge):
            given = _tokens(node, "")
            if given is None or given.shape[-1] != len(new.members) * new.width:
                yield f"{_place(body, node)} merges {summary(given)} of {len(new.members)} x {new.width}"


def _blocks(before: HostGraph, after: HostGraph) -> Iterator[str]:
    """Yield blocks that are given something else than in the base."""
    for node in after.root.graph.find_nodes(op="call_module"):
        if node.target in after.bodies and node.target in before.calls:
            call = before.calls[node.target]
            given = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
            if summary(list(given[0])) != summary(list(call.args)):
                yield f"{node.name} is given {summary(list(given[0]))}, not {summary(list(call.args))}"


def _parameters(before: HostGraph, after: HostGraph) -> Iterator[str]:
    counts, base = ledger(before, after), sum(parameter_sizes(before.model).values())
    if counts.kept + counts.dropped != base:
        yield f"{counts.kept} parameters kept and {counts.dropped} dropped are not the base's {base}"
    if counts.kept < 0 or counts.dropped < 0:
        yield f"negative counts of parameters: {counts}"


CHECKS: tuple[Check, ...] = (_lints, _targets, _values, _cuts, _blocks, _parameters)


def _calls(graph: HostGraph) -> Iterator[tuple[Body, fx.Node]]:
    return ((body, node) for body in graph.graphs() for node in body.graph.find_nodes(op="call_module"))


def _tokens(node: fx.Node, name: str) -> Tensor | None:
    found = node.kwargs[name] if name in node.kwargs else node.args[0] if node.args else None
    value = found.meta.get("val") if isinstance(found, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _place(body: Body, node: fx.Node) -> str:
    return f"node {node.name} of {body.path or 'root'}"
