"""Translation validation: the proof, at every compile, that the program does what the rewritten graph says.

Two derivations start from the same spec: passes rewrite the captured graph, and `archspec.semantics.lower` makes
instructions that `archspec.runtime.model.apply` executes on the module tree. The proof compares their ends.

form      At real size, without weights: the lowered model is captured again, and its graphs (the root's and every
          block's) must be isomorphic to the rewritten ones: operations, constants, argument places, operators with
          config and port, and for every module whose weights it uses, through the table by which checkpoints are
          written. The result has exactly the tensors of that table, and as many parameters as the ledger.
numbers   With random weights: the rewritten graph, interpreted, and the lowered model, called as its users call it,
          agree, each new node calling the module that the isomorphism pairs it with. A small host is run as it is;
          a large one in reduced form (`reduce.py`: same blocks and program, narrow). Where no reduction exists,
          `Proof.numbers` says so. A program without instructions must reproduce the host to 0.0.

What is not proved: that operators are right (their tests compare them with references); that the host's own code does
not branch on the content of its inputs in other calls than the captured one; that the reduced host has the form of the
real one (its nodes are paired by the real one's proof, and a pair that does not exist is an error).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from archspec.compiler.capture import capture
from archspec.compiler.capture.model import base_tensors, build_structure, edited_paths, randomize
from archspec.compiler.capture.tracer import first_tensors
from archspec.compiler.capture.values import summary
from archspec.compiler.proof.isomorphism import Difference, match
from archspec.compiler.proof.labels import Expected, Lowered
from archspec.compiler.proof.reduce import reduced
from archspec.compiler.rewrite.graph import Body, HostGraph, Provenance
from archspec.compiler.rewrite.interpret import interpret
from archspec.compiler.rewrite.ledger import Ledger, ledger, parameter_sizes
from archspec.compiler.rewrite.pipeline import run
from archspec.diagnostics import ArchspecError, InternalError, fail
from archspec.instructions import Instruction, TensorSource
from archspec.runtime.families import family
from archspec.runtime.model.apply import apply
from archspec.semantics.layout import result_paths, tensor_sources
from archspec.semantics.lower import lower
from archspec.semantics.resolve import ResolvedSpec

Program = tuple[Instruction, ...]
Places = Mapping[tuple[str | None, str], str]
"""(name of the root's node that calls the block, None in the root; name of a new node) -> path in the lowered model.
Names, since they are the same in the graphs of the reduced host."""
SMALL = 8_000_000
"""Parameters up to which a host is run as it is."""
LARGE = 500_000_000
"""The same, of a host that has no reduced form: 4 GB for both models in float32."""
FEW = 36
"""Tokens of a reduced host that takes any number."""
TOLERANCE = 1e-5
"""Largest difference, relative to the largest output, between graph and lowered model (float32)."""


@dataclass(frozen=True)
class Numbers:
    """What was run: `size` says on what, `difference` is the largest one, relative to the largest output."""

    size: str
    difference: float | None


@dataclass(frozen=True)
class Proof:
    """`nodes` counts those matched over all graphs; `graphs` the root and the blocks."""

    graphs: int
    nodes: int
    parameters: Ledger
    numbers: Numbers

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pairing:
    """The isomorphism that was found: node of the rewritten graph -> node of the lowered model. `blocks` has one such
    map per call of a block, by the root's node of that call: a copied block is matched twice."""

    lowered: nn.Module
    root: Mapping[fx.Node, fx.Node]
    blocks: Mapping[fx.Node, Mapping[fx.Node, fx.Node]]

    @property
    def count(self) -> int:
        return len(self.root) + sum(map(len, self.blocks.values()))

    def places(self) -> Places:
        """Return where the modules of the lowered model are that new nodes call."""
        graphs = {None: self.root} | {call.name: pairs for call, pairs in self.blocks.items()}
        return {
            (call, node.name): str(other.target)
            for call, pairs in graphs.items()
            for node, other in pairs.items()
            if node.meta.get("new")
        }


def prove(
    resolved: ResolvedSpec, program: Program, before: HostGraph, after: HostGraph, lowered: nn.Module | None = None
) -> Proof:
    """Prove a program. Raises ArchspecError AS510 to AS513, which name the node, the tensor or the number. `lowered` is
    the edited model if it is at hand."""
    pairing = prove_form(resolved, program, after, lowered or lowered_model(resolved, program))
    counts = ledger(before, after)
    _check_parameters(pairing.lowered, counts)
    size = counts.kept + counts.dropped
    numbers = _numbers(resolved, program, after, pairing, size)
    return Proof(1 + len(pairing.blocks), pairing.count, counts, numbers)


def lowered_model(resolved: ResolvedSpec, program: Program, device: str = "meta") -> nn.Module:
    """Return the host with the program applied to it."""
    model = build_structure(resolved.structure, device)
    try:
        return apply(model, program)
    except (ValueError, KeyError, AttributeError) as error:
        raise fail("AS513", f"the program cannot be applied to the host: {error}") from error


def prove_form(resolved: ResolvedSpec, program: Program, after: HostGraph, lowered: nn.Module) -> Pairing:
    """Prove that the graphs of the edited model `lowered` are the rewritten ones."""
    structure = resolved.structure
    names = base_tensors(structure, after.model)
    sources = tensor_sources(program, names.structure)
    _check_tensors(lowered, sources, names.shapes)
    found = _captured(lowered, after.example, program, resolved)
    labels = Expected(after, names.shapes), Lowered(lowered, sources)
    root = _match(after.root, found.root, *labels)
    _check_identity(root)
    blocks = {
        node: _match(after.bodies[str(node.target)], found.bodies[str(other.target)], *labels)
        for node, other in root.items()
        if node.op == "call_module" and node.target in after.bodies and not node.meta.get("new")
    }
    return Pairing(lowered, root, blocks)


def _captured(lowered: nn.Module, example: Mapping[str, Any], program: Program, resolved: ResolvedSpec) -> HostGraph:
    paths = [place for path in edited_paths(resolved) for place in result_paths(program, path)]
    try:
        return capture(lowered, example, paths)
    except ArchspecError as error:
        first = error.diagnostics[0]
        raise fail("AS513", f"the edited model does not run: {first.message}", None, *first.hints) from error


def _match(body: Body, found: Body, expected: Expected, lowered: Lowered) -> dict[fx.Node, fx.Node]:
    try:
        return match(body.graph, expected, found.graph, lowered)
    except Difference as difference:
        raise _blame(body, difference) from difference


def _blame(body: Body, difference: Difference) -> ArchspecError:
    node, where = difference.node, f"in {body.path}" if body.path else "in the root graph"
    side = "the edited model has no counterpart of" if difference.missing else "the edited model has in addition"
    label = difference.label if len(difference.label) < 160 else difference.label[:157] + "..."
    why: Provenance | None = node.meta.get("why")
    place = f"node '{node.name}' {where} ({label}, {summary(node.meta.get('val'))})"
    hint = "this is a host that the edit does not fit, or a defect of archspec: please report it"
    return fail("AS510", f"{side} {place}", why.span if why else None, hint)


def _check_identity(pairs: Mapping[fx.Node, fx.Node]) -> None:
    """Calls of one module must be calls of one module on the other side, and copies must be modules of their own."""
    there: dict[tuple[str, int], str] = {}
    for node, other in pairs.items():
        if node.op != "call_module":
            continue
        key, target = (str(node.target), node.meta.get("copy", 0)), str(other.target)
        if there.setdefault(key, target) != target:
            raise fail("AS510", f"'{key[0]}' is one module in the graph and two in the edited model", _span(node))
    if len(set(there.values())) != len(there):
        twice = next(t for t in there.values() if list(there.values()).count(t) > 1)
        raise fail("AS510", f"'{twice}' of the edited model stands for two modules of the graph")


def _span(node: fx.Node) -> Any:
    why: Provenance | None = node.meta.get("why")
    return why.span if why else None


def _check_tensors(lowered: nn.Module, sources: Mapping[str, TensorSource], shapes: Mapping[str, Any]) -> None:
    """The lowered model must have exactly the tensors of the table by which checkpoints are written."""
    has = {name: tuple(p.shape) for name, p in lowered.named_parameters()}
    says = {name: tuple(s.shape or ()) if s.base is None else shapes[s.base] for name, s in sources.items()}
    buffers = {name for name, _ in lowered.named_buffers()}
    for name in sorted((has.keys() ^ says.keys()) - buffers):
        side = (
            "is in the edited model and not in its layout" if name in has else "is in the layout and not in the model"
        )
        raise fail("AS512", f"tensor '{name}' {side}")
    for name, shape in has.items():
        if says[name] != shape:
            raise fail("AS512", f"tensor '{name}' is {shape} in the edited model and {says[name]} in its layout")


def _check_parameters(lowered: nn.Module, counts: Ledger) -> None:
    has = sum(parameter_sizes(lowered).values())
    if has != counts.result:
        raise InternalError(f"the ledger has {counts.result} parameters, the edited model {has}")


def _numbers(resolved: ResolvedSpec, program: Program, after: HostGraph, pairing: Pairing, size: int) -> Numbers:
    """Run graph and lowered model: as they are where that is cheap or there is no other way, else reduced."""
    small = reduced(resolved) if size > SMALL else None
    if small is not None:
        return _reduced(small, pairing.places())
    if size > LARGE:
        return Numbers(f"not run: {size:,} parameters, and no reduced form of this host", None)
    host = build_structure(resolved.structure, "cpu")
    return _run(resolved, program, replace(after, model=host), pairing.places())


def _reduced(small: ResolvedSpec, places: Places) -> Numbers:
    """Run graph and lowered model of the same spec on a reduced host, paired as they were at real size."""
    structure = small.structure
    host = build_structure(structure, "cpu")
    tokens = None if structure.tokens else FEW
    example = family(structure.family).example(host, batch=2, tokens=tokens)
    after = run(capture(host, example, edited_paths(small)), small)
    width = next(site.shape.width for site in structure.sites)
    return replace(_run(small, lower(small), after, places, tokens), size=f"reduced to width {width}")


def _run(
    resolved: ResolvedSpec, program: Program, after: HostGraph, places: Places, length: int | None = None, seed: int = 0
) -> Numbers:
    """Run graph and lowered model on the same random weights and inputs. The graph's host has weights."""
    structure, host, lowered = resolved.structure, after.model, lowered_model(resolved, program, "cpu")
    randomize(host, seed)
    randomize(lowered, seed + 1)
    _give_weights(host, lowered, tensor_sources(program, base_tensors(structure, host).structure))
    tokens = (value for value in after.example.values() if isinstance(value, Tensor))
    example = family(structure.family).example(host, batch=next(tokens).shape[0], tokens=length, seed=seed)

    def new(call: fx.Node | None, node: fx.Node) -> nn.Module:
        return lowered.get_submodule(places[call.name if call else None, node.name])

    with torch.no_grad():
        found = first_tensors(lowered(**example))
        difference = _difference(interpret(after, example, new), found)
        exact = _difference(first_tensors(host(**example)), found) if not program else 0.0
    if not difference <= TOLERANCE or exact != 0.0:
        what = f"graph and edited model differ by {max(difference, exact):.3g} of the largest output"
        raise fail("AS511", what, None, "this is a defect of archspec: please report it with the spec")
    return Numbers("real size", difference)


def _give_weights(host: nn.Module, lowered: nn.Module, sources: Mapping[str, TensorSource]) -> None:
    """Copy the base's weights to where the layout says they go; new ones keep theirs."""
    base = dict(host.named_parameters()) | dict(host.named_buffers())
    with torch.no_grad():
        for name, parameter in (*lowered.named_parameters(), *lowered.named_buffers()):
            source = sources.get(name)
            if source and source.base:
                parameter.copy_(base[source.base])


def _difference(one: Any, other: Any) -> float:
    """Return the largest difference of two outputs relative to their largest value."""
    pairs = list(zip(_tensors(one), _tensors(other), strict=True))
    if any(a.shape != b.shape or not bool(torch.isfinite(a).all()) for a, b in pairs):
        return float("inf")
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output:
            yield from _tensors(part)
