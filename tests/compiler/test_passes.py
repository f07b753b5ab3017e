"""Contract of every pass, refusals with their places, and golden texts of rewritten graphs.

`ARCHSPEC_GOLDENS=1 pytest tests/compiler/test_passes.py` writes the goldens anew; review the diff.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from archspec.compiler.rewrite.graph import HostGraph, retarget
from archspec.compiler.rewrite.graph_text import render
from archspec.compiler.rewrite.ledger import ledger
from archspec.compiler.rewrite.passes.base import Fact, Pass
from archspec.compiler.rewrite.pipeline import PASSES, list_passes, run, run_timed
from archspec.compiler.rewrite.verify import verify
from archspec.diagnostics import ArchspecError, InternalError
from archspec.semantics.resolve import ResolvedSpec

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = {
    "replace": "{replace: 'blocks[1].attn', with: {op: hyena_x}}",
    "share": "share: blocks[1:3].mlp",
    "drop": "drop: 'blocks[2]'",
    "repeat": "{repeat: 'blocks[2]', times: 3}",
    "parallelize": "{parallelize: blocks, by: 2}",
    "insert": "{insert: 'blocks[1:3]', with: {op: local_attention, window: 2}}",
    "skip": "{skip: 'blocks[0:2]', to: 'blocks[2:4]', merge: linear}",
    "freeze": "freeze: blocks[0].attn",
}
Compiler = Callable[..., Any]


def test_every_pass_has_a_case() -> None:
    assert [step.name for step in PASSES] == list(CASES)
    assert [name for name, text in list_passes() if text] == list(CASES)


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_contract(step: Pass, tiny_dit: Path, compiler: Compiler) -> None:
    """The input stays as it is, the output verifies, a spec without such edits goes through unchanged."""
    done = compiler(tiny_dit, CASES[step.name])
    text = render(done.before)
    once = step.run(done.before, done.resolved)
    assert render(done.before) == text
    assert render(once) != text or step.name == "freeze"
    verify(done.before, once, step.name)
    other = compiler(tiny_dit, CASES["freeze" if step.name != "freeze" else "drop"])
    assert render(step.run(other.before, other.resolved)) == render(other.before)


@pytest.mark.parametrize("name", ["replace", "freeze"])
def test_idempotent(name: str, tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, CASES[name])
    step = next(step for step in PASSES if step.name == name)
    once = step.run(done.before, done.resolved)
    assert render(step.run(once, done.resolved)) == render(once)


@pytest.mark.parametrize("name", [*CASES, "together"])
def test_golden(name: str, tiny_dit: Path, compiler: Compiler) -> None:
    together = (CASES["replace"], "{parallelize: 'blocks[0:2]', by: 2, merge: linear}", CASES["repeat"])
    done = compiler(tiny_dit, *(together if name == "together" else (CASES[name],)))
    file, text = GOLDEN / f"dit-{name}.txt", render(done.after)
    if os.environ.get("ARCHSPEC_GOLDENS"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_nodes_know_why_they_are_there(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, CASES["parallelize"])
    made = [n.meta["why"] for n in done.after.root.graph.nodes if n.meta.get("why")]
    assert len(made) > 8
    assert {why.by for why in made} == {"parallelize"}
    assert {(why.span.line, why.span.column) for why in made} == {(5, 5)}
    assert {why.replaced for why in made} == {"transformer_blocks.0", "transformer_blocks.2"}


@pytest.mark.parametrize(
    ("edit", "kept", "new", "dropped"),
    [
        ("replace", 117360 - 4224, 4224 + 15 * 32, 4224),  # 4 D^2 + 4 D; hyena_x has 15 D more
        ("share", 117360 - 8352, 0, 8352),
        ("drop", 117360 - 28544, 0, 28544),
        ("repeat", 117360, 2 * 28544, 0),
        ("parallelize", 117360, 2 * (2 * 32 * 32 + 32), 0),
        ("insert", 117360, 2 * 4224, 0),
        ("skip", 117360, 2 * (2 * 32 * 32 + 32), 0),
        ("freeze", 117360, 0, 0),
    ],
)
def test_ledger(edit: str, kept: int, new: int, dropped: int, tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, CASES[edit])
    counts = ledger(done.before, done.after)
    assert (counts.kept, counts.new, counts.dropped) == (kept, new, dropped)


def test_sharing_is_followed_to_its_end(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, "share: blocks[1:3].mlp", "share: blocks[0:2].mlp")
    assert len(done.after.nodes("transformer_blocks.0.ff")) == 3


def _refused(error: pytest.ExceptionInfo[ArchspecError]) -> tuple[str, int, int]:
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.primary is not None
    assert diagnostic.hints
    return diagnostic.code, diagnostic.primary.span.line, diagnostic.primary.span.column


def test_block_0_of_a_dit_is_read_from_outside(tiny_dit: Path, compiler: Compiler) -> None:
    with pytest.raises(ArchspecError, match=r"norm1.emb") as error:
        compiler(tiny_dit, CASES["freeze"], "drop: blocks[0:2]")
    assert _refused(error) == ("AS503", 6, 5)


def test_block_0_of_a_llama_is_not(tiny_llama: Path, compiler: Compiler) -> None:
    done = compiler(tiny_llama, "drop: 'blocks[0]'")
    assert "model.layers.0" not in {n.target for n in done.after.root.graph.find_nodes(op="call_module")}


def test_a_module_that_is_no_site_for_operators(tiny_plain: Path, compiler: Compiler) -> None:
    with pytest.raises(ArchspecError, match="not tokens of one width") as error:
        compiler(tiny_plain, "{replace: '\"embeddings.patch_embeddings\"', with: {op: identity}}")
    assert _refused(error) == ("AS505", 5, 5)


def test_repeated_blocks_cannot_be_grouped(tiny_dit: Path, compiler: Compiler) -> None:
    with pytest.raises(ArchspecError, match="called 3 times") as error:
        compiler(tiny_dit, CASES["repeat"], CASES["parallelize"])
    assert _refused(error)[0] == "AS501"


@dataclass(frozen=True)
class _Careless(Pass):
    """Lets an attention be called with the block's whole output: of the right width, at the wrong place."""

    name: ClassVar[str] = "careless"
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.VALUES})

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        graph = graph.copied()
        _, node = graph.node("transformer_blocks.1.ff")
        retarget(node, "transformer_blocks.1.nothing", self.why(resolved.edits[0], "transformer_blocks.1.ff"))
        return graph


@dataclass(frozen=True)
class _Broken(Pass):
    """Raises."""

    name: ClassVar[str] = "broken"
    requires: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, graph: HostGraph, resolved: ResolvedSpec) -> HostGraph:
        raise KeyError("x")


def test_the_driver_blames_the_pass(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, CASES["freeze"])
    with pytest.raises(InternalError, match=r"pass 'careless' left an invalid graph: .*'transformer_blocks.1.nothing'"):
        run(done.before, done.resolved, [_Careless()])
    with pytest.raises(InternalError, match="pass 'broken' failed: KeyError"):
        run(done.before, done.resolved, [_Broken()])


def test_the_driver_checks_what_a_pass_needs(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, CASES["freeze"])
    with pytest.raises(InternalError, match="pass 'drop' needs a graph of which holds: every site calls its final"):
        run(done.before, done.resolved, [step for step in PASSES if step.name != "share"])


def test_passes_are_timed(tiny_dit: Path, compiler: Compiler) -> None:
    done = compiler(tiny_dit, CASES["drop"])
    seconds = run_timed(done.before, done.resolved).seconds
    assert list(seconds) == list(CASES)
    assert all(value > 0 for value in seconds.values())


def test_a_wrong_width_does_not_pass(tiny_dit: Path, compiler: Compiler) -> None:
    """torch's lint accepts it; verification names the node."""
    from dataclasses import replace

    done = compiler(tiny_dit, CASES["replace"])
    graph = done.after.copied()
    _, node = graph.node("transformer_blocks.1.attn1")
    new = node.meta["new"]
    wrong = replace(new.site, shape=replace(new.site.shape, width=48))
    node.meta["new"] = replace(new, site=wrong)
    graph.bodies["transformer_blocks.1"].graph.lint()
    with pytest.raises(InternalError, match=r"reads f32\[1, 16, 32\], its site has width 48"):
        verify(done.before, graph, "test")
