"""Excerpts: as data and back, their shapes, and what they take of fused projections of several makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archspec.families.base import teachers
from archspec.host.excerpt import Excerpt
from archspec.runtime.model.excerpts import taken

WIDTH, HEADS, SIZE = 6, 3, 2
MAPS = {name: torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("qkv")}
ONE_BEHIND_THE_OTHER = torch.cat(list(MAPS.values()))
HEAD_BY_HEAD = torch.stack([m.view(HEADS, SIZE, WIDTH) for m in MAPS.values()], 1).flatten(0, 2)


@pytest.mark.parametrize("place", range(3))
def test_fused_projections(place: int) -> None:
    wanted = MAPS["qkv"[place]]
    rows = Excerpt("qkv", start=place * WIDTH, stop=(place + 1) * WIDTH)
    turns = Excerpt("qkv", start=place * SIZE, stop=(place + 1) * SIZE, groups=HEADS)
    columns = Excerpt("qkv", start=place * WIDTH, stop=(place + 1) * WIDTH, transposed=True)
    out = Excerpt("qkv", axis=1, start=place * WIDTH, stop=(place + 1) * WIDTH)
    for excerpt, tensor in (
        (rows, ONE_BEHIND_THE_OTHER),
        (turns, HEAD_BY_HEAD),
        (columns, ONE_BEHIND_THE_OTHER.T),
        (out, torch.cat(list(MAPS.values()), 1)),
    ):
        assert torch.equal(taken(excerpt, tensor), wanted)
        assert excerpt.shape(tuple(tensor.shape)) == tuple(wanted.shape)
        assert Excerpt.from_json(excerpt.to_json()) == excerpt


def test_a_bias_has_the_outputs_alone() -> None:
    tensors = {
        "a.qkv.weight": (WIDTH, 3 * WIDTH),
        "a.qkv.bias": (3 * WIDTH,),
        "a.out.weight": (2, 4),
        "a.out.bias": (2,),
    }
    names = {"k": Excerpt("qkv", start=6, stop=12, transposed=True, scale=0.5), "o": Excerpt("out", axis=1, stop=2)}
    found = teachers("a", names, tensors)
    assert {role: weight.shape(tensors[weight.tensor]) for role, weight in found.items()} == {
        "k.weight": (6, 6),
        "k.bias": (6,),
        "o.weight": (2, 2),
        "o.bias": (2,),
    }
    bias = torch.arange(18.0)
    assert torch.equal(taken(found["k.bias"], bias), bias[6:12] / 2)


def test_a_whole_tensor_is_its_name() -> None:
    assert Excerpt("a.weight").to_json() == "a.weight"
    assert Excerpt("a.weight", transposed=True).to_json() == {"tensor": "a.weight", "transposed": True}
    whole = torch.ones(2, 3)
    assert taken(Excerpt("a"), whole) is whole


@pytest.mark.parametrize(
    "data",
    [3, None, {}, {"tensor": 3}, {"tensor": "a", "rows": 3}, {"tensor": "a", "axis": 2}, {"tensor": "a", "groups": 0}]
    + [{"tensor": "a", "start": -1}, {"tensor": "a", "start": True}, {"tensor": "a", "stop": "3"}],
)
def test_malformed_data_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"tensor|excerpt"):
        Excerpt.from_json(data)
