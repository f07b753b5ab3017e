"""The pipeline: a captured host -> the graph that the spec asks for.

`PASSES` is the whole compiler between capture and lowering; `archspec plan --list-passes` prints it. The driver, not
the pass, skips a pass that has nothing to do, checks what one needs, verifies what it left, takes the time, and blames
the pass in the error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from archspec.compiler.capture.tracer import is_impure
from archspec.compiler.rewrite.graph import HostGraph
from archspec.compiler.rewrite.passes.base import Fact, Pass, edits
from archspec.compiler.rewrite.passes.drop import Drop
from archspec.compiler.rewrite.passes.freeze import Freeze
from archspec.compiler.rewrite.passes.insert import Insert
from archspec.compiler.rewrite.passes.parallelize import Parallelize
from archspec.compiler.rewrite.passes.repeat import Repeat
from archspec.compiler.rewrite.passes.replace import Replace
from archspec.compiler.rewrite.passes.share import Share
from archspec.compiler.rewrite.passes.skip import Skip
from archspec.compiler.rewrite.verify import verify
from archspec.diagnostics import ArchspecError, InternalError
from archspec.semantics.resolve import ResolvedSpec

PASSES: tuple[Pass, ...] = (
    Replace(),
    Share(),
    Drop(),
    Repeat(),
    Parallelize(),
    Insert(),
    Skip(),
    Freeze(),
)


@dataclass(frozen=True)
class Rewritten:
    """The result, with the time that each pass took."""

    graph: HostGraph
    seconds: dict[str, float]


def run(graph: HostGraph, resolved: ResolvedSpec, passes: Sequence[Pass] = PASSES) -> HostGraph:
    """Return the rewritten graph; `graph` stays as it is."""
    return run_timed(graph, resolved, passes).graph


def run_timed(graph: HostGraph, resolved: ResolvedSpec, passes: Sequence[Pass] = PASSES) -> Rewritten:
    """As `run`, with the time of each pass."""
    base, facts, seconds = graph, {Fact.VALUES}, dict[str, float]()
    with _fake(graph):
        for step in passes:
            missing = step.requires - facts
            if missing:
                needs = ", ".join(sorted(fact.value for fact in missing))
                raise InternalError(f"pass '{step.name}' needs a graph of which holds: {needs}")
            start = time.perf_counter()
            if step.verb is None or any(edits(resolved, step.verb)):
                graph = _step(step, graph, resolved)
                verify(base, graph, f"pass '{step.name}'")
            seconds[step.name] = time.perf_counter() - start
            facts |= step.ensures
    return Rewritten(graph, seconds)


def _step(step: Pass, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
    try:
        done = step.run(graph, resolved)
        done.root.graph.eliminate_dead_code(is_impure)  # streams that nothing reads any more
        return done
    except (ArchspecError, InternalError):
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise InternalError(f"pass '{step.name}' failed: {type(error).__name__}: {error}") from error


@contextmanager
def _fake(graph: HostGraph) -> Iterator[None]:
    """Compute the values of new nodes in the fake mode of the capture."""
    values = (node.meta.get("val") for node in graph.root.graph.nodes)
    mode = next((v.fake_mode for v in values if isinstance(v, FakeTensor)), FakeTensorMode())
    with mode:
        yield


def list_passes() -> list[tuple[str, str]]:
    """Return (name, what it does) of every pass in order."""
    return [(step.name, (type(step).__doc__ or "").strip().splitlines()[0]) for step in PASSES]
