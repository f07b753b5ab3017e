"""`inject(model, injection, donors)`: a diffusion host under an injection, for the time of a `with`.

    with inject(pipe.transformer, injection, {"cat": donor}) as run:
        pipe(prompt, ...)

Nothing of the host is changed for good. While it is entered, attention processors of the sites are exchanged; before
each call of the model, rows of the donors are put behind the caller's batch, and what comes out of them is cut off
again. So any sampler and any pipeline runs as it does without, whatever its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from archspec.diagnostics import fail
from archspec.families import family_of
from archspec.injection import Injection
from archspec.runtime.features.apply import copy
from archspec.runtime.features.donors import DonorInput
from archspec.runtime.features.hosts import HOSTS, HostPort
from archspec.runtime.features.rewritten import rewritten
from archspec.runtime.features.session import Session
from archspec.runtime.features.store import Store

SAMPLE, TIME = "hidden_states", "timestep"
Undo = Callable[[], object]


def inject(
    model: nn.Module,
    injection: Injection,
    donors: Mapping[str, DonorInput],
    port: HostPort | None = None,
    **extra: Any,
) -> Injecting:
    """Return the context. `donors`: one for each of the injection's. `port`: how a model of no known family is called;
    it takes `hidden_states` and `timestep`. Further keywords are fields of `Session`.

    AS757 for a host that takes no injection, AS758 for a site that has no attention to graft onto."""
    return Injecting(model, injection, donors, port or port_of(model), **extra)


class Injecting(AbstractContextManager["Injecting"]):
    """See `inject`. `session` tells of the run; `restart()` begins another with the same donors."""

    def __init__(
        self, model: nn.Module, injection: Injection, donors: Mapping[str, DonorInput], port: HostPort, **extra: Any
    ) -> None:
        self.model, self.injection, self.donors, self.port = model, injection, donors, port
        self.sites = sorted({site for graft in injection.grafts for site in graft.sites})
        self.signature = inspect.signature(model.forward)
        masks = {name: donor.mask for name, donor in donors.items() if donor.mask is not None}
        store = Store(injection.cache, wanted(injection))
        self.session = Session(injection, masks, store=store, shared=_shared(donors), **extra)
        self._undo: list[Undo] = []

    def __enter__(self) -> Self:
        installs = [self._install(site) for site in self.sites]
        self.restart()
        self._undo += [install() for install in installs]
        for site in self.sites:
            block = self.model.get_submodule(site.rpartition(".")[0])
            self._undo.append(block.register_forward_pre_hook(self._block(site), with_kwargs=True).remove)
        self._undo.append(self.model.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        self._undo.append(self.model.register_forward_hook(self._after).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()

    def restart(self) -> None:
        """Begin a run: evaluations are counted anew."""
        self.session.restart()

    def _install(self, site: str) -> Callable[[], Undo]:
        """Return what puts a site under the injection, and returns what takes it off again."""
        attention: Any = self.model.get_submodule(site)
        if self.port.processor is None:
            path, _, name = site.rpartition(".")
            put = partial(setattr, self.model.get_submodule(path), name)
            before, after = attention, cast(object, rewritten(attention, self.session, site))
        elif hasattr(attention, "set_processor"):
            put, before = attention.set_processor, attention.processor
            after = self.port.processor(self.session, site, before, self.model)
        else:
            hint = "an operator graft took its attention away; leave this site out of `into`"
            raise fail("AS758", f"there is no attention of the host's at '{site}'", None, hint)

        def install() -> Undo:
            put(after)
            return partial(put, before)

        return install

    def _before(
        self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        """Put the donors' rows behind the caller's."""
        given = dict(self.signature.bind(*args, **keywords).arguments)
        given |= given.pop("kwargs", {})
        batch = len(given[SAMPLE])
        timestep = torch.as_tensor(given[TIME])
        time = float(timestep.flatten()[-1]) / self.port.times
        beside = tuple(dict.fromkeys(self.session.shared.values()))
        if beside and all(self.session.store.has(name, time) for name in beside):
            beside = ()
        grid = self.port.grid(self.model, given)
        self.session.begin(time, grid, batch, beside)
        self.session.places = self.port.places(given)
        self._check_masks(grid)
        for name in beside:
            given = self._with(name, given, time, batch)
        return (), given

    def _with(self, name: str, given: dict[str, Any], time: float, batch: int) -> dict[str, Any]:
        donor = self.donors[name]
        assert donor.latents is not None
        sample: Tensor = given[SAMPLE]
        latents = donor.latents.at(time).to(sample)
        if latents.shape[1:] != sample.shape[1:]:
            message = (
                f"donor '{name}' has latents of shape {tuple(latents.shape[1:])}, the target {tuple(sample.shape[1:])}"
            )
            raise fail("AS755", message, None, "bring the donor's image to the size that is drawn")
        told = torch.as_tensor(given[TIME])
        told = told.expand(len(sample)) if told.ndim == 0 else told
        own = {SAMPLE: latents, TIME: told.new_full((1,), donor.latents.time(time) * self.port.times)} | dict(
            donor.condition
        )
        return {key: self._row(name, key, value, own.get(key), batch) for key, value in (given | {TIME: told}).items()}

    def _row(self, name: str, key: str, value: Any, own: Tensor | None, batch: int) -> Any:
        """Return a keyword with the donor's row behind its others; without one of its own, the last target's."""
        if isinstance(value, dict):
            return {inner: self._row(name, inner, item, None, batch) for inner, item in value.items()}
        if key in self.port.unbatched or not isinstance(value, Tensor) or value.ndim == 0 or len(value) < batch:
            return value
        row = value[batch - 1 : batch] if own is None else own.to(value)
        if row.shape[1:] != value.shape[1:]:
            message = f"donor '{name}' has '{key}' of shape {tuple(row.shape[1:])}, the target {tuple(value.shape[1:])}"
            raise fail("AS755", message, None, "encode both prompts to one length")
        return torch.cat([value, row])

    def _check_masks(self, grid: tuple[int, int]) -> None:
        named = [(f"donor '{name}'", mask) for name, mask in self.session.masks.items()]
        named += [("the target", self.session.target_mask)] if self.session.target_mask is not None else []
        for name, mask in named:
            if mask.numel() != grid[0] * grid[1]:
                message = f"the mask of {name} has {mask.numel()} tokens, the image {grid[0]} x {grid[1]}"
                raise fail("AS754", message, None, "make it of the same size as what is drawn")

    def _after(self, _: nn.Module, args: Any, answer: Any) -> Any:
        """Cut the donors' rows off."""
        session = self.session
        for name in session.beside:
            session.store.finish(name, session.time)
        if not session.beside:
            return answer
        if isinstance(answer, tuple):
            return tuple(part[: session.batch] if isinstance(part, Tensor) else part for part in answer)
        answer.sample = answer.sample[: session.batch]
        return answer

    def _block(self, site: str) -> Any:
        def before(
            _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if SAMPLE in keywords:
                return args, keywords | {SAMPLE: copy(site, keywords[SAMPLE], self.session)}
            return (copy(site, args[0], self.session), *args[1:]), keywords

        return before


def _shared(donors: Mapping[str, DonorInput]) -> dict[str, str]:
    """Return donor -> the first one of the same latents and condition: they are one row."""
    first: dict[tuple[int, int], str] = {}
    beside = {name: donor for name, donor in donors.items() if donor.latents is not None}
    return {name: first.setdefault((id(donor.latents), id(donor.condition)), name) for name, donor in beside.items()}


def port_of(model: nn.Module) -> HostPort:
    """Return how the host is called. AS757 for one that takes no injection."""
    config: Any = getattr(model, "config", {})
    name = type(model).__name__.removeprefix("Grafted")
    family = family_of(dict(config) | {"_class_name": name}) if isinstance(config, Mapping) else None
    port = HOSTS.get(family.name) if family else None
    if port is None:
        raise fail(
            "AS757",
            f"{name} takes no injection",
            None,
            f"families that do: {', '.join(HOSTS)}; of decoders `inject_text`",
        )
    return port


def wanted(injection: Injection) -> frozenset[str]:
    """Return the tensors of `Tokens` that grafts read of donors."""
    taps = {"attn_input": "feature", "block_input": "block"}
    found = {taps.get(graft.match.tap, graft.match.tap) for graft in injection.grafts if graft.match}
    reads = {"append": {"k", "v"}, "replace": {"k", "v"}, "adain": {"q", "k"}, "blend": {"out"}, "copy": {"block"}}
    return frozenset(found.union(*(reads[graft.op] for graft in injection.grafts)))
