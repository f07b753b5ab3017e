"""Tensors of the result and where they come from; the names are those that the applied module tree has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archspec.diagnostics import InternalError
from archspec.families import describe
from archspec.host.headers import read_folder
from archspec.host.structure import Structure
from archspec.instructions import Instruction, TensorSource
from archspec.language.parse import parse
from archspec.semantics.layout import base_shapes, count_parameters, depth, result_path, result_paths, tensor_sources
from archspec.semantics.lower import lower
from archspec.semantics.resolve import resolve
from archspec.source import Source

SMALL: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 4, "sample_size": 8, "num_embeds_ada_norm": 3}
DIT = describe({"_class_name": "DiTTransformer2DModel", "num_layers": 6, **SMALL})
BLOCKS = "transformer_blocks"
BIAS = "ff.net.2.bias"


def program(*edits: str, host: Structure = DIT) -> tuple[Instruction, ...]:
    text = "name: a\nbase: ./host\n" + "edits:\n" * bool(edits) + "".join(f"- {{{edit}}}\n" for edit in edits)
    return lower(resolve(parse(Source("s.yaml", text)), host))


def sources(*edits: str, host: Structure = DIT) -> dict[str, TensorSource]:
    return tensor_sources(program(*edits, host=host), host)


def homes(found: dict[str, TensorSource], local: str = BIAS) -> dict[str, str | None]:
    """Return where the tensors named `local` are, and from where in the base."""
    return {
        n.removeprefix(f"{BLOCKS}.").removesuffix(f".{local}"): s.base for n, s in found.items() if n.endswith(local)
    }


def base(*indices: int) -> list[str]:
    return [f"{BLOCKS}.{i}.{BIAS}" for i in indices]


def test_no_edit_keeps_everything_in_place() -> None:
    found = sources()
    assert {name: source.base for name, source in found.items()} == {name: name for name in base_shapes(DIT) or {}}


def test_install_replaces_the_tensors_of_its_site() -> None:
    found = sources("replace: 'blocks[1].mlp', with: {op: mlp, ratio: 3}")
    new = {name: source for name, source in found.items() if source.base is None}
    assert {name: source.shape for name, source in new.items()} == {
        f"{BLOCKS}.1.ff.up.weight": (24, 8),
        f"{BLOCKS}.1.ff.up.bias": (24,),
        f"{BLOCKS}.1.ff.readout.weight": (8, 24),
        f"{BLOCKS}.1.ff.readout.bias": (8,),
    }
    assert new[f"{BLOCKS}.1.ff.up.bias"] == TensorSource(shape=(24,), site=f"{BLOCKS}.1.ff", local="up.bias")
    assert not any(name.startswith(f"{BLOCKS}.1.ff.net") for name in found)
    assert set(found) - set(new) == {n for n in base_shapes(DIT) or {} if not n.startswith(f"{BLOCKS}.1.ff.")}


def test_drop_moves_what_is_behind() -> None:
    assert homes(sources("drop: 'blocks[1, 2]'")) == dict(zip("0123", base(0, 3, 4, 5), strict=True))


def test_copies_have_tensors_and_ties_have_none() -> None:
    assert homes(sources("repeat: 'blocks[4]', times: 3")) == dict(
        zip("01234567", base(0, 1, 2, 3, 4, 4, 4, 5), strict=True)
    )
    ties = homes(sources("repeat: 'blocks[4]', times: 3, tie: true"))
    assert ties == dict(zip("012347", base(0, 1, 2, 3, 4, 5), strict=True))


def test_branches_and_merges() -> None:
    found = sources("parallelize: 'blocks[2:4]', merge: linear")
    expected = dict(zip(["0", "1", "2.branches.0", "2.branches.1", "3", "4"], base(0, 1, 2, 3, 4, 5), strict=True))
    assert homes(found) == expected
    assert found[f"{BLOCKS}.2.merge.weight"] == TensorSource(shape=(8, 16), site=BLOCKS, local="2.merge.weight")
    assert found[f"{BLOCKS}.2.merge.bias"].shape == (8,)


@pytest.mark.parametrize(("merge", "weights"), [("linear", 2), ("residual_linear", 2), ("sum", 0), ("average", 0)])
def test_only_learned_merges_have_weights(merge: str, weights: int) -> None:
    found = sources(f"parallelize: 'blocks[0:3]', by: 3, merge: {merge}")
    assert len([name for name in found if ".merge." in name]) == weights


def test_shared_sites_have_none() -> None:
    found = sources("share: 'blocks[0:3].mlp'")
    assert list(homes(found)) == ["0", "3", "4", "5"]
    assert count_parameters(found, DIT) == count_parameters(sources(), DIT) - 2 * (8 * 32 * 2 + 32 + 8)


def test_operators_in_copied_and_parallel_blocks() -> None:
    edits = ["replace: 'blocks[*].mlp', with: {op: mlp, ratio: 3}", "repeat: 'blocks[0]'", "parallelize: 'blocks[1:3]'"]
    found = {n: s.site for n, s in sources(*edits).items() if n.endswith("up.bias")}
    assert found == {
        f"{BLOCKS}.{place}.ff.up.bias": f"{BLOCKS}.{index}.ff"
        for place, index in (("0", 0), ("1", 0), ("2.branches.0", 1), ("2.branches.1", 2), ("3", 3), ("4", 4), ("5", 5))
    }


def test_result_paths() -> None:
    code = program(
        "replace: 'blocks[1].mlp', with: mlp", "drop: 'blocks[0]'", "repeat: 'blocks[1]', times: 2",
        "repeat: 'blocks[5]', tie: true", "parallelize: 'blocks[2:4]'",
    )  # fmt: skip
    assert result_paths(code, f"{BLOCKS}.0.attn1") == ()
    assert result_path(code, f"{BLOCKS}.0") is None
    assert result_paths(code, f"{BLOCKS}.1.ff") == (f"{BLOCKS}.0.ff", f"{BLOCKS}.1.ff")
    assert result_path(code, f"{BLOCKS}.1.ff.net.0") is None
    assert result_path(code, f"{BLOCKS}.3.attn1") == f"{BLOCKS}.2.branches.1.attn1"
    assert result_path(code, f"{BLOCKS}.3") == f"{BLOCKS}.2.branches.1"
    assert result_paths(code, f"{BLOCKS}.5") == (f"{BLOCKS}.4", f"{BLOCKS}.5")
    assert result_path(code, "pos_embed.proj") == "pos_embed.proj"
    assert result_path(code, BLOCKS) == BLOCKS


def test_depth() -> None:
    assert depth((), DIT) == 6
    assert depth(program("parallelize: 'blocks[*]'"), DIT) == 3
    assert depth(program("drop: 'blocks[0]'", "repeat: 'blocks[1]', times: 3"), DIT) == 7


def test_parameters_without_weights_come_from_the_config() -> None:
    xl = describe({"_class_name": "DiTTransformer2DModel", "out_channels": 8})
    assert count_parameters(tensor_sources((), xl), xl) == 749_826_464


def test_unknown_host_without_weights() -> None:
    with pytest.raises(InternalError, match="SomethingModel"):
        tensor_sources((), describe({"_class_name": "SomethingModel"}))


EDITS = [
    (),
    ("replace: 'blocks[*].mlp', with: {op: mlp, ratio: 2}", "replace: 'blocks[0].attn', with: attention"),
    ("drop: 'blocks[0]'",),
    ("replace: 'blocks[1].mlp', with: mlp", "repeat: 'blocks[1]', times: 3"),
    ("repeat: 'blocks[0, 3]', tie: true",),
    ("parallelize: 'blocks[*]', merge: linear", "share: 'blocks[0:2].mlp'"),
    ("parallelize: 'blocks[1:]', by: 3, merge: sum", "replace: 'blocks[2]', with: identity"),
    ("share: 'blocks[1:3]'", "repeat: 'blocks[1]'"),
    ("share: 'blocks[2:4].attn'", "repeat: 'blocks[3]'", "drop: 'blocks[0]'"),
    ("replace: 'blocks[1].norm', with: identity", "drop: 'blocks[2]'", "parallelize: 'blocks[1, 3]'"),
]


@pytest.mark.parametrize("host", ["tiny_dit", "tiny_pixart", "tiny_llama", "tiny_qwen2", "tiny_qwen3"])
@pytest.mark.parametrize("edits", EDITS, ids=range(len(EDITS)))
def test_names_and_shapes_are_those_of_the_applied_model(
    host: str, edits: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    from archspec.runtime.model.apply import apply
    from archspec.runtime.model.hosts import build

    folder: Path = request.getfixturevalue(host)
    structure = describe(json.loads((folder / "config.json").read_text()), read_folder(folder))
    code = program(*edits, host=structure)
    model = apply(build(structure.config, structure.library, structure.architecture), code)
    shapes = base_shapes(structure) or {}
    expected = {n: s.shape if s.base is None else shapes[s.base] for n, s in tensor_sources(code, structure).items()}
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected
    for site in structure.sites:
        for path in result_paths(code, site.path):
            model.get_submodule(path)
