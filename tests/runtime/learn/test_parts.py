from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from archspec.diagnostics import ArchspecError
from archspec.instructions import Entry, Relist
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.parts import find_part, group_places, places
from archspec.runtime.learn.taps import record
from archspec.semantics.layout import result_paths

B = "transformer_blocks"
RELIST = Relist(
    B,
    5,
    32,
    (
        Entry("copy", (1,)),
        Entry("parallel", (2, 4), "sum"),
        Entry("keep", (1,)),
        Entry("tie", (1,)),
        Entry("keep", (0,)),
    ),
)


@pytest.mark.parametrize("path", [f"{B}.1.attn1", f"{B}.4", f"{B}.0.ff.net.0", "proj_out", f"{B}.3.ff"])
def test_places_are_those_of_the_layout_that_hold_weights(path: str) -> None:
    tied = f"{B}.3"
    expected = [p for p in result_paths((RELIST,), path) if p != tied and not p.startswith(f"{tied}.")]
    assert list(places((RELIST,), path)) == expected


def test_a_group_is_found_by_its_members_alone() -> None:
    assert group_places((RELIST,), (f"{B}.2", f"{B}.4")) == (f"{B}.1",)
    assert group_places((RELIST,), (f"{B}.2", f"{B}.3")) == ()


def test_the_rest_of_a_part_does_not_depend_on_its_readout(
    host: nn.Module, student: Any, parallel: Callable[[str], Relist], feed: Feed
) -> None:
    program = (parallel("residual_linear"),)
    part = find_part(student(program), program, (f"{B}.0", f"{B}.1"))
    seen = record(host, [part.tap], next(iter(feed.batches(4)))[1])[part.name]
    ((_, before),), (readout,) = part.split(seen), part.readouts
    nn.init.normal_(readout.weight)
    ((features, after),) = part.split(seen)
    assert (before - after).abs().max() < 1e-5
    assert (readout(features) + after - part.run(seen)).abs().max() < 1e-5


def test_a_site_that_the_checkpoint_lacks_is_an_error(student: Any, parallel: Callable[[str], Relist]) -> None:
    program = (parallel("sum"),)
    for sites in ((f"{B}.0", f"{B}.2"), (f"{B}.9.attn1",), ("nowhere",)):
        with pytest.raises(ArchspecError) as caught:
            find_part(student(program), program, sites)
        assert caught.value.diagnostics[0].code == "AS725"
