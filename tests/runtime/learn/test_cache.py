from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archspec.runtime.learn import cache as module
from archspec.runtime.learn.cache import ActivationCache, stored_dtype
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.taps import Record, Tap, record

TAPS = [Tap.at("transformer_blocks.1.attn1"), Tap("group", "transformer_blocks.0", "transformer_blocks.1")]


def filled(
    host: nn.Module, feed: Feed, folder: Path | None, count: int = 40
) -> tuple[ActivationCache, list[dict[str, Record]]]:
    cache, seen = ActivationCache(count, folder), []
    for start, keywords in feed.batches(count):
        seen.append(record(host, TAPS, keywords))
        cache.write(start, seen[-1])
    return cache, seen


@pytest.mark.parametrize("on_disk", [False, True])
def test_any_rows_come_back_as_they_were(
    host: nn.Module, feed: Feed, tmp_path: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_disk:
        monkeypatch.setattr(module, "MEMORY_SHARE", 0)
    cache, seen = filled(host, feed, tmp_path if on_disk else None)
    assert bool(list(tmp_path.glob("*.bin"))) is on_disk
    found = cache.read("group", [33, 2])
    expected = torch.stack([seen[1]["group"].output[1], seen[0]["group"].output[2]])
    assert found.output.dtype is torch.float32
    torch.testing.assert_close(found.output, expected, rtol=1e-3, atol=1e-3)
    times = torch.stack([seen[1]["group"].kwargs["timestep"][1], seen[0]["group"].kwargs["timestep"][2]])
    assert torch.equal(found.kwargs["timestep"], times)  # one number per example keeps all its digits
    assert found.kwargs["attention_mask"] is None


def test_a_cached_call_replays_the_site(host: nn.Module, feed: Feed) -> None:
    cache, _ = filled(host, feed, None)
    seen = cache.read(TAPS[0].name, [5, 6, 7])
    again = host.get_submodule(TAPS[0].name)(*seen.args, **seen.kwargs)
    torch.testing.assert_close(again, seen.output, rtol=5e-3, atol=5e-3)


def test_a_shared_tensor_is_stored_once() -> None:
    shared = torch.randn(4, 8)
    records = {name: Record((shared,), {"context": shared}, torch.randn(4, 8)) for name in ("a", "b")}
    cache = ActivationCache(4)
    cache.write(0, records)
    assert cache.bytes == 3 * 4 * 8 * 2
    assert torch.equal(cache.read("a", [1]).args[0], cache.read("b", [1]).kwargs["context"])


def test_what_has_no_batch_is_kept_once_and_exactly() -> None:
    table, tokens = torch.randn(1, 5, dtype=torch.float64), torch.randn(4, 5)
    cache = ActivationCache(4)
    cache.write(0, {"a": Record((tokens, table), {}, tokens + 1)})
    assert torch.equal(cache.read("a", [3, 0]).args[1], table)


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.ones(2, 2), torch.float16),
        (torch.full((2, 2), 1e5), torch.bfloat16),
        (torch.ones(2, 2, dtype=torch.bfloat16), torch.bfloat16),
        (torch.ones(2), torch.float32),
        (torch.ones(2, 2, dtype=torch.int64), torch.int64),
    ],
)
def test_values_are_kept_in_sixteen_bits_that_hold_them(tensor: Tensor, dtype: torch.dtype) -> None:
    assert stored_dtype(tensor) is dtype
