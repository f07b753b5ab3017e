"""Published files become models that compute the same; what does not fit is refused with nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import archspec
from archspec.compiler.convert.convert import convert
from archspec.compiler.convert.reading import Known
from archspec.diagnostics import ArchspecError
from archspec.runtime.store.lock import read_lock
from archspec.runtime.store.verify import differences

from .conftest import CLASSES, HEADS, WIDTH, State, run

HOST = Known(heads=HEADS)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.2


def swap(state: State, index: int, slot: str, new: dict[str, Tensor]) -> State:
    """Put another module in a slot of a published state."""
    kept = {name: t for name, t in state.items() if not name.startswith(f"blocks.{index}.{slot}.")}
    return kept | {f"blocks.{index}.{slot}.{name}": t for name, t in new.items()}


def pair(name: str, *shape: int) -> dict[str, Tensor]:
    return {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}


IN_OUT = pair("in_proj", 3 * WIDTH, WIDTH) | pair("out_proj", WIDTH, WIDTH)
MAMBA = {
    "in_proj.weight": draw(2 * 64 + 2 * 8 + 4, WIDTH),  # expand 2, state 8, 4 heads of 16
    "dt_bias": draw(4),
    "A_log": draw(4),
    "D": draw(4),
    "norm.weight": draw(64),
    "out_proj.weight": draw(WIDTH, 64),
    **pair("conv1d", 64 + 2 * 8, 1, 4),
}
GRAFTS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "hyena_se": ("attn", IN_OUT | pair("short_filter", 3 * WIDTH, 1, 4) | pair("inner_filter", WIDTH, 1, 4)),
    "hyena_y": ("attn", IN_OUT | pair("inner_filter", WIDTH, 1, 4)),
    "mamba2": ("attn", MAMBA),
    "mlp_hyena_x": (
        "mlp",
        pair("in_proj", 6 * WIDTH, WIDTH) | pair("out_proj", WIDTH, 2 * WIDTH) | pair("short_filter", 16, 1, 4),
    ),
    "swa": ("attn", pair("Wqkv", 3 * WIDTH, WIDTH) | pair("out_proj", WIDTH, WIDTH)),
    "hyena_x": (
        "attn",
        pair("in_proj", 3 * WIDTH, WIDTH) | pair("short_filter", 3 * WIDTH, 1, 4) | pair("out_proj", WIDTH, WIDTH),
    ),
    "mlp": ("mlp", pair("fc1", 3 * WIDTH, WIDTH) | pair("fc2", WIDTH, 3 * WIDTH)),
}


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    return x, torch.tensor([0, 500, 999]), torch.tensor([0, CLASSES - 1, CLASSES])


def agrees(model: Any, state: State) -> None:
    x, t, y = example()
    with torch.no_grad():
        found = model(x, timestep=t, class_labels=y).sample
    torch.testing.assert_close(found, run(state, x, t, y), rtol=1e-4, atol=1e-4)


def codes(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ArchspecError) as caught:
        call()
    return [d.code for d in caught.value.diagnostics]


def test_a_published_dit_computes_the_same(saved: Path, state: State, tmp_path: Path) -> None:
    from diffusers import DiTTransformer2DModel

    assert convert(saved, tmp_path / "out", HOST) == []
    agrees(DiTTransformer2DModel.from_pretrained(tmp_path / "out").eval(), state)
    assert convert(saved, tmp_path / "out", HOST) == []  # what it wrote it may replace
    (tmp_path / "out" / "converted.json").unlink()
    assert codes(lambda: convert(saved, tmp_path / "out", HOST)) == ["AS630"]


@pytest.mark.parametrize("name", GRAFTS)
def test_a_published_graft_computes_the_same(name: str, state: State, tmp_path: Path) -> None:
    slot, module = GRAFTS[name]
    grafted = swap(swap(state, 1, slot, module), 3, slot, module)
    torch.save({"ema": grafted, "model": state, "args": None}, tmp_path / "model.pt")
    edits = convert(tmp_path / "model.pt", tmp_path / "out", Known(HEADS, window=2))
    assert [edit["replace"] for edit in edits] == [f"blocks[1, 3].{slot}"]
    agrees(archspec.load(tmp_path / "out"), grafted)
    lock = read_lock(tmp_path / "out")
    assert lock.base["from"] == "facebook/DiT-XL-2-256"
    assert not list(differences(tmp_path / "out", lock))


def test_different_grafts_stand_in_one_file(state: State, tmp_path: Path) -> None:
    for index, name in enumerate(("swa", "hyena_x", "mlp")):
        state = swap(state, index, *GRAFTS[name])
    torch.save(state, tmp_path / "mixed.pt")
    edits = convert(tmp_path / "mixed.pt", tmp_path / "out", Known(HEADS, window=2))
    assert [edit["with"]["op"] for edit in edits] == ["local_attention", "hyena_x", "mlp"]
    agrees(archspec.load(tmp_path / "out"), state)


def test_what_no_tensor_shows_is_asked_for(saved: Path, state: State, tmp_path: Path) -> None:
    assert codes(lambda: convert(saved, tmp_path / "out")) == ["AS652"]
    assert codes(lambda: convert(saved, tmp_path / "out", Known(heads=5))) == ["AS652"]
    torch.save(swap(state, 0, *GRAFTS["swa"]), tmp_path / "swa.pt")
    assert codes(lambda: convert(tmp_path / "swa.pt", tmp_path / "out", HOST)) == ["AS653"]
    assert not (tmp_path / "out").exists()


def test_every_fault_of_a_file_is_told_at_once(state: State, tmp_path: Path) -> None:
    broken = swap(state, 2, "attn", {"weight": draw(4, 4)})
    del broken["blocks.0.mlp.fc2.bias"]
    broken["blocks.1.attn.qkv.weight"] = draw(3 * WIDTH, WIDTH + 1)
    torch.save(broken, tmp_path / "broken.pt")
    found = codes(lambda: convert(tmp_path / "broken.pt", tmp_path / "out", HOST))
    assert set(found) == {"AS651", "AS653"}
    assert len(found) >= 3


def test_tensors_that_belong_nowhere_are_refused(state: State, tmp_path: Path) -> None:
    torch.save({**state, "extra.weight": draw(2, 2)}, tmp_path / "more.pt")
    assert codes(lambda: convert(tmp_path / "more.pt", tmp_path / "out", HOST)) == ["AS651"]


def test_another_table_of_positions_is_another_model(state: State, tmp_path: Path) -> None:
    torch.save({**state, "pos_embed": state["pos_embed"] + 1}, tmp_path / "moved.pt")
    assert codes(lambda: convert(tmp_path / "moved.pt", tmp_path / "out", HOST)) == ["AS651"]


class Evil:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize("content", ["code", "text", "truncated", "empty", "absent"])
def test_hostile_files_are_refused(content: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pt"
    if content == "code":
        torch.save({"ema": Evil()}, path)
    elif content == "text":
        path.write_text("no pickle at all")
    elif content == "truncated":
        path.write_bytes(saved.read_bytes()[:5000])
    elif content == "empty":
        torch.save({"ema": {}, "steps": 3}, path)
    with pytest.raises(ArchspecError) as caught:
        convert(path, tmp_path / "out", HOST)
    (found,) = caught.value.diagnostics
    assert found.code == "AS650"
    assert "torch.load" not in found.message
    assert "\x1b" not in found.message
    assert content != "code" or "it would run 'getattr'" in found.message
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


def test_another_layout_is_named(tmp_path: Path) -> None:
    torch.save({"layers.0.weight": draw(2, 2)}, tmp_path / "other.pt")
    assert codes(lambda: convert(tmp_path / "other.pt", tmp_path / "out")) == ["AS653"]


def test_converting_twice_gives_the_same_bytes(state: State, tmp_path: Path) -> None:
    torch.save(swap(state, 1, *GRAFTS["hyena_x"]), tmp_path / "x.pt")
    for name in ("one", "two"):
        convert(tmp_path / "x.pt", tmp_path / name, HOST)
    for path in sorted((tmp_path / "one").iterdir()):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
