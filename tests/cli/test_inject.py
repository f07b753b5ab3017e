"""archspec inject: from specs and compiled checkpoints, by the command line, on the embedded host."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from archspec.cli import main
from archspec.runtime.data.bundled import load_bundled
from tests.runtime.routing.conftest import with_tokenizer

HOST = Path(__file__).parents[2] / "specs" / "hosts" / "digits-64"
SAMPLER = "sampler: {solver: fireflow, steps: 4}"


def run(*args: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(arg) for arg in args])
    assert found.exit_code == code, found.output
    return found.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A zero, the mask of its left half, and an empty mask."""
    images, labels = load_bundled("digits", "train")
    zero = images[int(np.flatnonzero(labels == 0)[0]), 0]
    Image.fromarray(((zero + 1) * 127.5).astype(np.uint8)).save(tmp_path / "zero.png")
    for name, columns in (("left", 4), ("empty", 0)):
        mask = np.zeros((8, 8), np.uint8)
        mask[:, :columns] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "large.png")
    return tmp_path


def write(folder: Path, inject: str, more: str = "") -> Path:
    path = folder / "spec.yaml"
    path.write_text(f"name: x\nbase: {{from: {HOST}, subfolder: transformer}}\n{more}inject: {{{inject}}}\n")
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_a_donor_changes_what_is_drawn(folder: Path) -> None:
    spec = write(folder, f"preset: masactrl, donors: {{zero: zero.png}}, {SAMPLER}")
    said = json.loads(
        run("inject", spec, "--class", 3, "-n", 2, "-o", folder / "a.png", "--matches", folder / "m.png", "--json")
    )
    assert said["samples"] == 2
    assert said["tokens_taken"]["zero"] % 64 == 0
    assert said["tokens_taken"]["zero"] > 0
    assert pixels(folder / "m.png").shape[0] == 384
    spec = write(folder, f"grafts: [{{op: append, times: [0, 0]}}], donors: {{zero: zero.png}}, {SAMPLER}")
    run("inject", spec, "--class", 3, "-n", 2, "-o", folder / "b.png")
    assert np.abs(pixels(folder / "a.png") - pixels(folder / "b.png")).max() > 20


def test_the_same_command_gives_the_same_picture(folder: Path) -> None:
    spec = write(folder, f"preset: shared_attention, gate: {{dropout: 0.5}}, {SAMPLER}")
    for name in ("a", "b"):
        run("inject", spec, "--class", 3, "--donor", f"zero={folder / 'zero.png'}", "-o", folder / f"{name}.png")
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    run("inject", spec, "--class", 3, "--donor", f"zero={folder / 'zero.png'}", "-o", folder / "c.png", "--seed", 1)
    assert (folder / "a.png").read_bytes() != (folder / "c.png").read_bytes()


def test_a_mask_takes_fewer_tokens(folder: Path) -> None:
    spec = write(folder, f"preset: shared_attention, {SAMPLER}")
    taken = []
    for donor in ("zero.png", f"zero.png:{folder / 'left.png'}"):
        given = f"zero={folder / donor}"
        said = run("inject", spec, "--class", 3, "--donor", given, "-o", folder / "a.png", "--json")
        taken.append(json.loads(said)["tokens_taken"]["zero"])
    assert taken[1] == taken[0] // 2


def test_a_collage_is_made_inverted_and_shown(folder: Path) -> None:
    donors = "zero: {image: zero.png, mask: left.png, place: left.png, shift: [3, 0]}"
    collage = "noise: collage, collage: {template: zero.png}"
    spec = write(folder, f"{collage}, donors: {{{donors}}}, match: {{}}, grafts: [append], {SAMPLER}")
    out = run("inject", spec, "--class", 3, "-o", folder / "a.png", "--collage", folder / "c.png")
    assert "wrote" in out
    assert pixels(folder / "c.png").shape == (8, 8, 3)


def test_an_inverted_donor_is_drawn_again_from_its_noise(folder: Path) -> None:
    """Without any graft, the noise of a donor's inversion leads back to it."""
    inject = "noise: donor, donors: {zero: {image: zero.png, prompt: null}}, grafts: [{op: append, weight: 0}]"
    spec = write(folder, f"{inject}, sampler: {{solver: fireflow, steps: 24}}")
    run("inject", spec, "--class", 0, "-o", folder / "a.png")
    drawn = pixels(folder / "a.png")[4::8, 4::8]
    assert np.abs(drawn - pixels(folder / "zero.png")).mean() < 40


def test_a_compiled_checkpoint_is_drawn_from(folder: Path) -> None:
    edits = "edits:\n  - {replace: 'blocks[1].attn', with: {op: local_attention, window: 9}}\n  - {drop: 'blocks[4]'}\n"
    spec = write(folder, f"preset: shared_attention, donors: {{zero: zero.png}}, {SAMPLER}", edits)
    assert "AS763" in run("inject", spec, "--class", 3, code=1)
    run("compile", spec, "-o", folder / "out")
    lock = json.loads((folder / "out" / "archspec.lock.json").read_text())
    sites = [f"transformer_blocks.{i}.attn1" for i in (0, 2, 3, 4)]
    assert lock["injection"]["grafts"][0]["sites"] == sites
    said = json.loads(run("inject", folder / "out", "--class", 3, "-o", folder / "a.png", "--json"))
    assert said["tokens_taken"]["zero"] == 64 * len(sites) * 5


@pytest.mark.parametrize(
    ("inject", "words", "code"),
    [
        ("preset: shared_attention", ["--class", "3"], "AS750"),
        ("preset: shared_attention, donors: {a: zero.png}", ["--class", "3", "--donor", "b=zero.png"], "AS750"),
        ("preset: shared_attention, donors: {a: zero.png}", ["--prompt", "three"], "AS764"),
        (
            "preset: shared_attention, donors: {a: zero.png}",
            ["--class", "3", "--prompt", "x"],
            "and leave out --prompt",
        ),
        ("preset: shared_attention, donors: {a: zero.png}", ["--class", "12"], "AS705"),
        ("preset: shared_attention, donors: {a: {}}", ["--class", "3"], "AS762"),
        ("preset: shared_attention, donors: {a: {image: zero.png, mask: empty.png}}", ["--class", "3"], "AS770"),
        ("preset: shared_attention, donors: {a: {image: zero.png, mask: large.png}}", ["--class", "3"], "AS771"),
        ("preset: masactrl, donors: {a: zero.png}", ["--class", "3"], "AS761"),
        ("preset: freegraftor, position: same, donors: {a: zero.png}", ["--class", "3"], "AS762"),
        ("grafts: [append], state: noised, noise: donor, donors: {a: zero.png}", ["--class", "3"], "AS762"),
    ],
)
def test_what_cannot_be_drawn_is_told(folder: Path, inject: str, words: list[str], code: str) -> None:
    assert code in run("inject", write(folder, inject), *words, "-o", folder / "a.png", code=1)
    assert not (folder / "a.png").exists()


def test_a_mask_that_the_spec_states_alone_is_that_of_the_picture_that_is_given(folder: Path) -> None:
    spec = write(folder, f"preset: shared_attention, donors: {{zero: {{mask: left.png}}}}, {SAMPLER}")
    words = ["inject", spec, "--class", 3, "-o", folder / "a.png", "--json", "--donor"]
    taken = [json.loads(run(*words, f"zero={folder / 'zero.png'}{more}"))["tokens_taken"]["zero"] for more in
             ("", f":{folder / 'left.png'}")]  # fmt: skip
    assert taken[0] == taken[1] == 32 * 6 * 5
    assert "AS771" in run(*words[:-2], "--donor", f"zero={folder / 'large.png'}", code=1)


def test_a_member_of_a_matrix_is_drawn_with(folder: Path) -> None:
    spec = write(
        folder,
        f"preset: $preset, donors: {{a: zero.png}}, {SAMPLER}",
        "matrix: {preset: [shared_attention, masactrl]}\n",
    )
    assert "AS813" in run("inject", spec, "--class", 3, "-o", folder / "a.png", code=1)
    run("inject", spec, "--member", "preset=shared_attention", "--class", 3, "-o", folder / "a.png")
    assert (folder / "a.png").exists()


def test_a_donor_may_have_any_name(folder: Path) -> None:
    spec = write(folder, f"preset: shared_attention, donors: {{my zero: {{}}}}, {SAMPLER}")
    run("inject", spec, "--class", 3, "-o", folder / "a.png", "--donor", f"my zero={folder / 'zero.png'}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "zero.png"], "is read too"),
        (["-o", "spec.yaml"], "is read too"),
        (["-o", "b.png", "--mask", "empty.png", "--matches", "empty.png"], "is read too"),
        (["-o", "left.png"], "is read too"),
        (["-o", "large.png"], "is read too"),
        (["-o", "b.png", "--matches", "b.png"], "is written already"),
    ],
)
def test_nothing_is_written_over_what_is_read(
    folder: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    write(folder, f"preset: shared_attention, donors: {{zero: {{mask: left.png}}, other: large.png}}, {SAMPLER}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert said in run("inject", "spec.yaml", "--class", 3, "--donor", "zero=zero.png", *words, code=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_donor_of_the_batch_has_no_picture(folder: Path) -> None:
    spec = write(folder, f"preset: consistory, donors: {{a: {{state: batch, row: 0}}}}, {SAMPLER}")
    words = ["inject", spec, "--class", 3, "-n", 2, "-o", folder / "a.png"]
    assert "takes no picture" in run(*words, "--donor", f"a={folder / 'zero.png'}", code=1)
    assert "no donor has one" in run(*words, "--matches", folder / "m.png", code=2)


def test_sizes_are_whole_tokens_and_pictures_are_there(folder: Path) -> None:
    from archspec.diagnostics import ArchspecError
    from archspec.runtime.features.runners import check_size

    with pytest.raises(ArchspecError, match="no whole tokens of 4 pixels"):
        check_size(SimpleNamespace(token=4), (48, 50))
    check_size(SimpleNamespace(token=4), (48, 52))
    spec = write(folder, f"preset: shared_attention, donors: {{zero: nowhere.png}}, {SAMPLER}")
    words = ("inject", spec, "--class", 3, "-o", folder / "a.png")
    assert "error[AS325]: there is no 'nowhere.png'" in run(*words, code=1)
    assert "other.png' is no readable image: No such file" in run(*words, "--donor", "zero=other.png", code=1)
    run(*words, "--donor", f"zero={folder / 'zero.png'}")


def test_usage(folder: Path) -> None:
    spec = write(folder, "preset: shared_attention")
    assert "is not NAME=IMAGE" in run("inject", spec, "--donor", "zero.png", code=2)
    given = ("--class", "3", "--collage", "c.png")
    assert "--collage shows what" in run("inject", spec, *given, "--donor", f"a={folder / 'zero.png'}", code=2)
    assert "is not WIDTHxHEIGHT" in run("inject", spec, "--size", "8", code=2)
    assert "is not WIDTHxHEIGHT" in run("inject", spec, "--size", "0x0", code=2)


def test_a_gate_without_its_mask_is_noted(folder: Path) -> None:
    spec = write(folder, f"preset: shared_attention, gate: {{target_mask: true}}, donors: {{a: zero.png}}, {SAMPLER}")
    given = ("inject", spec, "--class", 3, "-o", folder / "a.png")
    assert "note: the gate asks for a mask" in run(*given)
    assert "note:" not in run(*given, "--mask", folder / "left.png")


def test_a_text_goes_on_with_donors_in_sight(tmp_path: Path, tiny_llama: Path) -> None:
    with_tokenizer(tiny_llama, tmp_path).rename(tmp_path / "base")
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: x\nbase: base\ninject: {grafts: [{op: append, strength: 2}]}\n")
    (tmp_path / "facts.txt").write_text("select users list")
    words = ("--prompt", "hello you", "--tokens", 6, "--json")
    said = json.loads(run("inject", spec, *words, "--donor", f"facts={tmp_path / 'facts.txt'}"))
    assert said["donor_tokens"]["facts"] >= 3
    assert said["texts"][0].startswith("hello you")
    donor = ("--donor", f"facts={tmp_path / 'facts.txt'}")
    assert "--mask: of hosts that draw" in run("inject", spec, *words, *donor, "--mask", "m.png", code=2)
    spec.write_text("name: x\nbase: base\ninject: {donors: {facts: {image: facts.txt}}, grafts: [append]}\n")
    assert "AS762" in run("inject", spec, *words, code=1)
