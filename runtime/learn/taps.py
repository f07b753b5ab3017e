"""Taps: what goes into a site of the teacher and what comes out, from one run for many sites.

The inputs of a regression are those of the task itself, z_t, t and the condition (2506.05340, Eq. 2), so the host is
run as the objective feeds it, and hooks note at each site the arguments with which the host's own code called it and
what it returned, before any gate. A tap may span a group of blocks: the call of the first, the result of the last.

A gate is whatever the host multiplies a site's output with: it is seen as that multiplication happens, in a torch
function mode, so no family has to say where its gates are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from archspec.host.structure import Site, Streams
from archspec.runtime.operators.base import stream_of


@dataclass(frozen=True)
class Tap:
    """`first` and `last` are module paths of the host; of a single site they are the same. `streams` and `foreign`: as
    of their ports."""

    name: str
    first: str
    last: str
    streams: Streams = ()
    foreign: int = 0

    @staticmethod
    def at(path: str) -> Tap:
        return Tap(path, path, path)

    @staticmethod
    def of(site: Site) -> Tap:
        return Tap(site.path, site.path, site.paths[-1], site.port.streams, site.port.foreign)


@dataclass
class Record:
    """One call of a tapped piece of the host, on one batch.

    `args` and `kwargs` are as the host passed them; `output` is (batch, tokens, width), of a tuple its first entry; of
    several `streams` that came out, the tokens of one after those of the other. `gate` is broadcastable to `output`,
    None where the host multiplies by nothing; `present` (batch, tokens) says which tokens are no padding, None where
    all are: only those count in fits, losses and errors. `read`: what the last module was given, where that is not
    the first; without the features of others.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    gate: Tensor | None = None
    present: Tensor | None = None
    streams: Streams = ()
    read: Tensor | None = None

    @property
    def given(self) -> Tensor:
        """What went into the streams of `output`, in its form."""
        names = self.streams or (("hidden_states", 0),)
        return _joined([stream_of(place, name, self.args, self.kwargs) for place, (name, _) in enumerate(names)])

    def tokens(self, output: Any) -> Tensor:
        """Return what another module gave on this call, in the form of `output`."""
        return tokens_of(output, self.streams)

    def real(self, tokens: Tensor) -> Tensor:
        """Return those of (batch, tokens, ...) that are no padding: (some, ...), or what was given where all are."""
        return tokens if self.present is None else tokens[self.present]


See = Callable[[str, Record], None]
"""Called with the name of a tap and its record."""


class Stop(Exception):
    """Ends a run of the host once the last tap has been seen."""


def record(
    host: nn.Module, taps: Sequence[Tap], keywords: Mapping[str, Any], *, gates: bool = False, stop: bool = True
) -> dict[str, Record]:
    """Run the host once on `keywords`, without gradients, and return the record of each tap by its name.

    With `stop` the run ends at the last tap; it must not when the host's own answer or a gate of the last is wanted.
    """
    found: dict[str, Record] = {}
    watch(host, taps, keywords, found.__setitem__, gates=gates, stop=stop)
    return found


def watch(
    host: nn.Module,
    taps: Sequence[Tap],
    keywords: Mapping[str, Any],
    see: See,
    *,
    gates: bool = False,
    stop: bool = True,
) -> None:
    """As `record`, but give each record to `see` as soon as it is whole, in the midst of the run, and keep none: what
    must be held at once is one record, however many taps there are. `see` may run modules of the host: no tap
    sees that."""
    run = _Run(see, keywords.get("attention_mask"), len(taps) if stop and not gates else 0)
    products = _Products(run.give) if gates else None
    run.products = products
    with torch.no_grad(), _hooked(host, taps, run.entered, run.left), products or _nothing(), suppress(Stop):
        host(**keywords)
    if products is not None:
        products.flush()


class _Run:
    """One run of the host. It is stopped after `last` records; 0: never."""

    def __init__(self, see: See, mask: Any, last: int) -> None:
        self.see, self.mask, self.last = see, mask, last
        self.products: _Products | None = None
        self.calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.given, self.busy = 0, False

    def entered(self, tap: Tap, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.busy:
            self.calls[tap.name] = (args, dict(kwargs))

    def left(self, tap: Tap, last: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if self.busy:
            return
        args, kwargs = self.calls.pop(tap.name)
        streams = tuple(s for s in tap.streams if s[1] is not None and output[s[1]] is not None)
        tokens = tokens_of(own_part(last, given, output, tap.foreign), streams)
        apart = tap.first != tap.last and given and isinstance(given[0], Tensor)
        read = given[0][..., tap.foreign :] if apart else None
        seen = Record(args, kwargs, tokens, present=presence(self.mask, tokens), streams=streams, read=read)
        if self.products is None:
            self.give(tap.name, seen)
        else:
            self.products.expect(tap.name, seen, parts_of(output, streams))
        if self.given == self.last > 0:
            raise Stop

    def give(self, name: str, seen: Record) -> None:
        self.busy = True
        try:
            self.see(name, seen)
        finally:
            self.busy = False
        self.given += 1


def presence(mask: Any, tokens: Tensor) -> Tensor | None:
    """Return the mask of the host's own texts as booleans, where these tokens are those of the texts."""
    fits = isinstance(mask, Tensor) and mask.shape == tokens.shape[:2]
    return mask.bool() if fits else None


def parts_of(output: Any, streams: Streams) -> list[Tensor]:
    """Return the tokens of each of these streams (index by index) in what a block or operator returned."""
    return [output[index] for _, index in streams] if streams else [first_of(output)]


def own_part(module: Any, given: tuple[Any, ...], output: Any, foreign: int) -> Any:
    """Return what a site adds to the output of its last module, which reads so many `foreign` features before the
    site's."""
    return F.linear(given[0][..., foreign:], module.weight[:, foreign:]) if foreign else output


def tokens_of(output: Any, streams: Streams) -> Tensor:
    """Return the tokens of these streams, joined."""
    return _joined(parts_of(output, streams))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return (batch, tokens, width) sequences one after the other; a single one is itself."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def first_of(output: Any) -> Tensor:
    """Return the tokens of what a block or operator returned."""
    tokens = output[0] if isinstance(output, tuple) else output
    assert isinstance(tokens, Tensor)
    return tokens


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _hooked(host: nn.Module, taps: Sequence[Tap], entered: Any, left: Any) -> Iterator[None]:
    handles = []
    for tap in taps:
        first, last = host.get_submodule(tap.first), host.get_submodule(tap.last)
        handles.append(first.register_forward_pre_hook(lambda _, a, k, tap=tap: entered(tap, a, k), with_kwargs=True))
        handles.append(last.register_forward_hook(lambda m, a, y, tap=tap: left(tap, m, a, y)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Awaited:
    """A record that waits for the gates of its streams. `gates`: those that were seen, by the number of the stream."""

    name: str
    seen: Record
    parts: Sequence[Tensor]
    gates: dict[int, Tensor]

    def record(self) -> Record:
        """Return the record with its gate; of several streams, one for each token."""
        if len(self.parts) == 1:
            self.seen.gate = self.gates.get(0)
        elif self.gates:
            gates = (self.gates.get(n, torch.ones_like(part)) for n, part in enumerate(self.parts))
            self.seen.gate = _joined([g.expand_as(part) for g, part in zip(gates, self.parts, strict=True)])
        return self.seen


class _Products(TorchFunctionMode):
    """Notes the other factor of the first product in which an expected tensor stands, and gives its record on."""

    PRODUCTS = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})

    def __init__(self, give: See) -> None:
        super().__init__()
        self._give = give
        self._expected: dict[int, tuple[_Awaited, int]] = {}

    def expect(self, name: str, seen: Record, parts: Sequence[Tensor]) -> None:
        """Wait for what `parts`, the streams of the record's output, are multiplied with."""
        for part in parts:
            if id(part) in self._expected:
                self._done(self._expected[id(part)][0])
        awaited = _Awaited(name, seen, parts, {})
        self._expected |= {id(part): (awaited, number) for number, part in enumerate(parts)}

    def flush(self) -> None:
        """Give on what was multiplied by nothing."""
        while self._expected:
            self._done(next(iter(self._expected.values()))[0])

    def _done(self, awaited: _Awaited) -> None:
        for part in awaited.parts:
            self._expected.pop(id(part), None)
        self._give(awaited.name, awaited.record())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.PRODUCTS:
            for one, other in ((args[0], args[1]), (args[1], args[0])):
                if id(one) in self._expected and isinstance(other, Tensor):
                    awaited, number = self._expected.pop(id(one))
                    awaited.gates[number] = other
                    if len(awaited.gates) == len(awaited.parts):
                        self._done(awaited)
        return func(*args, **(kwargs or {}))
