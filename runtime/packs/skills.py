"""`skills(model, *packs)`: packs on a loaded model, for the time of a `with`.

    with archspec.skills(model, "sql.skillpack.safetensors", scale=1.0):
        model(...)

Two modes. `weights`: tensors are exchanged for base + scale x difference, computed once in float32; leaving puts the
base's own tensors back, the very same memory, so that it is restored bit by bit. `branch`: a linear map whose
difference is of low rank or coded gets y = W x + scale (U (S (V^T x)) + C x) beside it, from the terms as the pack
holds them, and no dense difference is made (`branch.py`); whatever else a pack changes (norms, biases, embeddings,
other forms) is exchanged as in `weights`. Which of the two is chosen for each tensor by its terms.

What is entered can be entered again: the exchanged tensors and factors are kept until the object goes, so switching
costs neither decoding nor copying. Several packs at once are given to one `skills`, not nested. A model that packs are
on may run; training it is not foreseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import torch
import xxhash
from torch import Tensor, nn

from archspec.diagnostics import Collector, fail
from archspec.packs.terms import LARGEST_SCALE, matrix_shape
from archspec.runtime.model.linear import is_turned
from archspec.runtime.packs.attach import Use, added
from archspec.runtime.packs.branch import Branch, Used, branch, can_branch
from archspec.runtime.packs.check import origin
from archspec.runtime.packs.reading import Pack, open_pack
from archspec.runtime.store.checkpoint import DTYPES

Mode = Literal["weights", "branch"]


class Skills(AbstractContextManager["Skills"]):
    """Packs on a model while it is entered. Not reentrant."""

    def __init__(self, model: nn.Module, uses: tuple[Use, ...], mode: Mode) -> None:
        self.model, self.uses, self.mode = model, uses, mode
        self._names = {use.pack.path: names_in(model, use.pack.header.tensors) for use in uses}
        self._exchanged: dict[str, Tensor] = {}
        self._branches: dict[str, Branch] = {}
        self._base: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._places: dict[str, tuple[int, int]] = {}
        """Where the base's tensors lay, and how often they had been written to, when it was checked."""

    @property
    def is_on(self) -> bool:
        return bool(self._base or self._hooks)

    def __enter__(self) -> Self:
        if self.is_on:
            raise RuntimeError("these packs are on the model already")
        self.prepare()
        tensors = tensors_of(self.model)
        for name, value in self._exchanged.items():
            self._base[name], tensors[name].data = tensors[name].data, value
        for path, beside in self._branches.items():
            self._hooks.append(self.model.get_submodule(path).register_forward_hook(beside))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tensors = tensors_of(self.model)
        for name, value in self._base.items():
            tensors[name].data = value
        for hook in self._hooks:
            hook.remove()
        self._base.clear()
        self._hooks.clear()

    def prepare(self) -> None:
        """Do what the first entry would: check the base, and make what is exchanged and what is added. Done again for a
        model whose tensors lie elsewhere or were written to: it was moved or loaded anew, or other packs are on it
        (which is refused: a sum is not what was asked for)."""
        tensors = tensors_of(self.model)
        if self._places and {name: _place(tensors[name]) for name in self._places} == self._places:
            return
        problems = Collector()
        for use in self.uses:
            _check(use.pack, self._names[use.pack.path], tensors, problems)
        problems.raise_if_errors()
        self._exchanged.clear()
        self._branches.clear()
        for name, uses in self._touched().items():
            tensor = tensors[name]
            path = name.removesuffix(".weight")
            if self.mode == "branch" and self._can_branch(name, uses):
                shape = matrix_shape(tuple(tensor.shape))
                beside = branch(_used(uses), shape, tensor, is_turned(self.model.get_submodule(path)))
                if beside.is_finite:
                    self._branches[path] = beside
                    continue  # else it is told by name below, as of what is exchanged
            deltas = ((use.scale, use.pack.delta(own)) for use, own in uses)
            self._exchanged[name] = added(tensor.detach(), deltas, name)
        self._places = {name: _place(tensors[name]) for name in self._touched()}

    def _touched(self) -> dict[str, list[tuple[Use, str]]]:
        """Return tensor of the model -> the packs that change it, with its name in each."""
        found: dict[str, list[tuple[Use, str]]] = {}
        for use in self.uses:
            for own, name in self._names[use.pack.path].items():
                if name is not None and use.touches(own):
                    found.setdefault(name, []).append((use, own))
        return found

    def _can_branch(self, name: str, uses: list[tuple[Use, str]]) -> bool:
        path, _, part = name.rpartition(".")
        module = self.model.get_submodule(path)
        if part != "weight" or not (type(module) is nn.Linear or is_turned(module)):
            return False  # what inherits from nn.Linear may be called otherwise, or not at all
        return can_branch((t for use, own in uses for t in use.pack.change(own).terms), is_turned(module))


def skills(model: nn.Module, *packs: str | Path | Pack, scale: float = 1.0, mode: Mode = "weights") -> Skills:
    """Return a context in which packs are on a model; of several the differences add up.

    AS680 for a file that is no sound pack, AS681 (when it is entered first) for a model that is not the packs' base.
    Digests can be compared in the data type that the base is stored in: load the model in that. AS143 for a scale that
    float32 cannot hold or that is no number, ValueError for another mode."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode {mode!r}: write one of {get_args(Mode)}")
    factor = _factor(scale)
    opened = tuple(pack if isinstance(pack, Pack) else open_pack(pack) for pack in packs)
    return Skills(model, tuple(Use(pack, factor) for pack in opened), mode)


def _factor(scale: Any) -> float:
    is_number = isinstance(scale, Real) and not isinstance(scale, bool)
    if not is_number or not abs(scale) <= LARGEST_SCALE:
        bounds = f"a number from {-LARGEST_SCALE:g} to {LARGEST_SCALE:g}"
        raise fail("AS143", f"'scale' is {scale!r}, but must be {bounds}", None, "write `scale=1.0` for the whole pack")
    return float(scale)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


def _place(tensor: Tensor) -> tuple[int, int]:
    """Return where a tensor lies, and how often it was written to (of one of `inference_mode` nobody counts it)."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def names_in(model: nn.Module, names: Iterable[str]) -> dict[str, str | None]:
    """Return tensor of a checkpoint -> its name in the model, None where there is none. A model may stand under a head,
    or have lost one: transformers' `base_model_prefix` comes or goes then, as in `from_pretrained`."""
    tensors = tensors_of(model)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, str | None] = {}
    for name in names:
        ways = (name, f"{prefix}{name}", name.removeprefix(prefix))
        found[name] = next((way for way in ways if way in tensors), None)
    return found


def _check(pack: Pack, names: Mapping[str, str | None], tensors: Mapping[str, Tensor], problems: Collector) -> None:
    wrong = list(_differences(pack, names, tensors))
    headless = len(wrong) == list(names.values()).count(None) < len(names)
    load = f"load it as {pack.header.base.get('architecture', 'the class of the base')}, with all that the pack changes"
    hint = load if headless else origin(pack.header.base)
    what = f"'{pack.path.name}' " + ("does not fit this model" if headless else "is of another base")
    problems.report_few("AS681", (f"{what}: {message}" for message in wrong), "tensors", None, hint)


def _differences(pack: Pack, names: Mapping[str, str | None], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for own, name in names.items():
        change = pack.change(own)
        if name is None:
            yield f"the model has no '{own}'"
            continue
        tensor = tensors[name].detach()
        if (tuple(tensor.shape), tensor.dtype) != (change.shape, DTYPES.get(change.dtype)):
            yield f"'{name}' is {tensor.dtype} {tuple(tensor.shape)}, it wants {change.dtype} {change.shape}"
        elif digest_of(tensor) != change.digest:
            yield f"'{name}' has other values"


def digest_of(tensor: Tensor) -> str:
    """Return the XXH3-128 of a tensor's data, hexadecimal."""
    data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return str(xxhash.xxh3_128_hexdigest(memoryview(data)))  # type: ignore[arg-type]


def _used(uses: list[tuple[Use, str]]) -> Iterator[Used]:
    return ((use.scale, term, parts) for use, own in uses for term, parts in use.pack.terms(own))
