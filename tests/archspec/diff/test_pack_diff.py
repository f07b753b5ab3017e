"""Two packs side by side: bytes, errors and chains by role, and how their differences lie to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import Tensor

from archspec.cli import main
from archspec.packs.roles import role_by_name, roles
from archspec.runtime.packs.reading import open_pack
from tests.compiler.merging.golden_cases import CONFIG, tensors
from tests.packs import packed, rules

Q, UP, NORM = (f"model.layers.1.{name}.weight" for name in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm"))


def model(folder: Path, name: str, weights: dict[str, Tensor]) -> Path:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights, folder / name / "model.safetensors", {"format": "pt"})
    return folder / name


def pack(folder: Path, name: str, changes: dict[str, Tensor], chain: str = "[dense]", base: int = 0) -> Path:
    """Pack the changes to a base; each tensor in the chain."""
    origin, tuned = model(folder, f"base{base}", tensors(base)), tensors(base)
    for tensor, change in changes.items():
        tuned[tensor] = tuned[tensor] + change
    model(folder, name, tuned)
    _, path = packed(folder, origin, f"{{tuned: {folder / name}, {rules(origin, chain)}}}", f"{name}-skill")
    return path


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensors(0)[name].shape, generator=generator) for name in (Q, UP, NORM)}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


def data(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_cosine_and_signs_are_those_of_the_decoded_differences(tmp_path: Path) -> None:
    first, second = pack(tmp_path, "a", drawn(1)), pack(tmp_path, "b", drawn(2))
    found = data(first, second)
    assert found["same_base"]
    a, b = (torch.cat([open_pack(p).delta(n).flatten() for n in (Q, UP, NORM)]).double() for p in (first, second))
    assert found["total"]["cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    both = (a != 0) & (b != 0)
    assert found["total"]["both"] == int(both.sum())
    assert found["total"]["same_sign"] == pytest.approx(float((a.sign() == b.sign())[both].double().mean()))
    cells = {(cell["role"], cell["block"]): cell for cell in found["cells"]}
    assert cells.keys() == {("attn", 1), ("mlp", 1), ("norm", 1)}
    q = [open_pack(p).delta(Q).flatten().double() for p in (first, second)]
    assert cells["attn", 1]["cosine"] == pytest.approx(float(q[0] @ q[1] / (q[0].norm() * q[1].norm())))


def test_packs_that_pull_opposite_ways_are_told(tmp_path: Path) -> None:
    there = drawn(1)
    back = {name: -change for name, change in there.items()}
    found = data(pack(tmp_path, "a", there), pack(tmp_path, "b", back))
    assert found["total"]["cosine"] == pytest.approx(-1)
    assert found["total"]["same_sign"] == 0


def test_a_tensor_of_one_pack_alone_meets_nothing(tmp_path: Path) -> None:
    changes = drawn(1)
    first = pack(tmp_path, "a", {Q: changes[Q]})
    second = pack(tmp_path, "b", {UP: changes[UP]})
    found = data(first, second)
    assert (found["total"]["cosine"], found["total"]["same_sign"], found["total"]["both"]) == (0, None, 0)
    assert "change no weight in common" in run(first, second).stdout
    cells = {cell["role"]: cell for cell in found["cells"]}
    assert cells["attn"]["bytes"] == [2 * 64, 0]
    assert cells["mlp"]["error"] == [None, pytest.approx(0, abs=1e-3)]


def test_bytes_errors_and_chains_are_those_of_the_headers(tmp_path: Path) -> None:
    whole = pack(tmp_path, "a", drawn(1))
    small = pack(tmp_path, "b", drawn(1), "[{op: quantize, bits: 2}]")
    found = data(whole, small)
    headers = [open_pack(path).header for path in (whole, small)]
    assert found["total"]["bytes"] == [header.size for header in headers]
    assert found["total"]["error"] == pytest.approx([header.error for header in headers])
    told = {line["role"]: (line["before"], line["after"]) for line in found["chains"]}
    assert told["attn"] == ("1 x dense", "1 x quantized")
    text = run(whole, small)
    assert text.exit_code == 0
    assert max(len(line) for line in text.stdout.splitlines() if str(tmp_path) not in line) <= 100
    assert "| attn | 1 x dense | 1 x quantized |" in run(whole, small, "--markdown").stdout


def test_a_pack_is_equal_to_itself_alone(tmp_path: Path) -> None:
    first, second = pack(tmp_path, "a", drawn(1)), pack(tmp_path, "b", drawn(2))
    assert run(first, first, "--exit-code").exit_code == 0
    assert "the same pack" in run(first, first).stdout
    assert run(first, second, "--exit-code").exit_code == 1


def test_another_base_is_told(tmp_path: Path) -> None:
    first, second = pack(tmp_path, "a", drawn(1)), pack(tmp_path, "b", drawn(2), base=1)
    found = data(first, second)
    assert not found["same_base"]
    assert sorted(found["moved"]) == sorted((Q, UP, NORM))
    assert "3 tensors in both were made of other weights" in run(first, second).stdout


def test_packs_of_other_architectures_and_shapes_are_refused(tmp_path: Path, tiny_bert: Path) -> None:
    from tests.packs import tuned_from

    first = pack(tmp_path, "a", drawn(1))
    tuned = tuned_from(tiny_bert, tmp_path / "bert")
    _, other = packed(tmp_path, tiny_bert, f"{{tuned: {tuned}, {rules(tiny_bert)}}}", "bert-skill")
    result = run(first, other)
    assert (result.exit_code, "AS823" in result.stderr) == (2, True)


def test_what_is_no_pack_is_refused_with_what_to_do(tmp_path: Path) -> None:
    first = pack(tmp_path, "a", drawn(1))
    weights = tmp_path / "a" / "model.safetensors"
    for arguments, hint in (((first, tmp_path / "a"), "archspec attach"), ((first, weights), "name its folder")):
        result = run(*arguments)
        assert (result.exit_code, "AS821" in result.stderr, hint in result.stderr) == (2, True, True)
    result = run(first, first, "--cost", "--spectrum", "3")
    assert (result.exit_code, result.stderr.count("AS824")) == (2, 2)


def test_names_tell_the_roles_that_sites_tell(tiny_bert: Path, tiny_llama: Path) -> None:
    from archspec.host.locate import Located, structure_of

    for host in (tiny_bert, tiny_llama):
        structure = structure_of(Located(host))
        found = roles(structure.tensors or {}, structure)
        assert {name: role_by_name(name) for name in found} == found
