"""The activation cache: what a wave of taps saw, one flat array per distinct tensor.

A tensor that several sites share (the timestep, the condition) is stored once. Arrays live in memory while they fit
in a share of what is free, else in files that are mapped, so that a batch of any examples in any order is one gather.
Floating tensors are kept in 16 bits: float16, or bfloat16 where a value would overflow; they come back in the dtype
they had. An `exact` cache keeps all as they are. What a last module read (`Record.read`) is not kept. A tensor
whose first size is not the batch's (rotary tables, position masks) is taken to be the same for every batch.

What was seen at one site can leave a cache as plain data and tensors (`packed`) and enter another (`unpack`): it is the
same whatever other sites were watched in the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from archspec.runtime.learn.taps import Record
from archspec.runtime.store.files import reserve, writing

MEMORY_SHARE = 0.25
"""Part of the free memory that a cache may take before it goes to disk."""
HALF_MAX = torch.finfo(torch.float16).max / 4
"""Values of the first batch above this choose bfloat16 for their tensor."""


@dataclass
class _Array:
    """The values of one tensor over all examples, or one constant."""

    values: Tensor
    dtype: torch.dtype
    constant: bool

    def write(self, start: int, tensor: Tensor) -> None:
        if not self.constant:
            self.values[start : start + len(tensor)] = tensor.to(self.values.dtype)

    def read(self, rows: Tensor, device: torch.device) -> Tensor:
        found = self.values if self.constant else self.values[rows]
        return found.to(device).to(self.dtype)


@dataclass
class _Site:
    """How one record is put together again: a tree whose leaves are numbers of arrays, or plain values."""

    tree: Any
    leaves: list[Any]


@dataclass(frozen=True)
class _Slot:
    array: int


class ActivationCache:
    """Records of `count` examples. `folder` is where arrays go that do not fit in memory (None: memory only)."""

    def __init__(self, count: int, folder: Path | None = None, *, exact: bool = False) -> None:
        self.count, self.folder, self.exact = count, folder, exact
        self._arrays: list[_Array] = []
        self._sites: dict[str, _Site] = {}
        self._free = MEMORY_SHARE * free_memory()

    def write(self, start: int, records: Mapping[str, Record]) -> None:
        """Store the records of the examples from number `start` on; the first batch decides the layout."""
        seen: dict[int, int] = {}
        for name, record in records.items():
            leaves, tree = pytree.tree_flatten(tuple(vars(replace(record, read=None)).values()))
            if name not in self._sites:
                self._sites[name] = self._layout(leaves, tree, len(record.output), seen)
            for leaf, slot in zip(leaves, self._sites[name].leaves, strict=True):
                if isinstance(slot, _Slot):
                    self._arrays[slot.array].write(start, leaf)

    def _layout(self, leaves: Sequence[Any], tree: Any, batch: int, seen: dict[int, int]) -> _Site:
        slots: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor) and id(leaf) not in seen:
                seen[id(leaf)] = len(self._arrays)
                self._arrays.append(self._array(leaf, batch))
            slots.append(_Slot(seen[id(leaf)]) if isinstance(leaf, Tensor) else leaf)
        return _Site(tree, slots)

    def _array(self, tensor: Tensor, batch: int) -> _Array:
        if tensor.ndim == 0 or len(tensor) != batch:
            return _Array(tensor.detach().clone(), tensor.dtype, constant=True)
        shape = (self.count, *tensor.shape[1:])
        dtype = tensor.dtype if self.exact else stored_dtype(tensor)
        return _Array(self._room(shape, dtype), tensor.dtype, constant=False)

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel()
        needed = size * dtype.itemsize
        if self.folder is None or needed <= self._free:
            self._free -= needed
            return torch.empty(shape, dtype=dtype)
        path = self.folder / f"{len(self._arrays):05d}.bin"
        with writing(path), path.open("wb") as file:
            reserve(file.fileno(), needed)
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)

    def read(self, name: str, rows: Sequence[int], device: torch.device | str = "cpu") -> Record:
        """Return the record of site `name` for the examples `rows`, in that order."""
        site, index = self._sites[name], torch.as_tensor(rows)
        place = torch.device(device)
        leaves = [self._arrays[s.array].read(index, place) if isinstance(s, _Slot) else s for s in site.leaves]
        return Record(*pytree.tree_unflatten(leaves, site.tree))

    def packed(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return a site as plain data and the tensors that this names; None where a call has arguments that are
        neither."""
        site, tensors = self._sites[name], dict[str, Tensor]()
        leaves: list[Any] = []
        for leaf in site.leaves:
            if isinstance(leaf, _Slot):
                array = self._arrays[leaf.array]
                tensors[str(leaf.array)] = array.values
                leaves.append([leaf.array, str(array.dtype).removeprefix("torch."), array.constant])
            elif leaf is None or isinstance(leaf, bool | int | float | str):
                leaves.append({"is": leaf})
            else:
                return None
        try:
            return {"count": self.count, "tree": pytree.treespec_dumps(site.tree), "leaves": leaves}, tensors
        except NotImplementedError:  # a container of the host's own
            return None

    def unpack(self, name: str, layout: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take in a site that was packed; of another number of examples it is no use. ValueError."""
        if layout["count"] != self.count:
            raise ValueError(f"{layout['count']} examples, not {self.count}")
        numbers, leaves = dict[int, int](), list[Any]()
        for leaf in layout["leaves"]:
            if isinstance(leaf, dict):
                leaves.append(leaf["is"])
                continue
            number, dtype, constant = leaf
            if number not in numbers:
                numbers[number] = len(self._arrays)
                self._arrays.append(_Array(tensors[str(number)], getattr(torch, dtype), constant))
            leaves.append(_Slot(numbers[number]))
        self._sites[name] = _Site(pytree.treespec_loads(layout["tree"]), leaves)

    @property
    def bytes(self) -> int:
        """Bytes held at present, in memory and on disk."""
        return sum(a.values.numel() * a.values.dtype.itemsize for a in self._arrays)


def stored_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which a cache keeps `tensor`."""
    if not tensor.is_floating_point() or tensor.ndim == 1:  # one number per example: times want their digits
        return tensor.dtype
    large = tensor.numel() > 0 and bool((tensor.abs() > HALF_MAX).any())
    return torch.bfloat16 if large or tensor.dtype is torch.bfloat16 else torch.float16


def free_memory() -> int:
    """Return bytes of memory that are free at present, as far as the system tells."""
    return int(os.sysconf("SC_AVPHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))
