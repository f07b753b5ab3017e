"""Terms run beside a linear map: the same numbers as their matrices, in memory that does not grow with these."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import archspec
from archspec.compiler.packing.encode import within
from archspec.compiler.packing.recipe import Recipe, Step, build, total
from archspec.host.excerpt import Excerpt
from archspec.packs.terms import RAW
from archspec.runtime.model.excerpts import add_to, taken
from archspec.runtime.packs import bits as stream
from archspec.runtime.packs import branch as branches
from archspec.runtime.packs.branch import BYTES, Branch, branch, can_branch
from archspec.runtime.packs.reading import open_pack
from tests.packs import packed, rules, tuned_from

RECIPES: dict[str, Recipe] = {
    "sign": (Step("sign", group=0),),
    "sign of groups": (Step("sign", group=24),),
    "sign of the whole": (Step("sign", group=0, axis="tensor"),),
    "3 bits": (Step("quantize", bits=3, group=20),),
    "5 bits by columns": (Step("quantize", bits=5, group=7, axis="column"),),
    "6 bits of the whole": (Step("quantize", bits=6, group=33, axis="tensor"),),
    "8 bits": (Step("quantize", bits=8, group=1000),),
    "both": (Step("sign", group=0), Step("svd", rank=3, bits=RAW), Step("quantize", bits=2, group=16, axis="column")),
}


def matrix(rows: int = 37, columns: int = 50) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


def made(recipe: Recipe, delta: Tensor, scale: float = 1.0) -> tuple[Branch, Tensor]:
    """Return a branch, and the matrix that it stands for."""
    encoded = build(recipe, delta)
    assert can_branch(term.term for term in encoded)
    found = branch(((scale, e.term, e.parts) for e in encoded), (delta.shape[0], delta.shape[1]), delta)
    return found, scale * total(encoded, delta)


@pytest.mark.parametrize("chunk", [1, 120, 1 << 18])
@pytest.mark.parametrize("name", RECIPES)
def test_a_branch_adds_what_its_matrix_does(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "CHUNK", chunk)
    found, dense = made(RECIPES[name], matrix(), scale=0.7)
    x, y = torch.randn(2, 5, 50), torch.randn(2, 5, 37)
    before = y.clone()
    with torch.no_grad():
        assert torch.allclose(found(nn.Identity(), (x,), y), y + x @ dense.T, atol=1e-4)
    assert torch.equal(y, before)


EXCERPTS = {
    "rows": Excerpt("", start=5, stop=20),
    "columns": Excerpt("", axis=1, start=3, stop=50),
    "rows of groups": Excerpt("", groups=4, start=2, stop=7),
    "columns of groups": Excerpt("", axis=1, groups=5, start=0, stop=3),
    "rows of the transposed": Excerpt("", start=5, stop=20, transposed=True),
    "columns of the transposed": Excerpt("", axis=1, start=3, stop=30, transposed=True),
    "the transposed": Excerpt("", transposed=True),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("of", EXCERPTS)
def test_a_branch_of_an_excerpt_adds_what_its_matrix_does(of: str, turned: bool) -> None:
    """`turned`: the map keeps its weight as (inputs, outputs), as transformers' Conv1D does."""
    excerpt, delta, like = EXCERPTS[of], matrix(40, 50), matrix(40, 50)
    encoded = within(excerpt, build(RECIPES["both"], taken(excerpt, delta).contiguous()), (40, 50))
    whole = build(RECIPES["3 bits"], delta)
    terms = [(0.7, e.term, e.parts) for e in (encoded, *whole)]
    assert can_branch((term for _, term, _ in terms), turned)
    dense = 0.7 * (encoded.value() + total(whole, delta))
    far = torch.ones(40, 50)
    add_to(excerpt, far, -torch.ones_like(taken(excerpt, delta)))
    assert not (encoded.value() * far).any()
    dense = dense if turned else dense.T
    x, y = torch.randn(2, 5, len(dense)), torch.randn(2, 5, dense.shape[1])
    found = branch(terms, (40, 50), like, turned)
    with torch.no_grad():
        assert torch.allclose(found(nn.Identity(), (x,), y), y + x @ dense, atol=1e-4)
    assert found.size < 4 * 40 * 50


def test_codes_along_the_whole_are_no_branch_of_a_transposed_map() -> None:
    (encoded,) = build(RECIPES["sign of the whole"], matrix())
    assert can_branch([encoded.term])
    assert not can_branch([encoded.term], turned=True)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_read_from_the_middle_of_a_stream(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (101,), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    packed_codes = stream.pack(codes, bits)
    for first, count in ((0, 101), (1, 7), (50, 51), (100, 1), (13, 0)):
        assert torch.equal(stream.unpack_at(packed_codes, bits, first, count), codes[first : first + count])


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the memory of tensors that are made while it lasts, as long as these live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor):
                self._seen(value.untyped_storage(), args)
        return found

    def _seen(self, storage: torch.UntypedStorage, args: Any) -> None:
        key = storage.data_ptr()
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if key in self._known or key in given or not storage.nbytes():
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def peak(call: Any) -> int:
    gc.collect()
    with torch.no_grad(), Living() as living:
        call()
    found: int = living.most
    return found


def test_what_counts_bytes_counts_them() -> None:
    x = torch.zeros(1000)

    def two_at_once() -> None:
        a = x + 1
        del a
        b = x + 2
        b = b + 3
        assert len(b)

    assert peak(two_at_once) == 8000


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "both"])
def test_memory_is_bounded_by_a_chunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of four times the rows takes no more; both stay far below the matrix."""
    chunk = 4096
    monkeypatch.setattr(branches, "CHUNK", chunk)
    peaks = []
    for rows in (256, 1024):
        found, dense = made(RECIPES[name], matrix(rows, 512))
        x, y = torch.randn(2, 512), torch.zeros(2, rows)
        own = 3 * 4 * y.numel() + 4 * x.numel()  # the output, and what is added to it
        most = peak(lambda found=found, x=x, y=y: found(nn.Identity(), (x,), y))
        assert most <= BYTES * chunk + own
        assert found.size <= dense.numel() + 4096 + 4 * dense.numel() // 7  # codes and scales, not values
        assert most > 4 * chunk  # a chunk of float32 is there at some moment
        peaks.append(most)
    assert peaks[1] < 4 * 1024 * 512 / 5
    assert peaks[1] - peaks[0] <= 4 * 3 * 2 * 768


@pytest.fixture(scope="module")
def pack(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    tuned = tuned_from(tiny_encoder, folder / "tuned")
    ways = {"mlp": "[sign, {op: svd, rank: 2}]", "attn": "[{op: quantize, bits: 4, group: 16, axis: column}]"}
    ways |= {"head": "[{op: prune, keep: 20%}]"}
    return packed(folder, tiny_encoder, f"{{tuned: {tuned}, {rules(tiny_encoder, **ways)}}}")[1]


def test_each_tensor_has_its_own_way(tiny_encoder: Path, pack: Path) -> None:
    """Codes and factors run beside their maps; what is pruned or dense is exchanged; the answer is that of weights."""
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_encoder).eval()
    ids = torch.arange(24).reshape(2, 12)
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    with torch.no_grad():
        before = model(ids).last_hidden_state
        with archspec.skills(model, pack, scale=0.8):
            wanted = model(ids).last_hidden_state
        with archspec.skills(model, pack, scale=0.8, mode="branch"):
            found = model(ids).last_hidden_state
            moved = {name for name, p in model.named_parameters() if p.data_ptr() != places[name]}
        after = model(ids).last_hidden_state
    assert torch.allclose(found, wanted, atol=2e-5)
    assert not torch.allclose(found, before, atol=1e-3)
    assert torch.equal(after, before)
    beside = {
        n for n in open_pack(pack).header.tensors if n.startswith("encoder") and n.endswith(("e.weight", "y.weight"))
    }
    assert "pooler.dense.weight" in moved
    assert "encoder.layer.0.attention.self.query.weight" in beside
    assert not moved & beside


def test_a_branch_of_bfloat16(tiny_encoder: Path) -> None:
    found, dense = made(RECIPES["3 bits"], matrix())
    x, y = torch.randn(4, 50).bfloat16(), torch.zeros(4, 37).bfloat16()
    answer = found(nn.Identity(), (x,), y)
    assert answer.dtype == torch.bfloat16
    assert torch.allclose(answer.float(), x.float() @ dense.T, atol=0.15)
