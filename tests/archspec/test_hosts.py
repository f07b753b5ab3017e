"""Bases are found where the spec says, never outside, and have an identity that follows their content alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from archspec.diagnostics import ArchspecError
from archspec.families import describe, expected_tensors
from archspec.host.fingerprint import FULL, SAMPLED, Identity, digest_of, hasher
from archspec.host.headers import read_folder
from archspec.host.locate import Located, check_fingerprint, fingerprint, hub_cache, locate, structure_of
from archspec.language.parse import parse
from archspec.language.spec import Base
from archspec.source import Source

CONFIG: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "_diffusers_version": "0.42.0",
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "sample_size": 8,
    "num_embeds_ada_norm": 3,
}


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shapes = expected_tensors(describe(CONFIG)) or {}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def model(folder: Path, weights: Mapping[str, np.ndarray[Any, Any]] | None = None, **config: Any) -> Path:
    """Write a tiny DiT: its config and, unless `weights` is empty, its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    weights = tensors() if weights is None else weights
    if weights:
        save_file(dict(weights), folder / "diffusion_pytorch_model.safetensors")
    return folder


def pipeline(folder: Path) -> Path:
    model(folder / "transformer")
    (folder / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "scheduler").mkdir()
    return folder


def base(text: str) -> Base:
    """Return the base of a spec whose second line is `base: <text>`."""
    found = parse(Source("s.yaml", f"name: a\nbase: {text}\n")).base
    assert found is not None
    return found


def refused(text: str, near: Path, code: str) -> ArchspecError:
    with pytest.raises(ArchspecError) as caught:
        locate(base(text), near)
    assert [d.code for d in caught.value.diagnostics] == [code]
    primary = caught.value.diagnostics[0].primary
    assert primary is not None
    assert primary.span.line == 2
    return caught.value


def test_model_folder(tmp_path: Path) -> None:
    folder = model(tmp_path / "host")
    located = locate(base("./host"), tmp_path)
    assert (located.folder, located.pipeline, located.weights, located.note) == (folder, None, folder, "")
    structure = structure_of(located)
    assert (structure.family, structure.depth(), structure.tokens) == ("dit", 2, 16)
    assert structure.tensors == read_folder(folder)


def test_pipeline_and_subfolder(tmp_path: Path) -> None:
    pipeline(tmp_path / "host")
    located = locate(base("{from: host, subfolder: transformer}"), tmp_path)
    assert (located.folder, located.pipeline) == (tmp_path / "host" / "transformer", tmp_path / "host")
    assert structure_of(located).depth() == 2
    direct = locate(base("host/transformer"), tmp_path)
    assert (direct.folder, direct.pipeline) == (tmp_path / "host" / "transformer", None)


def test_subfolder_of_what_is_no_pipeline(tmp_path: Path) -> None:
    model(tmp_path / "runs" / "a")
    located = locate(base("{from: runs, subfolder: a}"), tmp_path)
    assert (located.folder, located.pipeline) == (tmp_path / "runs" / "a", None)


def test_single_file_beside_its_config(tmp_path: Path) -> None:
    folder = model(tmp_path / "host")
    save_file(tensors(), folder / "other.safetensors")
    located = locate(base("host/other.safetensors"), tmp_path)
    assert (located.folder, located.weights) == (folder, folder / "other.safetensors")
    structure = structure_of(located)
    assert structure.tensors is not None
    assert {h.file for h in structure.tensors.values()} == {str(folder / "other.safetensors")}


def test_config_alone_is_enough_for_a_structure(tmp_path: Path) -> None:
    model(tmp_path / "host", weights={})
    structure = structure_of(locate(base("host"), tmp_path))
    assert structure.tensors is None
    assert structure.depth() == 2


def test_what_is_not_there(tmp_path: Path) -> None:
    model(tmp_path / "digits")
    assert refused("./digit", tmp_path, "AS600").diagnostics[0].hints == ("did you mean 'digits'?",)
    assert "there is no folder" in refused("./no/such/thing", tmp_path, "AS600").diagnostics[0].hints[0]
    refused("digits.safetensors", tmp_path, "AS600")
    refused('"a b"', tmp_path, "AS608")
    refused('"a\\0b"', tmp_path, "AS608")
    refused("a" * 5000, tmp_path, "AS600")


def test_what_is_no_model(tmp_path: Path) -> None:
    pipeline(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / "lone").mkdir()
    save_file(tensors(), tmp_path / "lone" / "x.safetensors")
    assert refused("pipe", tmp_path, "AS601").diagnostics[0].hints == ("write subfolder: transformer (or vae)",)
    wrong = refused("{from: pipe, subfolder: transfomer}", tmp_path, "AS601").diagnostics[0]
    assert wrong.hints == ("did you mean 'transformer'?",)
    assert wrong.primary is not None
    assert wrong.primary.span.text == "transfomer"
    refused("empty", tmp_path, "AS601")
    refused("lone/x.safetensors", tmp_path, "AS601")
    model(tmp_path / "host")
    refused("{from: host/diffusion_pytorch_model.safetensors, subfolder: x}", tmp_path, "AS601")


@pytest.mark.parametrize("subfolder", ["..", "../other", "a/../../b", "/etc", "a\\\\b", "c:x"])
def test_subfolder_may_not_leave_the_base(tmp_path: Path, subfolder: str) -> None:
    pipeline(tmp_path / "pipe")
    model(tmp_path / "other")
    refused(f'{{from: pipe, subfolder: "{subfolder}"}}', tmp_path, "AS608")


def test_a_local_base_has_no_revision(tmp_path: Path) -> None:
    model(tmp_path / "host")
    found = refused("{from: host, revision: main}", tmp_path, "AS608").diagnostics[0]
    assert found.primary is not None
    assert found.primary.span.text == "main"


def cached(cache: Path, revision: str = "main") -> Path:
    """Put a pipeline into a hub cache, files as links to blobs."""
    home = cache / "models--org--dit"
    snapshot = home / "snapshots" / "abc123"
    blob = home / "blobs" / "0"
    model(blob)
    pipeline(snapshot)
    weights = snapshot / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.symlink_to(blob / "diffusion_pytorch_model.safetensors")
    (home / "refs" / revision).parent.mkdir(parents=True)
    (home / "refs" / revision).write_text("abc123")
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def test_hub_id_in_the_cache(tmp_path: Path, cache: Path) -> None:
    snapshot = cached(cache)
    located = locate(base("{from: org/dit, subfolder: transformer}"), tmp_path)
    assert (located.folder, located.pipeline) == (snapshot / "transformer", snapshot)
    assert structure_of(located).depth() == 2
    by_commit = locate(base("{from: org/dit, subfolder: transformer, revision: abc123}"), tmp_path)
    assert by_commit.folder == located.folder


def test_hub_revision(tmp_path: Path, cache: Path) -> None:
    cached(cache, "refs/pr/1")
    text = "{from: org/dit, subfolder: transformer, revision: %s}"
    assert locate(base(text % "refs/pr/1"), tmp_path).folder is not None
    assert locate(base(text % "main"), tmp_path).folder is None
    refused(text % "../../../x", tmp_path, "AS608")


def test_a_reference_of_the_cache_cannot_lead_out_of_it(tmp_path: Path, cache: Path) -> None:
    cached(cache)
    (cache / "models--org--dit" / "refs" / "main").write_text("../../..")
    refused("{from: org/dit, subfolder: transformer}", tmp_path, "AS608")


def test_hub_id_that_is_not_cached_is_a_note(tmp_path: Path, cache: Path) -> None:
    located = locate(base("org/other"), tmp_path)
    assert located.folder is None
    assert "not in the local cache" in located.note
    with pytest.raises(ArchspecError) as caught:
        structure_of(located)
    assert [d.code for d in caught.value.diagnostics] == ["AS600"]
    told = caught.value.diagnostics[0].message
    assert "checked as far as" not in told
    assert all(f"'{path}'" in told for path in (tmp_path / "org" / "other", "org/other", hub_cache()))


@pytest.mark.parametrize("name", ["org/../x", "-org/x", "org/x?y", "org:x/y"])
def test_malformed_hub_ids(tmp_path: Path, cache: Path, name: str) -> None:
    refused(f'"{name}"', tmp_path, "AS600" if name.count("/") > 1 else "AS608")


def test_a_local_folder_comes_before_the_cache(tmp_path: Path, cache: Path) -> None:
    cached(cache)
    folder = model(tmp_path / "org" / "dit")
    assert locate(base("org/dit"), tmp_path).folder == folder


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    assert hub_cache() == Path("/home/x/.cache/huggingface/hub")
    for name, value, path in (
        ("XDG_CACHE_HOME", "/c", "/c/huggingface/hub"),
        ("HF_HOME", "/h", "/h/hub"),
        ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
        ("HF_HUB_CACHE", "~/cache", "/home/x/cache"),
    ):
        monkeypatch.setenv(name, value)
        assert hub_cache() == Path(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "\xff", '{"a": NaN}', "[" * 100_000])
def test_broken_config(tmp_path: Path, text: str) -> None:
    folder = model(tmp_path / "host")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArchspecError) as caught:
        structure_of(locate(base("./host"), tmp_path))
    assert [d.code for d in caught.value.diagnostics] == ["AS602"]
    primary = caught.value.diagnostics[0].primary
    assert primary is not None
    assert (primary.span.line, primary.span.column, primary.span.text) == (2, 7, "./host")


@pytest.mark.parametrize("scheme", [FULL, SAMPLED])
def test_identity_follows_the_content(tmp_path: Path, scheme: str) -> None:
    weights = tensors()
    first = fingerprint(model(tmp_path / "a"), scheme)
    assert first.startswith(f"{scheme}:")
    assert len(first) == len(scheme) + 33
    assert fingerprint(model(tmp_path / "b", _diffusers_version="0.1"), scheme) == first
    assert fingerprint(model(tmp_path / "c", norm_eps=1.0), scheme) != first
    weights["proj_out_2.bias"][-1] += 1
    assert fingerprint(model(tmp_path / "d", weights), scheme) != first
    swapped = tensors()
    one, other = "transformer_blocks.0.attn1.to_q.weight", "transformer_blocks.0.attn1.to_k.weight"
    swapped[one], swapped[other] = swapped[other], swapped[one]
    assert fingerprint(model(tmp_path / "e", swapped), scheme) != first


def test_identity_of_names_shapes_and_dtypes(tmp_path: Path) -> None:
    config = {"architectures": ["UnknownModel"]}
    value = np.arange(4, dtype=np.float32)
    variants: list[dict[str, np.ndarray[Any, Any]]] = [
        {"w": value},
        {"v": value},
        {"w": value.reshape(2, 2)},
        {"w": value.view(np.int32)},
        {"w": value, "x": value[:0]},
    ]
    for number, weights in enumerate(variants):
        model(tmp_path / str(number), weights)
        (tmp_path / str(number) / "config.json").write_text(json.dumps(config))
    assert len({fingerprint(tmp_path / str(number)) for number in range(len(variants))}) == len(variants)


def test_a_compiled_checkpoint_is_no_base(tmp_path: Path) -> None:
    model(tmp_path / "out", archspec={"instructions": []})
    with pytest.raises(ArchspecError) as caught:
        structure_of(locate(base("./out"), tmp_path))
    assert [d.code for d in caught.value.diagnostics] == ["AS609"]


def test_identity_is_independent_of_shards_and_of_order(tmp_path: Path) -> None:
    first = fingerprint(model(tmp_path / "a"))
    folder = model(tmp_path / "b", weights={})
    names = sorted(tensors(), reverse=True)
    shards = {"m-1.safetensors": names[:7], "m-2.safetensors": names[7:]}
    for file, part in shards.items():
        save_file({name: tensors()[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fingerprint(folder) == first


def test_identity_of_a_stream(tmp_path: Path) -> None:
    """Whoever reads the tensors anyway gets the same identity, in any order and any chunks."""
    folder = model(tmp_path / "a")
    identity = Identity(json.loads((folder / "config.json").read_text()))
    for name, header in reversed(read_folder(folder).items()):
        data = Path(header.file).read_bytes()[header.start : header.end]
        found = hasher()
        for start in range(0, len(data), 100):
            found.update(data[start : start + 100])
        identity.add(name, header, found.digest())
    assert identity.value() == fingerprint(folder)


def test_what_samples_see(tmp_path: Path) -> None:
    """The first and the last page are among the samples; a change between two pages is seen by the full scheme only."""
    value = np.zeros(1_000_000, np.uint8)
    for name, at in (("same", None), ("first", 0), ("last", -1), ("between", 5000)):
        other = value.copy()
        if at is not None:
            other[at] = 1
        save_file({"w": other}, tmp_path / f"{name}.safetensors")

    def digest(name: str, scheme: str) -> bytes:
        return digest_of(read_folder(tmp_path / f"{name}.safetensors")["w"], scheme)

    assert len({digest(n, FULL) for n in ("same", "first", "last", "between")}) == 4
    assert len({digest(n, SAMPLED) for n in ("same", "first", "last")}) == 3
    assert digest("between", SAMPLED) == digest("same", SAMPLED)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    header = read_folder(folder)["proj_out_2.weight"]
    os.truncate(header.file, header.start + 1)
    with pytest.raises(ArchspecError) as caught:
        digest_of(header)
    assert [d.code for d in caught.value.diagnostics] == ["AS616"]


@pytest.mark.parametrize("scheme", [FULL, SAMPLED])
def test_stated_fingerprint(tmp_path: Path, scheme: str) -> None:
    folder = model(tmp_path / "host")
    stated = base(f'{{from: host, fingerprint: "{fingerprint(folder, scheme)}"}}')
    located = locate(stated, tmp_path)
    check_fingerprint(stated, located)
    model(tmp_path / "host", norm_eps=1.0)
    with pytest.raises(ArchspecError) as caught:
        check_fingerprint(stated, located)
    found = caught.value.diagnostics[0]
    assert found.code == "AS607"
    assert found.hints == (f"it is now {fingerprint(folder, scheme)}",)
    assert found.primary is not None
    assert found.primary.span.text.strip('"') == stated.fingerprint


def test_no_fingerprint_to_check(tmp_path: Path) -> None:
    model(tmp_path / "host")
    located = locate(base("host"), tmp_path)
    check_fingerprint(base("host"), located)
    check_fingerprint(base("{from: org/x, fingerprint: 'xxh3:0'}"), Located(None))
    with pytest.raises(ArchspecError, match="no fingerprint"):
        check_fingerprint(base("{from: host, fingerprint: 'sha256:0'}"), located)
