"""Parts: what a task teaches. A part is a module of the edited model beside the tap of the host that it imitates.

The sites of a task are paths of the base. One path is a replaced operator: it imitates the module that stood there.
Several are the blocks of a parallel group: the container imitates the sequence, from the input of the first block to
the output of the last, whatever else happened to the blocks in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.host.structure import Port, Streams, inside
from archspec.instructions import Install, Instruction, Relist, added, homes
from archspec.runtime.learn.feed import Feed
from archspec.runtime.learn.taps import Record, Tap
from archspec.runtime.model.grids import share_grid
from archspec.runtime.model.structures import Parallel
from archspec.runtime.operators.base import Operator


@dataclass(frozen=True)
class Part:
    """`paths` are the places of the part in the edited model: several when a repeated block has copies of it."""

    name: str
    paths: tuple[str, ...]
    tap: Tap
    module: nn.Module
    group: bool = False

    @property
    def readouts(self) -> tuple[nn.Linear, ...]:
        """The linear maps at the end: an operator's read-out, a container's merges, one for each stream."""
        if isinstance(self.module, Parallel):
            return tuple(self.module.maps.values())
        return self.module.readouts if isinstance(self.module, Operator) else ()

    def run(self, record: Record) -> Tensor:
        """Return the part's own output, (batch, tokens, width), on the recorded call."""
        return record.tokens(self.module(*record.args, **record.kwargs))

    def split(self, record: Record) -> list[tuple[Tensor, Tensor]]:
        """Return (features, rest) of each read-out, stream by stream: output = readout(features) + rest, whatever the
        read-out is."""
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        handles = [r.register_forward_hook(lambda r, args, y: seen.update({r: (args[0], y)})) for r in self.readouts]
        try:
            output = self.run(record)
        finally:
            for handle in handles:
                handle.remove()
        found = [seen[readout] for readout in self.readouts]
        parts = torch.split(output, [y.shape[1] for _, y in found], dim=1)
        return [(features, part - y) for part, (features, y) in zip(parts, found, strict=True)]

    def baseline(self, record: Record) -> Tensor | float:
        """What an error is relative to, beside the target: a group's error is relative to what the group adds."""
        return record.given if self.group else 0.0


def place_on_grid(parts: Sequence[Part], host: nn.Module, feed: Feed) -> None:
    """Tell parts, which run without their host, of the rows and columns of the feed's examples."""
    _, keywords = next(feed.batches(1))
    share_grid(host, keywords, [part.module for part in parts])


def find_part(model: nn.Module, program: Sequence[Instruction], sites: Sequence[str]) -> Part:
    """Return the part of the edited `model` that a task with these sites teaches."""
    paths = places(program, sites[0]) if len(sites) == 1 else group_places(program, sites)
    try:
        module = model.get_submodule(paths[0])
    except (AttributeError, IndexError) as error:
        hint = "compile the spec again: plan and checkpoint are not of one compilation"
        raise fail("AS725", f"the checkpoint has no part for site '{sites[0]}'", None, hint) from error
    name = "+".join(sites)
    port = next((i.port for i in program if isinstance(i, Install) and [i.path] == list(sites)), Port())
    tap = Tap(name, sites[0], port.exit_of(sites[0]) or sites[-1], _streams(program, sites), port.foreign)
    return Part(name, paths, tap, module, len(sites) > 1)


def _streams(program: Sequence[Instruction], sites: Sequence[str]) -> Streams:
    """Return the streams of a replaced site, or of the list that parallel blocks are of."""
    home = sites[0].rpartition(".")[0] if len(sites) > 1 else None
    return next(
        (
            i.streams if isinstance(i, Relist) else i.port.streams
            for i in program
            if (isinstance(i, Relist) and i.path == home) or (isinstance(i, Install) and [i.path] == list(sites))
        ),
        (),
    )


def places(program: Sequence[Instruction], path: str) -> tuple[str, ...]:
    """Return the paths in the result at which the module at `path` of the base stands with weights of its own."""
    for relist in (i for i in program if isinstance(i, Relist)):
        known = [(place, home) for place, home, _ in added(relist)]
        known += [(f"{relist.path}.{member}", home) for home, member in homes(relist)]
        block = next((place for place, _ in known if inside(path, {place})), None)
        if block is not None:
            return tuple(home + path.removeprefix(block) for place, home in known if place == block)
        if path.startswith(f"{relist.path}."):
            return ()
    return (path,)


def group_places(program: Sequence[Instruction], sites: Sequence[str]) -> tuple[str, ...]:
    """Return the path in the result of the container that runs the blocks `sites` side by side."""
    home = sites[0].rpartition(".")[0]
    members = tuple(int(site.rpartition(".")[2]) for site in sites)
    return tuple(
        f"{relist.path}.{number}"
        for relist in program
        if isinstance(relist, Relist) and relist.path == home
        for number, entry in enumerate(relist.entries)
        if entry.form == "parallel" and entry.members == members
    )
