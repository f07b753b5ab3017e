"""The stanza `inject` resolved: presets, what is laid over them, defaults, both spellings."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from archspec.diagnostics import ArchspecError
from archspec.host.structure import Structure
from archspec.injection import Gate, Injection, Match
from archspec.language.features import Inject, Preset
from archspec.language.parse import parse, parse_tree
from archspec.language.spec import Base, Spec
from archspec.semantics.features import preset
from archspec.semantics.resolve import resolve
from archspec.source import Source
from archspec.syntax.print_dsl import format_dsl
from archspec.syntax.print_yaml import format_yaml

PRESETS = get_args(Preset)


def resolved(text: str, structure: Structure) -> Injection:
    found = resolve(parse(Source("spec.yaml", f"name: x\nbase: flux\n{text}")), structure).injection
    assert found is not None
    return found


@pytest.fixture(scope="module")
def flux() -> Structure:
    from archspec.host.locate import find_base, structure_of

    spec = Spec(name="x", base=Base(from_="specs/hosts/flux.1-dev", subfolder="transformer"))
    return structure_of(find_base(spec, Path(__file__).parents[2]), whole=False)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_where_it_is_from_and_resolves(name: str, flux: Structure) -> None:
    import archspec.language

    path = Path(archspec.language.__file__).parent / "presets" / f"{name}.yaml"
    assert "https://" in path.read_text().partition("\n\n")[0]
    assert preset(name).grafts
    row = ", row: 0" if preset(name).state == "batch" else ""
    found = resolved(f"inject: {{preset: {name}, donors: {{it: {{image: it.png, place: there.png{row}}}}}}}", flux)
    assert found.preset == name
    assert all(len(graft.sites) == 57 and graft.donors == ("it",) for graft in found.grafts)
    assert Injection.from_json(found.to_json()) == found


def test_presets_are_files_and_files_are_presets() -> None:
    import archspec.language

    folder = Path(archspec.language.__file__).parent / "presets"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(PRESETS)


def test_what_is_written_beside_a_preset_counts_key_by_key(flux: Structure) -> None:
    text = """inject:
  preset: freegraftor
  donors: {it: it.png}
  match: {threshold: 0.4}
  gate: {scope: step}
  sampler: {steps: 10}
  noise: donor
"""
    found = resolved(text, flux)
    (graft,) = found.grafts
    assert graft.match == Match(threshold=0.4, cycle=1.5)
    assert graft.gate == Gate(dropout=0.4, scope="step")
    assert (found.solver, found.steps, found.guidance, found.noise) == ("fireflow", 10, 3.0, "donor")
    placed = "donors: {it: {image: it.png, place: there.png}}"
    bare = resolved(f"inject: {{preset: freegraftor, {placed}, match: none, position: same}}", flux)
    assert bare.grafts[0].match is None


def test_a_collage_needs_places(flux: Structure) -> None:
    with pytest.raises(ArchspecError, match=r"AS762.*where in the template donor 'it' goes"):
        resolved("inject: {preset: freegraftor, donors: {it: it.png}}", flux)
    found = "collage: {detector: a, segmenter: b}"
    assert resolved(f"inject: {{preset: freegraftor, donors: {{it: it.png}}, {found}}}", flux).noise == "collage"


def test_a_grafts_own_settings_count_for_it_alone(flux: Structure) -> None:
    text = """inject:
  donors: {a: a.png, b: {image: b.png, state: clean}}
  match: {cycle: 2}
  times: [1, 0.5]
  grafts:
    - append
    - {op: adain, match: none, donors: [b], times: [0.5, 0], into: "blocks[0:2].joint_attn", strength: 1.5}
"""
    first, second = resolved(text, flux).grafts
    assert (first.match, first.position, first.donors, first.times) == (
        Match(cycle=2.0),
        "matched",
        ("a", "b"),
        (1.0, 0.5),
    )
    assert (second.match, second.position, second.donors, second.times) == (None, "same", ("b",), (0.5, 0.0))
    assert second.sites == ("transformer_blocks.0.attn", "transformer_blocks.1.attn")
    assert second.strength == 1.5


def test_donors_may_be_named_when_it_is_run(flux: Structure) -> None:
    found = resolved("inject: shared_attention", flux)
    assert (found.donors, found.state) == ({}, "noised")


def test_a_stanza_made_in_python_lies_over_its_preset_too(flux: Structure) -> None:
    spec = Spec(name="x", base=Base(from_="flux"), inject=Inject(preset="freegraftor", noise="donor"))
    found = resolve(spec, flux).injection
    assert found is not None
    assert (found.noise, found.solver) == ("donor", "fireflow")


def test_both_spellings_say_the_same() -> None:
    text = """archspec: 1
name: x
base: flux
inject:
  preset: freegraftor
  donors:
    cat: {image: cat.png, mask: cat-mask.png, shift: [0, 4]}
  match: {threshold: 0.3}
  times: [1, 0.2]
  grafts: [append, {op: blend, weight: 0.5, into: "blocks[0:4].joint_attn"}]
"""
    tree = parse_tree(Source("spec.yaml", text))
    dsl = format_dsl(tree)
    again = format_yaml(parse_tree(Source("spec.arch", dsl)))
    assert parse(Source("spec.yaml", again)) == parse(Source("spec.yaml", text)) == parse(Source("spec.arch", dsl))
    assert "inject freegraftor {" in dsl


def test_dropped_and_replaced_attentions_are_left_out(flux: Structure) -> None:
    text = 'edits:\n  - drop: "blocks[0:3]"\ninject: {donors: {it: it.png}, grafts: [append]}'
    assert len(resolved(text, flux).grafts[0].sites) == 54
    with pytest.raises(ArchspecError) as error:
        resolved(f'{text[:-1]}, into: "blocks[1:5].joint_attn"}}', flux)
    assert error.value.diagnostics[0].code == "AS753"
