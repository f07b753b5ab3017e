"""`archspec show`: compiled checkpoints, saved ones, hosts, and what is none of these; without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from archspec.cli.show import command
from archspec.diagnostics import ArchspecError

EDITS = """
  - {replace: "blocks[1].attn", with: {op: hyena_x, kernel: 4}, init: random}
  - {replace: "blocks[1].mlp", with: {op: mlp, ratio: 3}}
  - {parallelize: "blocks[2:4]", by: 2}
data: digits
distill: {samples: 8}
"""


@pytest.fixture(scope="module")
def compiled(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from archspec.compiler.driver import compile_spec

    folder = tmp_path_factory.mktemp("show")
    (folder / "host").symlink_to(tiny_dit)
    (folder / "spec.yaml").write_text(f"archspec: 1\nname: made\nbase: ./host\nedits:{EDITS}")
    return compile_spec(folder / "spec.yaml", folder / "out").out


def shown(path: Path, *options: str) -> str:
    found = CliRunner().invoke(command, [str(path), *options], standalone_mode=False, catch_exceptions=False)
    return found.output


def as_json(path: Path) -> Any:
    return json.loads(shown(path, "--json"))


def test_a_compiled_checkpoint(compiled: Path) -> None:
    found = as_json(compiled)
    assert found["architecture"] == "DiTTransformer2DModel"
    assert found["groups"] == {"blocks": 3}
    assert found["edits"][0] == ["transformer_blocks.1.attn1", "hyena_x"]
    assert found["spec"] == "made"
    assert found["base"]["from"] == "./host"
    assert found["params"] == found["results"]["totals"]["params"]
    assert set(found["tensors"]) == {"copied", "derived", "new"}
    assert {task["id"] for task in found["tasks"]} >= {"regress/blocks[1].attn"}
    assert not any(task["finished"] for task in found["tasks"])


def test_the_tree(compiled: Path) -> None:
    text = " ".join(shown(compiled).split())
    for words in ("spec made, of ./host (xxh3:", "blocks transformer_blocks, 3 entries", "attn: hyena_x, mlp: mlp",
                  "parallel (residual_linear) blocks[2], blocks[3]", "plan 0 of", "regress/blocks[1].mlp"):  # fmt: skip
        assert words in text


def test_finished_tasks_are_ticked(compiled: Path) -> None:
    plan = json.loads((compiled / "plan.json").read_text())
    done = compiled / ".archspec" / "artifacts" / plan["tasks"][0]["key"]
    done.mkdir(parents=True)
    assert as_json(compiled)["tasks"][0]["finished"] is True
    assert f"✓ {plan['tasks'][0]['id']}" in shown(compiled)
    done.rmdir()


def test_a_host(tiny_dit: Path, tiny_llama: Path, tiny_plain: Path) -> None:
    for folder, count in ((tiny_dit, 117_360), (tiny_llama, None), (tiny_plain, None)):
        found = as_json(folder)
        assert found["edits"] == []
        assert found["groups"]["blocks"] == 4
        assert count is None or found["params"] == count
        assert "as in the base" in shown(folder)


def test_what_save_pretrained_wrote(compiled: Path, tmp_path: Path) -> None:
    import archspec

    model: Any = archspec.load(compiled)
    model.save_pretrained(tmp_path / "saved")
    found, wanted = as_json(tmp_path / "saved"), as_json(compiled)
    assert found["spec"] is None
    assert found["edits"] == wanted["edits"]
    assert found["params"] == wanted["params"]


@pytest.mark.parametrize("name", ["nowhere/at-all", "./nowhere"])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(ArchspecError) as caught:
        CliRunner().invoke(command, [name], standalone_mode=False, catch_exceptions=False)
    assert caught.value.diagnostics[0].code == "AS600"
    assert "as far as" not in caught.value.diagnostics[0].message
    assert "beside the spec" not in caught.value.diagnostics[0].message


def test_a_spec_is_planned_not_shown(compiled: Path) -> None:
    spec = compiled.parent / "spec.yaml"
    with pytest.raises(ArchspecError) as caught:
        shown(spec)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == f"'{spec}' is a spec, not a model"
    assert diagnostic.hints == (f"`archspec plan {spec}` says what it amounts to",)


def test_a_folder_of_models_without_a_spec_is_told_by_their_folders(tiny_dit: Path, tmp_path: Path) -> None:
    (tmp_path / "part").symlink_to(tiny_dit)
    with pytest.raises(ArchspecError) as caught:
        shown(tmp_path)
    assert caught.value.diagnostics[0].hints == (f"name the folder of a model: '{tmp_path / 'part'}'",)


def test_a_damaged_plan_is_named(compiled: Path, tmp_path: Path) -> None:
    out = shutil.copytree(compiled, tmp_path / "out")
    (out / "plan.json").write_text('{"tasks": 3}')
    with pytest.raises(ArchspecError) as caught:
        shown(out)
    assert caught.value.diagnostics[0].code == "AS641"


def test_no_torch_is_imported(compiled: Path) -> None:
    code = f"""
import sys
from archspec.cli.show import describe_path
describe_path({str(compiled)!r})
print("torch" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.fixture
def copied(compiled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(compiled, tmp_path / "out")


def flip(path: Path, at: int) -> None:
    """Change one bit of a file, counted from its end where `at` is negative."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def differing(path: Path) -> dict[str, str]:
    """Return file -> how it differs, by the report as JSON; the other report must name the same files."""
    found = CliRunner().invoke(command, [str(path), "--verify", "--json"], standalone_mode=False)
    differ = {entry["file"]: entry["reason"] for entry in json.loads(found.output)["differ"]}
    assert found.return_value == (1 if differ else 0)
    if differ:
        with pytest.raises(ArchspecError) as caught:
            shown(path, "--verify")
        assert [(d.code, d.message) for d in caught.value.diagnostics] == [
            ("AS646", f"'{file}' {reason}") for file, reason in differ.items()
        ]
    return differ


WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_checkpoint_as_compiled_is_verified(compiled: Path, copied: Path) -> None:
    assert "are as the lock says" in shown(compiled, "--verify")
    (copied / "samples.png").write_bytes(b"made later")
    assert differing(copied) == {}


def test_one_bit_of_a_weight(copied: Path) -> None:
    flip(copied / WEIGHTS, -1)
    found = differing(copied)
    assert list(found) == [WEIGHTS]
    assert found[WEIGHTS].startswith("has another '")


def test_one_bit_of_a_config_and_of_a_header(copied: Path) -> None:
    flip(copied / "config.json", 30)
    text = (copied / WEIGHTS).read_bytes()
    flip(copied / WEIGHTS, text.index(b"pt"))
    assert differing(copied) == {
        "config.json": "has another content",
        WEIGHTS: "holds other tensors, or has another header",
    }


def test_files_that_are_short_missing_or_new(copied: Path) -> None:
    size = (copied / WEIGHTS).stat().st_size
    with (copied / WEIGHTS).open("r+b") as file:
        file.truncate(size - 4)
    (copied / "plan.json").unlink()
    (copied / "model-2.safetensors").write_bytes(b"")
    assert differing(copied) == {
        WEIGHTS: f"has {size - 4} bytes, not {size}",
        "model-2.safetensors": "is not in the lock",
        "plan.json": "is missing",
    }


def test_a_header_that_cannot_be_read(copied: Path) -> None:
    flip(copied / WEIGHTS, 8)
    assert differing(copied)[WEIGHTS].startswith("cannot be read: ")


def test_linked_files_are_verified(tiny_dit: Path, tmp_path: Path) -> None:
    from archspec.compiler.driver import compile_spec

    (tmp_path / "host").symlink_to(tiny_dit)
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"archspec: 1\nname: made\nbase: ./host\nedits:{EDITS}")
    out = compile_spec(spec, tmp_path / "out", link=True).out
    assert differing(out) == {}
    linked = next(path for path in sorted(out.glob("*.safetensors")) if path.stat().st_nlink > 1)
    content = linked.read_bytes()
    linked.unlink()
    linked.write_bytes(content)
    flip(linked, -1)
    assert list(differing(out)) == [linked.name]


def test_only_a_compiled_checkpoint_is_verified(tiny_dit: Path) -> None:
    with pytest.raises(ArchspecError) as caught:
        shown(tiny_dit, "--verify")
    assert caught.value.diagnostics[0].code == "AS640"
