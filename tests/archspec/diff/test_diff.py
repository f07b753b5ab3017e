"""Comparing outlines: what changed, where, and what is never claimed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archspec.cli import main
from archspec.diagnostics import ArchspecError
from archspec.diff.compare import Change, Difference, compare
from archspec.diff.report import to_json, to_markdown, verdict
from archspec.diff.sides import read_side
from tests.disk import narrow

DIGITS = Path(__file__).parents[3] / "specs" / "hosts" / "digits"


def spec(folder: Path, name: str, edits: str, more: str = "") -> Path:
    path = folder / f"{name}.arch"
    path.write_text(f'spec "{name}" {{\n  base "{DIGITS}" {{ subfolder = "transformer" }}\n  {edits}\n{more}}}\n')
    return path


def difference(folder: Path, before: Path | str, after: Path | str) -> Difference:
    return compare(read_side(str(before), folder / "x"), read_side(str(after), folder / "y"))


def of_kind(found: Difference, kind: str) -> list[Change]:
    return [c for c in found.changes if c.kind == kind]


def test_operators_are_grouped_and_written_as_a_selector(tmp_path: Path) -> None:
    path = spec(tmp_path, "a", "replace blocks[1::2].attn with hyena_x(kernel=4)")
    found = difference(tmp_path, DIGITS, path)
    (change,) = found.changes
    width, kernel = 96, 4
    added = 3 * (3 * width * kernel + 3 * width)  # filters and their biases of three sites
    assert change == Change("operator", "blocks[1::2].attn", "host attn", "hyena_x", 3, added)


def test_wiring_and_depth(tmp_path: Path) -> None:
    path = spec(tmp_path, "a", "drop blocks[5]\n  parallelize blocks[0:4] by 2 merge linear init least_squares")
    found = difference(tmp_path, DIGITS, path)
    wiring = of_kind(found, "wiring")
    assert [(c.before, c.after) for c in wiring] == [
        ("[0:4]", "[parallel(0, 1; linear), parallel(2, 3; linear)]"),
        ("[5]", None),
    ]
    assert {c.where for c in of_kind(found, "removed")} >= {"blocks[5].attn", "blocks[5].mlp"}
    depth = found.measures[0]
    assert (depth.name, depth.before, depth.after) == ("depth", 6, 3)


def test_one_parameter_of_an_operator(tmp_path: Path) -> None:
    three = spec(tmp_path, "three", "replace blocks[*].mlp with mlp(ratio=3)")
    two = spec(tmp_path, "two", "replace blocks[*].mlp with mlp(ratio=2)")
    found = difference(tmp_path, three, two)
    (change,) = of_kind(found, "parameter")
    assert (change.where, change.count) == ("blocks[*].mlp", 6)
    assert (change.before, change.after) == ("mlp(ratio=3, hidden=288)", "mlp(ratio=2, hidden=192)")
    assert change.params == -6 * 96 * (2 * 96 + 1)
    assert [c.where for c in of_kind(found, "spec")] == ["name", "edit replace blocks[*].mlp"]


def test_a_site_of_two_modules_is_counted_whole(tiny_bert: Path, tmp_path: Path) -> None:
    """The same attention with new weights has as many parameters, although it stands in one of the two modules."""
    path = tmp_path / "a.yaml"
    edits = "[{replace: 'blocks[0].attn', with: attention}, {replace: 'blocks[1].mlp', with: {op: mlp, hidden: 63}}]"
    path.write_text(f"archspec: 1\nname: a\nbase: {tiny_bert}\nedits: {edits}\n")
    found = difference(tmp_path, tiny_bert, path)
    assert {change.where: change.params for change in found.changes} == {"blocks[0].attn": 0, "blocks[1].mlp": -65}


def test_what_was_trained_in_its_place_is_not_gone(tmp_path: Path) -> None:
    """Such a tensor is no longer the base's, bit by bit, and has its name."""
    before = read_side(str(DIGITS), tmp_path / "x")
    assert before.tensors is not None
    trained = {name: replace(tensor, base=None) for name, tensor in before.tensors.items()}
    assert compare(before, replace(before, kind="checkpoint", tensors=trained)).changes == ()
    cut = {name: t for name, t in trained.items() if name != "proj_out_2.bias"}
    (change,) = compare(before, replace(before, kind="checkpoint", tensors=cut)).changes
    assert (change.where, change.after) == ("proj_out_2.bias", None)


def test_there_and_back_are_opposite(tmp_path: Path) -> None:
    path = spec(tmp_path, "a", "replace blocks[0].mlp with mlp(ratio=6)")
    there, back = difference(tmp_path, DIGITS, path), difference(tmp_path, path, DIGITS)
    turned = [(c.kind, c.where, c.after, c.before, -c.params) for c in back.changes]
    assert turned == [(c.kind, c.where, c.before, c.after, c.params) for c in there.changes]


def test_nothing_is_called_identical_from_headers(tmp_path: Path) -> None:
    found = difference(tmp_path, DIGITS, DIGITS)
    assert not found
    assert "values were not compared" in verdict(found, None)
    assert "identical" not in json.dumps(to_json(found)) + to_markdown(found)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


def test_exit_codes_are_those_of_git(tmp_path: Path) -> None:
    path = spec(tmp_path, "a", "drop blocks[3]")
    assert run(DIGITS, path).exit_code == 0
    assert run(DIGITS, path, "--exit-code").exit_code == 1
    assert run(DIGITS, DIGITS, "--exit-code").exit_code == 0
    assert run(DIGITS, tmp_path / "missing.arch").exit_code == 2
    assert run(DIGITS).exit_code == 2
    assert run(DIGITS, path, "--exit-code", "--svg", tmp_path / "no" / "a.svg").exit_code == 2


def test_a_full_disk_leaves_the_former_picture(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    picture.write_text("former")
    path = spec(tmp_path, "a", "drop blocks[3]")
    with narrow(100):
        result = run(DIGITS, path, "--svg", picture)
    assert (result.exit_code, "AS631" in result.stderr) == (2, True)
    assert {entry.name: entry.stat().st_size for entry in tmp_path.glob("*.svg*")} == {"a.svg": len("former")}


def test_a_pipe_gets_the_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run(DIGITS, DIGITS, "--svg", tmp_path / "pipe").exit_code == 0
    assert os.read(reader, 4) == b"<svg"
    os.close(reader)


def test_one_form_at_a_time(tmp_path: Path) -> None:
    result = run(DIGITS, DIGITS, "--json", "--markdown")
    assert (result.exit_code, result.stdout) == (2, "")


def test_json_and_markdown_tell_the_same(tmp_path: Path) -> None:
    path = spec(tmp_path, "a", "drop blocks[3]")
    data = json.loads(run(DIGITS, path, "--json").stdout)
    assert data["format_version"] == 1
    assert data["measures"][0] == {"name": "depth", "before": 6, "after": 5, "unit": "count", "ratio": 5 / 6}
    table = run(DIGITS, path, "--markdown").stdout
    assert "| depth | 6 | 5 | 0.833x |" in table


def test_values_find_a_single_changed_weight(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(DIGITS, copy)
    file = next((copy / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    name = "transformer_blocks.2.ff.net.2.weight"
    tensors[name][0, 0] += 1
    save_file(tensors, file)
    data = json.loads(run(DIGITS, copy, "--json").stdout)
    (changed,) = [v for v in data["weights"]["tensors"] if not v["equal"]]
    assert (changed["name"], changed["role"], changed["block"], changed["changed"]) == (name, "mlp", 2, 1)
    assert changed["norm_change"] == pytest.approx(1, abs=torch.finfo(torch.float16).eps)
    assert run(DIGITS, copy, "--exit-code", "--no-weights").exit_code == 0
    assert run(DIGITS, copy, "--exit-code").exit_code == 1


def test_a_spec_has_no_values(tmp_path: Path) -> None:
    result = run(DIGITS, spec(tmp_path, "a", "drop blocks[3]"), "--weights")
    assert (result.exit_code, "AS812" in result.stderr) == (2, True)


def test_revisions_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = spec(tmp_path, "a", "drop blocks[3]")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for arguments in (("init", "-q"), ("add", "a.arch"), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(("git", *arguments), check=True)
    spec(tmp_path, "a", "drop blocks[3, 4]")
    found = difference(tmp_path, "HEAD:a.arch", path)
    assert [(c.where, c.before, c.after) for c in of_kind(found, "wiring")] == [("blocks", "[4]", None)]
    with pytest.raises(ArchspecError) as error:
        read_side("nowhere:a.arch", tmp_path / "z")
    assert error.value.diagnostics[0].code == "AS810"
