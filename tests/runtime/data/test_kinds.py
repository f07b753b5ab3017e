"""Every kind of data, opened from real files of that kind."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from archspec.diagnostics import ArchspecError
from archspec.runtime.data import bundled, open_data
from archspec.runtime.data.needs import Needs, needs_of

GREY = Needs(shape=(1, 8, 8), classes=10)


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def refused(data: dict[str, Any], near: Path, needs: Needs | None = None) -> ArchspecError:
    def read_all() -> None:
        examples = open_data(data, near, needs)
        for i in range(len(examples)):
            examples[i]

    with pytest.raises(ArchspecError) as caught:
        read_all()
    return caught.value


def code(error: ArchspecError) -> str:
    return error.diagnostics[0].code


def pictures(root: Path, colour: bool = True) -> Path:
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            mode, value = ("RGB", (255 * label, 0, 0)) if colour else ("L", 255 * label)
            Image.new(mode, (12, 10), value).save(root / name / f"{i}.png")
    return root


def test_digits_are_split_without_overlap(tmp_path: Path) -> None:
    train, test = (open_data({"from": "digits", "split": s}, tmp_path) for s in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.labels is not None
    assert set(np.bincount(train.labels).tolist()) <= set(range(135, 150))
    x = train[0]["x"]
    assert (x.shape, x.dtype, float(x.min())) == ((1, 8, 8), torch.float32, -1.0)
    rows = {e["x"].numpy().tobytes() for e in (train[i] for i in range(len(train)))}
    shared = sum(test[i]["x"].numpy().tobytes() in rows for i in range(len(test)))
    assert shared <= 2  # the set itself holds a few equal images


def test_digits_fit_a_larger_colour_host(tmp_path: Path) -> None:
    x = open_data({"from": "digits"}, tmp_path, Needs(shape=(3, 16, 16)))[0]["x"]
    assert x.shape == (3, 16, 16)
    assert torch.equal(x[0], x[2])


def test_shapes_come_as_the_host_takes_them(tmp_path: Path) -> None:
    """A host whose codec folds 2 x 2 pixels into channels, of any size (FLUX) or of one (DiT)."""
    plain = open_data({"from": "shapes", "split": "test"}, tmp_path)
    assert len(plain) == 512
    assert plain.labels is not None
    assert set(plain.labels.tolist()) == set(range(6))
    folded = open_data({"from": "shapes", "split": "test"}, tmp_path, Needs(folded=2))
    assert torch.equal(torch.nn.functional.pixel_shuffle(folded[3]["x"], 2), plain[3]["x"])
    assert folded.identity != plain.identity
    assert folded.labels is not None
    assert folded.labels.tolist() == plain.labels.tolist()
    smaller = open_data({"from": "shapes", "split": "test"}, tmp_path, Needs(shape=(12, 12, 12), folded=2))
    assert smaller[0]["x"].shape == (12, 12, 12)


def test_fraction_changes_identity_and_keeps_classes(tmp_path: Path) -> None:
    whole, part = (open_data({"from": "digits", "fraction": f}, tmp_path) for f in (1.0, 0.1))
    assert len(part) == 144
    assert part.identity != whole.identity
    assert part.labels is not None
    assert set(part.labels.tolist()) == set(range(10))


def test_fashion_reads_idx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8)
    images = b"\0\0\x08\x03" + np.array([2, 28, 28], ">u4").tobytes() + pixels.tobytes()
    labels = b"\0\0\x08\x01" + np.array([2], ">u4").tobytes() + bytes([3, 7])
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    monkeypatch.setattr(bundled, "FASHION_FOLDER", tmp_path)
    data = open_data({"from": "fashion"}, tmp_path)
    assert data.labels is not None
    assert data.labels.tolist() == [3, 7]
    assert torch.allclose(data[0]["x"].flatten()[:2], torch.tensor([-1.0, 1 / 127.5 - 1]))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images[:-1]))
    assert code(refused({"from": "fashion"}, tmp_path)) == "AS704"
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images)[:-20])
    assert code(refused({"from": "fashion"}, tmp_path)) == "AS704"
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    assert code(refused({"from": "fashion"}, tmp_path)) == "AS701"


def test_fashion_is_found_in_the_cache_or_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "FASHION_FOLDER", tmp_path / "nowhere")
    error = refused({"from": "fashion"}, tmp_path)
    assert code(error) == "AS701"
    assert error.diagnostics[0].hints[0] == "apt-get install dataset-fashion-mnist"
    assert str(tmp_path / "cache" / "fashion-mnist") in error.diagnostics[0].hints[1]
    (tmp_path / "cache" / "fashion-mnist").mkdir(parents=True)
    assert bundled.fashion_folder() == tmp_path / "cache" / "fashion-mnist"


def test_folder_of_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "insects")
    data = open_data({"from": "insects"}, tmp_path, Needs(shape=(3, 8, 8), classes=2))
    assert data.classes == ("ant", "bee")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(data[5]["x"][0], torch.ones(8, 8))
    assert torch.allclose(data[0]["x"], -torch.ones(3, 8, 8))
    grey = open_data({"from": "insects"}, tmp_path, GREY)[5]["x"]
    assert torch.allclose(grey, torch.full((1, 8, 8), 2 * 0.299 - 1), atol=1e-5)


def test_folder_split_and_damage(tmp_path: Path) -> None:
    pictures(tmp_path / "set" / "test")
    pictures(tmp_path / "set" / "train", colour=False)
    assert len(open_data({"from": "set", "split": "test"}, tmp_path, GREY)) == 6
    whole = (tmp_path / "set/train/ant/0.png").read_bytes()
    (tmp_path / "set/train/ant/0.png").write_bytes(whole[: len(whole) // 2])
    assert code(refused({"from": "set"}, tmp_path, GREY)) == "AS704"


def test_folder_with_loose_images_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "set")
    Image.new("L", (8, 8)).save(tmp_path / "set" / "loose.png")
    assert code(refused({"from": "set"}, tmp_path, GREY)) == "AS702"


def test_more_classes_than_the_host(tmp_path: Path) -> None:
    pictures(tmp_path / "set")
    assert code(refused({"from": "set"}, tmp_path, Needs(shape=(3, 8, 8), classes=1))) == "AS705"


def test_latents_of_several_shards(tmp_path: Path) -> None:
    (tmp_path / "latents").mkdir()
    for shard, size in enumerate((3, 2)):
        x = torch.full((size, 4, 8, 8), float(shard)).half()
        save_file({"latents": x, "labels": torch.arange(size)}, tmp_path / f"latents/{shard}.safetensors")
    data = open_data({"from": "latents"}, tmp_path, Needs(shape=(4, 8, 8), classes=3))
    assert [int(data[i]["label"]) for i in range(5)] == [0, 1, 2, 0, 1]
    assert [float(data[i]["x"].mean()) for i in range(5)] == [0, 0, 0, 1, 1]
    assert data[0]["x"].dtype == torch.float32
    assert code(refused({"from": "latents"}, tmp_path, GREY)) == "AS707"
    error = refused({"from": "latents", "column": "latentz"}, tmp_path)
    assert code(error) == "AS703"
    assert error.diagnostics[0].hints == ("did you mean 'latents'?",)


def test_captions_beside_latents(tmp_path: Path) -> None:
    columns = {"x": torch.zeros(2, 4, 8, 8), "captions": torch.ones(2, 5, 24), "caption_mask": torch.ones(2, 5)}
    save_file(columns, tmp_path / "a.safetensors")
    batch = open_data({"from": "a.safetensors"}, tmp_path).batch([0, 1])
    assert {name: tuple(t.shape) for name, t in batch.items()} == {
        "x": (2, 4, 8, 8),
        "caption": (2, 5, 24),
        "caption_mask": (2, 5),
    }


def test_npy_is_mapped_and_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", np.ones((4, 1, 8, 8), np.float32))
    np.save(tmp_path / "z_labels.npy", np.arange(4))
    data = open_data({"from": "z.npy"}, tmp_path, GREY)
    assert len(data) == 4
    assert int(data[3]["label"]) == 3
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert code(refused({"from": "bad.npy"}, tmp_path, GREY)) == "AS704"


@pytest.mark.parametrize("cut", [0, 4, 40])
def test_truncated_safetensors(tmp_path: Path, cut: int) -> None:
    save_file({"x": torch.zeros(3, 1, 8, 8)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:cut])
    assert code(refused({"from": "a.safetensors"}, tmp_path, GREY)) == "AS704"


def test_parquet_of_images(tmp_path: Path) -> None:
    import datasets

    pictures(tmp_path / "set")
    files = sorted(str(p) for p in (tmp_path / "set").rglob("*.png"))
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["ant", "bee"]))
    table = datasets.Dataset.from_dict({"image": files, "label": [0, 0, 0, 1, 1, 1]}, features=features)
    table.to_parquet(str(tmp_path / "train.parquet"))
    data = open_data({"from": "train.parquet"}, tmp_path, Needs(shape=(3, 8, 8), classes=2))
    assert data.classes == ("ant", "bee")
    assert torch.allclose(data[4]["x"][0], torch.ones(8, 8))
    assert int(data[4]["label"]) == 1
    error = refused({"from": "train.parquet", "column": "imge"}, tmp_path, GREY)
    assert (code(error), error.diagnostics[0].hints) == ("AS703", ("did you mean 'image'?",))


def test_json_lines_of_tokens(tmp_path: Path) -> None:
    rows = [{"input_ids": list(range(i, i + 5))} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = open_data({"from": "a.jsonl"}, tmp_path, Needs(length=8, vocabulary=64))
    assert [data[i]["input_ids"].tolist() for i in range(2)] == [[0, 1, 2, 3, 4, 1, 2, 3], [4, 5, 2, 3, 4, 5, 6, 3]]
    assert len(data) == 2
    assert code(refused({"from": "a.jsonl"}, tmp_path, Needs(length=8, vocabulary=6))) == "AS705"
    assert code(refused({"from": "a.jsonl"}, tmp_path, Needs(length=64))) == "AS706"


def test_text_is_cut_by_the_hosts_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "a": 1, "b": 2, "c": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(tmp_path / "host")
    (tmp_path / "t.txt").write_text("a b\nc\n\na a a\n")
    data = open_data({"from": "t.txt"}, tmp_path, Needs(length=3, tokenizer=tmp_path / "host"))
    assert [data[i]["input_ids"].tolist() for i in range(len(data))] == [[1, 2, 0], [3, 0, 1], [1, 1, 0]]
    assert code(refused({"from": "t.txt"}, tmp_path, Needs(length=3))) == "AS708"


def test_host_generates_the_classes_asked_for(tmp_path: Path, tiny_dit: Path) -> None:
    (tmp_path / "classes.txt").write_text("3\n\n5\n")
    data = {"from": "host", "kind": "generated", "prompts": "classes.txt", "samples": 5, "seed": 1}
    needs = needs_of(tiny_dit)
    first = open_data(data, tmp_path, needs)
    assert [int(first[i]["label"]) for i in range(5)] == [3, 5, 3, 5, 3]
    assert first[0]["x"].shape == (4, 8, 8)
    kept = list((tmp_path / "cache" / "generated").glob("*/weights.safetensors"))
    assert len(kept) == 1
    assert torch.equal(open_data(data, tmp_path, needs)[4]["x"], first[4]["x"])
    assert list((tmp_path / "cache" / "generated").glob("*/weights.safetensors")) == kept
    before = first[4]["x"].clone()
    kept[0].write_bytes(kept[0].read_bytes()[:-1] + b"?")  # damaged, so it is drawn again
    assert torch.equal(open_data(data, tmp_path, needs)[4]["x"], before)
    other = open_data({**data, "seed": 2}, tmp_path, needs)
    assert not torch.equal(other[4]["x"], before)
    (tmp_path / "classes.txt").write_text("77\n")
    assert code(refused(data, tmp_path, needs)) == "AS705"
    (tmp_path / "classes.txt").write_text("\n")
    assert code(refused(data, tmp_path, needs)) == "AS706"


@pytest.mark.parametrize(
    ("name", "expected"), [("digitz", "AS709"), ("./nothing", "AS701"), ("a/b/c", "AS701"), ("no.jsonl", "AS701")]
)
def test_missing_data(name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert code(refused({"from": name}, tmp_path, GREY)) == expected


def test_missing_split_and_mixed_folder(tmp_path: Path) -> None:
    assert code(refused({"from": "digits", "split": "valid"}, tmp_path)) == "AS703"
    pictures(tmp_path / "mixed")
    (tmp_path / "mixed" / "more.txt").write_text("text")
    assert code(refused({"from": "mixed"}, tmp_path)) == "AS702"
