"""Members of a matrix: their number, order, names, values and arms; the same from both spellings."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec.diagnostics import ArchspecError, Collector
from archspec.language.choice import choose, chosen
from archspec.language.edits import Replace
from archspec.language.matrix import MOST, Member, expand
from archspec.language.parse import load, load_source, parse_tree
from archspec.language.spec import Spec
from archspec.source import Source
from archspec.syntax.fmt import format_dsl, format_yaml

BODY = """archspec: 1
name: x
base: dit
seed: $seed
matrix:
  op: {hyena: {op: hyena_x, kernel: 3}, linear: linear_attention}
  layers: ["blocks[1::2]", "blocks[0] | blocks[2]"]
  seed: [0, 7]
edits:
  - replace: $layers.attn
    with: $op
    init: {kind: least_squares, samples: 64}
  - {freeze: "blocks[0].mlp"}
finetune: {steps: 10, lr: 1e-3}
expect: ["sites($layers.attn) == 2"]
"""
ARMS = """arms:
  ours: {}
  control: {edits: {init: random}, finetune: none}
  few: {edits: {init: {samples: 8}}, finetune: {steps: 5}}
"""


def members(text: str) -> tuple[Member, ...]:
    collector = Collector()
    found = expand(parse_tree(Source("spec.yaml", text)), collector)
    collector.raise_if_errors()
    return found


def spec(text: str, member: str) -> Spec:
    return load_source(Source("spec.yaml", text), member)


def replaced(found: Spec) -> Replace:
    edit = found.edits[0]
    assert isinstance(edit, Replace)
    return edit


def test_members_are_the_product_in_order() -> None:
    found = members(BODY)
    assert len(found) == 8
    assert found[0].id == "op=hyena,layers=blocks[1::2],seed=0"
    assert [m.labels["seed"] for m in found[:3]] == ["0", "7", "0"]
    assert [m.slug for m in found[:3:2]] == ["op-hyena-layers-1-seed-0", "op-hyena-layers-2-seed-0"]
    assert len({m.slug for m in found}) == 8


def test_values_keep_their_types_and_selectors_their_meaning() -> None:
    found = spec(BODY, "op=hyena,layers=blocks[0] | blocks[2],seed=7")
    edit = replaced(found)
    assert (edit.with_.op, dict(edit.with_.params)) == ("hyena_x", {"kernel": 3})
    assert edit.target.text == "(blocks[0] | blocks[2]).attn"
    assert found.finetune is not None
    assert (edit.init.seed, found.finetune.seed) == (7, 7)
    assert found.name == "x-op-hyena-layers-2-seed-7"
    assert str(found.expect[0]) == "sites((blocks[0] | blocks[2]).attn) == 2"


def test_arms_are_laid_over_the_spec() -> None:
    text = BODY + ARMS
    assert len(members(text)) == 24
    some = "op=linear,layers=blocks[1::2],seed=0,arm="
    ours, control, few = (spec(text, some + arm) for arm in ("ours", "control", "few"))
    assert (replaced(ours).init.kind, replaced(ours).init.samples) == ("least_squares", 64)
    assert (replaced(control).init.kind, control.finetune) == ("random", None)
    assert (replaced(few).init.kind, replaced(few).init.samples) == ("least_squares", 8)
    assert few.finetune is not None
    assert (few.finetune.steps, few.finetune.lr) == (5, 1e-3)
    assert few.edits[1] == ours.edits[1]


def test_exclude_and_include() -> None:
    more = "  exclude: [{op: linear, seed: 7}]\n  include: [{op: linear, seed: 9}]\n"
    found = members(BODY.replace("edits:\n", more + "edits:\n", 1))
    assert len(found) == 8 - 2 + 2
    assert {m.labels["seed"] for m in found if m.labels["op"] == "linear"} == {"0", "9"}


def test_both_spellings_have_the_same_members() -> None:
    tree = parse_tree(Source("spec.yaml", BODY + ARMS))
    yaml, dsl = format_yaml(tree), format_dsl(tree)
    for member in members(BODY + ARMS):
        assert load_source(Source("spec.arch", dsl), member.id) == spec(yaml, member.id)


def test_a_member_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(BODY)
    with pytest.raises(ArchspecError) as caught:
        load(tmp_path / "spec.yaml")
    (found,) = caught.value.diagnostics
    assert (found.code, found.primary and found.primary.span.line) == ("AS813", 5)
    assert "--member op=hyena" in found.hints[0]
    all_of_them = members(BODY)
    assert len(chosen(all_of_them, "seed=0")) == 4
    assert choose(all_of_them, all_of_them[3].id, all_of_them[3].tree) is all_of_them[3]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("sed=0", "did you mean 'seed'?"),
        ("seed=1", "its values are 0, 7"),
        ("op=hyenas", "did you mean 'hyena'?"),
        ("nothing", "write `--member op=...`"),
    ],
)
def test_wrong_members_are_refused(wanted: str, said: str) -> None:
    with pytest.raises(ArchspecError) as caught:
        chosen(members(BODY), wanted)
    assert caught.value.diagnostics[0].code == "AS814"
    assert caught.value.diagnostics[0].hints == (said,)


def test_an_explosion_is_cut_before_it_is_made() -> None:
    axes = "".join(f"  a{i}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for i in range(9))
    uses = "description: " + " ".join(f"$a{i}" for i in range(9)) + "\n"
    with pytest.raises(ArchspecError, match=f"more than {MOST} members"):
        members(BODY.replace("  seed: [0, 7]\n", f"  seed: [0, 7]\n{axes}") + uses)


def test_a_child_overrides_axes(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(BODY)
    (tmp_path / "child.yaml").write_text("name: y\nextends: parent.yaml\nmatrix: {seed: [3]}\n")
    found = load(tmp_path / "child.yaml", "op=linear,layers=blocks[1::2]")
    assert found.seed == 3
