"""Each method beside the equations of its paper on whole tensors, and what must hold whatever the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archspec.compiler.merging import blocks, methods
from archspec.compiler.merging.draws import Draws
from archspec.compiler.merging.layout import lay_out
from archspec.compiler.merging.select import cut_of, only
from archspec.compiler.merging.write import write_merge
from archspec.diagnostics import ArchspecError
from archspec.language.merging import load_merge
from archspec.runtime.store import checkpoint
from tests.compiler.merging.golden_cases import SHAPES, tensors, write_models


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models, and blocks so small that every matrix has several, the last one ragged."""
    monkeypatch.setattr(methods, "BLOCK", 7)
    monkeypatch.setattr(blocks, "BLOCK", 7)
    write_models(tmp_path)
    return tmp_path


def merge(folder: Path, text: str, seed: int = 0, out: str = "out") -> dict[str, Tensor]:
    (folder / "merge.yaml").write_text(text)
    write_merge(lay_out(load_merge(folder / "merge.yaml"), folder), folder / out, seed)
    found: dict[str, Tensor] = load_file(folder / out / "model.safetensors")
    return found


def config(method: str, shared: str = "{}", own: str = "{}", names: str = "ab", base: bool = True) -> str:
    listed = "\n".join(f"  - {{model: ./{name}, parameters: {own}}}" for name in names)
    head = f"merge_method: {method}\n" + ("base_model: ./base\n" if base else "")
    return f"{head}models:\n{listed}\nparameters: {shared}\ndtype: float32\n"


def whole() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return base, first and second model of every tensor, flat, float64."""
    found = [tensors(number) for number in range(3)]
    return {
        name: (found[0][name].flatten().double(), found[1][name].flatten().double(), found[2][name].flatten().double())
        for name in SHAPES
    }


NO_NUMBERS = {
    "linear": config("linear", own="{weight: 1.0}", base=False),
    "slerp": config("slerp", "{t: 0.3}", names="a"),
    "too large": config("task_arithmetic", "{lambda: 1.0e39}", "{weight: 1.0}"),
}


@pytest.mark.parametrize("how", NO_NUMBERS)
def test_what_is_no_number_is_not_written(models: Path, how: str) -> None:
    if how != "too large":
        state = load_file(models / "a" / "model.safetensors")
        next(iter(state.values())).view(-1)[3] = torch.nan
        save_file(state, models / "a" / "model.safetensors")
    with pytest.raises(ArchspecError, match="AS683"):
        merge(models, NO_NUMBERS[how])
    assert not (models / "out").exists()


def trimmed(delta: Tensor, density: float) -> Tensor:
    kept = torch.zeros_like(delta)
    largest = delta.abs().argsort(descending=True, stable=True)[: int(density * delta.numel())]
    kept[largest] = delta[largest]
    return kept


def elected(parts: list[Tensor], weights: list[float]) -> Tensor:
    """TIES, section 4, number by number."""
    out = torch.zeros_like(parts[0])
    for i in range(len(out)):
        weighted = [w * float(p[i]) for w, p in zip(weights, parts, strict=True)]
        sign = 1 if sum(weighted) >= 0 else -1
        agreeing = [(v, w) for v, w in zip(weighted, weights, strict=True) if v * sign > 0]
        out[i] = sum(v for v, _ in agreeing) / sum(w for _, w in agreeing) if agreeing else 0
    return out


def close(found: dict[str, Tensor], name: str, wanted: Tensor) -> None:
    torch.testing.assert_close(found[name].flatten().double(), wanted, rtol=1e-6, atol=1e-6)


def test_linear(models: Path) -> None:
    text = config("linear", own="{weight: 2}", base=False).replace("weight: 2", "weight: 0.5", 1)
    found = merge(models, text)
    for name, (_, a, b) in whole().items():
        close(found, name, (0.5 * a + 2 * b) / 2.5)


def test_passthrough(models: Path) -> None:
    found = merge(models, "merge_method: passthrough\nmodels: [{model: ./a}]\n")
    for name, (_, a, _) in whole().items():
        close(found, name, a)


def test_task_arithmetic(models: Path) -> None:
    found = merge(models, config("task_arithmetic", "{lambda: 0.5}", "{weight: -0.7}"))
    for name, (base, a, b) in whole().items():
        close(found, name, base + 0.5 * (-0.7 * (a - base) - 0.7 * (b - base)))


@pytest.mark.parametrize("density", [0.1, 0.37, 1.0])
def test_ties(models: Path, density: float) -> None:
    text = config("ties", f"{{density: {density}, lambda: 0.9}}", "{weight: 1.3}").replace("1.3", "0.6", 1)
    found = merge(models, text)
    for name, (base, a, b) in whole().items():
        parts = [trimmed((x.float() - base.float()).double(), density) for x in (a, b)]
        close(found, name, base + 0.9 * elected(parts, [0.6, 1.3]))


def test_slerp(models: Path) -> None:
    found = merge(models, config("slerp", "{t: 0.3}", names="a"))
    for name, (base, a, _) in whole().items():
        angle = torch.arccos(base @ a / (base.norm() * a.norm()))
        wanted = (torch.sin(0.7 * angle) * base + torch.sin(0.3 * angle) * a) / torch.sin(angle)
        close(found, name, wanted)


def test_slerp_of_models_that_point_the_same_way_is_straight(models: Path) -> None:
    save_file({k: 3 * v for k, v in tensors(0).items()}, models / "a" / "model.safetensors", {"format": "pt"})
    found = merge(models, config("slerp", "{t: 0.25}", names="a"))
    for name, (base, _, _) in whole().items():
        close(found, name, 1.5 * base)


@pytest.mark.parametrize("top", [0.2, 1.0])
def test_sce(models: Path, top: float) -> None:
    found = merge(models, config("sce", f"{{select_topk: {top}}}"))
    for name, (base, a, b) in whole().items():
        deltas = torch.stack([(x.float() - base.float()) for x in (a, b)])
        variance = deltas.var(0, unbiased=False)
        mask = torch.zeros_like(variance)
        mask[variance.argsort(descending=True, stable=True)[: int(top * int(variance.count_nonzero()))]] = 1
        parts = [p.double() for p in deltas * mask]
        squares = [float(p @ p) for p in parts]
        shares = [s / sum(squares) for s in squares]
        out = torch.zeros_like(base)
        for i in range(len(out)):
            sign = 1 if sum(float(p[i]) for p in parts) >= 0 else -1
            agree = [(s * float(p[i]), s) for s, p in zip(shares, parts, strict=True) if float(p[i]) * sign > 0]
            out[i] = sum(v for v, _ in agree) / max(sum(s for _, s in agree), 1e-6) if agree else 0
        close(found, name, base + out)


def test_dare_keeps_a_fraction_and_the_norm(models: Path) -> None:
    found = merge(models, config("dare_linear", "{density: 0.4}", "{weight: 1}", "a"))
    kept = total = 0
    for name, (base, a, _) in whole().items():
        delta, ours = a - base, found[name].flatten().double() - base
        mask = ours.abs() > 1e-6
        kept, total = kept + int(mask.sum()), total + len(mask)
        if mask.any():
            torch.testing.assert_close(ours.abs().sum(), delta.abs().sum(), rtol=1e-5, atol=1e-5)
            factor = delta.abs().sum() / delta[mask].abs().sum()
            torch.testing.assert_close(ours[mask], factor * delta[mask], rtol=1e-4, atol=1e-5)
    assert abs(kept / total - 0.4) < 4 * (0.24 / total) ** 0.5


def test_dare_without_rescaling_leaves_what_it_keeps(models: Path) -> None:
    found = merge(models, config("dare_linear", "{density: 0.4, rescale: false}", "{weight: 1}", "a"))
    for name, (base, a, _) in whole().items():
        ours = found[name].flatten().double() - base
        mask = ours.abs() > 1e-6
        torch.testing.assert_close(ours[mask], (a - base)[mask], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_depends_on_its_seed_alone(models: Path, method: str) -> None:
    text = config(method, "{density: 0.5}", "{weight: 0.5}")
    first, again, other = (merge(models, text, seed, f"out{n}") for n, seed in enumerate((3, 3, 4)))
    assert all(torch.equal(first[name], again[name]) for name in SHAPES)
    assert not all(torch.equal(first[name], other[name]) for name in SHAPES)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "sce"])
def test_one_model_alone_is_that_model(models: Path, method: str) -> None:
    found = merge(models, config(method, own="{}" if method == "sce" else "{weight: 1}", names="a"))
    for name, (_, a, _) in whole().items():
        close(found, name, a)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties", "sce"])
def test_models_equal_to_their_base_give_the_base(models: Path, method: str) -> None:
    for name in "ab":
        save_file(tensors(0), models / name / "model.safetensors", {"format": "pt"})
    own = "{}" if method == "sce" else "{weight: 0.5}"
    found = merge(models, config(method, "{select_topk: 0.5}" if method == "sce" else "{}", own))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(0).items())


@pytest.mark.parametrize("method", ["linear", "ties", "sce"])
def test_the_order_of_models_does_not_matter(models: Path, method: str) -> None:
    own = "{}" if method == "sce" else "{weight: 0.5}"
    first = merge(models, config(method, own=own, names="ab"), out="one")
    second = merge(models, config(method, own=own, names="ba"), out="two")
    for name in SHAPES:
        torch.testing.assert_close(first[name], second[name], rtol=1e-6, atol=1e-6)  # sums round by their order


def test_density_one_of_dare_is_task_arithmetic(models: Path) -> None:
    one = merge(models, config("dare_linear", "{density: 1}", "{weight: 0.5}"), out="one")
    two = merge(models, config("task_arithmetic", own="{weight: 0.5}"), out="two")
    assert all(torch.equal(one[name], two[name]) for name in SHAPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [0, 1, 17, 500, 999, 1000])
def test_a_cut_keeps_exactly_the_largest(dtype: torch.dtype, k: int) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(k)).mul_(3).round_().div_(3).to(dtype)
    cut = cut_of(lambda: iter(torch.split(values, 33)), k)
    mask = torch.from_numpy(np.concatenate([cut.mask(block) for block in torch.split(values, 33)]))
    assert torch.equal(only(values.clone(), mask.numpy()), torch.where(mask, values, 0))
    wanted = torch.zeros(1000, dtype=torch.bool)
    wanted[values.float().abs().argsort(descending=True, stable=True)[:k]] = True
    assert torch.equal(mask, wanted)


def test_bf16_is_the_float32_result_rounded(models: Path) -> None:
    """Of what is exact in both: linear over bf16 models."""
    for number, name in enumerate(("base", "a", "b")):
        save_file(tensors(number, torch.bfloat16), models / name / "model.safetensors", {"format": "pt"})
    text = config("linear", own="{weight: 1}", base=False)
    exact = merge(models, text, out="exact")
    rounded = merge(models, text.replace("dtype: float32", "dtype: bfloat16"), out="rounded")
    kept = merge(models, text.replace("dtype: float32", "dtype: float32\nout_dtype: bfloat16"), out="kept")
    for name in SHAPES:
        assert rounded[name].dtype == torch.bfloat16
        assert torch.equal(rounded[name], exact[name].bfloat16())
        assert torch.equal(kept[name], rounded[name])


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.3, 0.5, 0.75, 0.999, 0.9999999])
def test_draws_keep_with_their_chance(chance: float) -> None:
    """Within five standard deviations, neighbours apart as well; 2^-16 is as fine as a chance is told."""
    count = 1 << 18
    kept = Draws(chance, 0, "a")(count)
    told = min(round(chance * 2**16), 2**16 - 1) / 2**16
    assert abs(kept.mean() - told) <= 5 * (told * (1 - told) / count) ** 0.5
    both = (kept[1:] & kept[:-1]).mean()
    assert abs(both - told**2) <= 5 * (told**2 * (1 - told**2) / count) ** 0.5 + 1e-4
    assert np.array_equal(kept, Draws(chance, 0, "a")(count))
    assert chance in (0.0, 0.9999999) or not np.array_equal(kept, Draws(chance, 1, "a")(count))


def test_draws_go_on_where_they_ended() -> None:
    parts, whole = Draws(0.3, 7), Draws(0.3, 7)
    assert not np.array_equal(parts(640), parts(640))
    assert len(whole(7)) == 7


def test_a_merge_runs_on_one_thread_and_gives_the_threads_back(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On blocks this small several threads wait for one another: on busy machines 60 times the CPU time was seen."""
    seen = set[int]()
    told = methods.METHODS["linear"]

    def watched(reader: methods.Reader) -> methods.Blocks:
        seen.add(torch.get_num_threads())
        return told(reader)

    monkeypatch.setitem(methods.METHODS, "linear", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        merge(models, config("linear", own="{weight: 1}", base=False))
        assert (seen, torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_by_bits(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.5, 2.0, -0.0, -3.0]).to(dtype)
    mask = np.array([True, False, True, True])
    assert only(values.clone(), mask).tolist() == [-1.5, 0.0, -0.0, -3.0]


def test_blocks_are_joined_to_writes_that_go_past_the_cache(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the same whatever the size of a write; of 64 bytes a matrix takes several."""
    text = config("linear", own="{weight: 1}", base=False)
    whole = merge(models, text, out="whole")
    monkeypatch.setattr(checkpoint, "BUFFER", 64)
    parts = merge(models, text, out="parts")
    assert (models / "whole" / "model.safetensors").read_bytes() == (
        models / "parts" / "model.safetensors"
    ).read_bytes()
    assert max(value.nbytes for value in whole.values()) > 3 * 64
    assert parts.keys() == whole.keys()


@pytest.mark.parametrize("held", [0, 100, 1000])
def test_what_dare_holds_changes_nothing(models: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Nothing is held, some blocks (of 28 bytes, two models), or most tensors whole."""
    text = config("dare_ties", "{density: 0.4}", "{weight: 0.5}")
    whole = merge(models, text, out="whole")
    monkeypatch.setattr(methods, "HELD", held)
    parts = merge(models, text, out="parts")
    assert all(torch.equal(whole[name], parts[name]) for name in SHAPES)
