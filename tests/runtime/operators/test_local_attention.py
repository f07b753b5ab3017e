from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from archspec.diagnostics import ArchspecError
from archspec.host.structure import SiteShape
from archspec.runtime.operators.scores import attend, band
from archspec.runtime.operators.windows import Axis, dense, flex_window, pieces, window_attention

ONE = Axis(1, 1, 0, 0)


def draw(batch: int, heads: int, tokens: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, heads, tokens, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Axis, columns: Axis) -> torch.Tensor:
    return attend(q, k, v, dense(rows, columns, q.device)[None, None], causal=False)


@settings(max_examples=120, deadline=None)
@given(
    keys=st.integers(1, 300),
    back=st.integers(0, 80),
    past=st.integers(0, 40),
    causal=st.booleans(),
    groups=st.sampled_from([1, 2]),
)
def test_band_equals_masked_attention(keys: int, back: int, past: int, causal: bool, groups: int) -> None:
    queries = max(keys - past, 1)
    axis = Axis(queries, keys, back, 0 if causal else back)
    q, k, v = draw(2, 2, queries, 4, 1), draw(2, 2 // groups, keys, 4, 2), draw(2, 2 // groups, keys, 4, 3)
    torch.testing.assert_close(
        window_attention(q, k, v, axis, ONE, None), masked(q, k, v, axis, ONE), rtol=1e-12, atol=1e-13
    )


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), radius=st.integers(0, 12))
def test_square_equals_masked_attention(rows: int, columns: int, radius: int) -> None:
    down, along = Axis(rows, rows, radius, radius), Axis(columns, columns, radius, radius)
    q, k, v = (draw(1, 2, rows * columns, 3, seed) for seed in (1, 2, 3))
    torch.testing.assert_close(
        window_attention(q, k, v, down, along, None), masked(q, k, v, down, along), rtol=1e-12, atol=1e-13
    )


@settings(max_examples=200, deadline=None)
@given(queries=st.integers(1, 400), past=st.integers(0, 50), reach=st.integers(0, 90), block=st.integers(1, 64))
def test_pieces_cover_each_query_once_with_all_its_keys(queries: int, past: int, reach: int, block: int) -> None:
    axis = Axis(queries, queries + past, reach, reach // 2)
    seen = torch.zeros(queries, axis.keys, dtype=torch.bool)
    for piece in pieces(axis, block):
        allowed = piece.allowed(axis, torch.device("cpu"))
        for n in range(piece.count):
            rows = slice(piece.start + n * piece.size, piece.start + (n + 1) * piece.size)
            columns = slice(piece.first + n * piece.size, piece.first + n * piece.size + piece.width)
            assert not seen[rows].any()
            assert seen[rows, columns].shape == (piece.size, piece.width)
            seen[rows, columns] = True if allowed is None else allowed
    assert torch.equal(seen, band(queries, axis.keys, axis.left, axis.right, torch.device("cpu")))
    assert len(pieces(axis, block)) <= 4 + 2 * (reach // block + past // block + 2)


@pytest.mark.parametrize("heads", [1, 2])
def test_masks_of_every_form(heads: int) -> None:
    """Per key and per query, boolean and additive, one for all heads or one each."""
    generator = torch.Generator().manual_seed(5)
    for rows, columns in ((Axis(150, 150, 7, 7), ONE), (Axis(12, 12, 2, 2), Axis(20, 20, 3, 3))):
        tokens = rows.queries * columns.queries
        q, k, v = (draw(2, 2, tokens, 3, seed) for seed in (1, 2, 3))
        window = dense(rows, columns, q.device)
        for queries in (1, tokens):
            seen = torch.rand(2, heads, queries, tokens, generator=generator) > 0.3
            seen = seen | torch.eye(tokens, dtype=torch.bool) if queries > 1 else seen
            expected = attend(q, k, v, seen & window, causal=False)
            torch.testing.assert_close(window_attention(q, k, v, rows, columns, seen), expected, rtol=1e-12, atol=1e-13)
            bias = torch.randn(2, heads, queries, tokens, generator=generator, dtype=torch.float64)
            expected = attend(q, k, v, bias.masked_fill(~window, float("-inf")), causal=False)
            torch.testing.assert_close(window_attention(q, k, v, rows, columns, bias), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("site", ["dit.attn", "llama.attn"])
@pytest.mark.parametrize(("window", "tokens"), [(1, 1), (3, 1), (3, 2), (1, 200), (4, 131), (64, 129), (500, 130)])
def test_module_equals_reference(rig: Callable[..., Any], site: str, window: int, tokens: int) -> None:
    made = rig("local_attention", site, tokens=tokens, window=window)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("window", [19, 20, 10**6])
@pytest.mark.parametrize("site", ["dit.attn", "llama.attn", "qwen.attn"])
def test_a_window_over_everything_is_attention(rig: Callable[..., Any], site: str, window: int) -> None:
    local, full = rig("local_attention", site, window=window), rig("attention", site)
    full.operator.load_state_dict(local.operator.state_dict())
    torch.testing.assert_close(local.mix(), full.mix(), rtol=0, atol=0)


def test_a_square_over_the_grid_is_attention(rig: Callable[..., Any]) -> None:
    local, full = rig("local_attention", "dit.attn", window=4, layout="grid"), rig("attention", "dit.attn")
    full.operator.load_state_dict(local.operator.state_dict())
    torch.testing.assert_close(local.mix(), full.mix(), rtol=0, atol=0)


def test_grid_at_another_resolution(rig: Callable[..., Any]) -> None:
    made = rig("local_attention", "dit.attn", tokens=80, layout="grid", window=1)
    torch.testing.assert_close(made.mix(), made.reference(), rtol=1e-12, atol=1e-13)
    with pytest.raises(ArchspecError, match="24 tokens are no grid of 4 x 5") as caught:
        made.operator.mix(torch.zeros(1, 24, 24, dtype=torch.float64))
    assert caught.value.diagnostics[0].code == "AS790"


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_says_the_same() -> None:
    """Run eagerly here: the mask function is what CUDA's kernels compile."""
    for rows, columns in ((Axis(160, 160, 9, 9), ONE), (Axis(200, 200, 5, 0), ONE), (Axis(12, 12, 2, 2),) * 2):
        tokens = rows.queries * columns.queries
        q, k, v = (
            draw(1, 4, tokens, 16, 1).float(),
            draw(1, 2, tokens, 16, 2).float(),
            draw(1, 2, tokens, 16, 3).float(),
        )
        flexed = flex_window(q, k, v, rows, columns, compiled=False)
        torch.testing.assert_close(flexed, masked(q, k, v, rows, columns), rtol=1e-5, atol=1e-6)


def test_gradients_equal_those_of_masked_attention() -> None:
    for rows, columns in ((Axis(140, 140, 5, 5), ONE), (Axis(11, 11, 2, 2), Axis(13, 13, 2, 2))):
        tokens = rows.queries * columns.queries
        ours = [draw(1, 2, tokens, 3, seed).requires_grad_() for seed in (1, 2, 3)]
        theirs = [t.detach().clone().requires_grad_() for t in ours]
        fast = window_attention(ours[0], ours[1], ours[2], rows, columns, None).sin().sum()
        slow = masked(theirs[0], theirs[1], theirs[2], rows, columns).sin().sum()
        for a, b in zip(torch.autograd.grad(fast, ours), torch.autograd.grad(slow, theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_work_grows_with_tokens_not_with_their_square(rig: Callable[..., Any]) -> None:
    """Scores of a window of 4 cost a few dozen keys per query, and no tokens x tokens tensor exists."""
    shape = SiteShape(width=8, tokens=16384, grid=(128, 128), heads=1, kv_heads=1, head_dim=8)
    for layout, keys in (("raster", 72), ("grid", 256)):
        made = rig("local_attention", shape, batch=1, window=4, layout=layout)
        with torch.no_grad(), _Largest() as largest, FlopCounterMode(display=False) as flops:
            made.mix()
        assert largest.elements <= 16384 * keys
        scores = flops.get_total_flops() - 16384 * 2 * 4 * 8 * 8
        assert scores <= 4 * 16384 * keys * 8


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor that any operation returns (views of no memory of their own aside)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.untyped_storage().nbytes() // part.element_size())
        return result
