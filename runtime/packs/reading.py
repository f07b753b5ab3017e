"""`open_pack(path)`: a pack whose differences are decoded one tensor at a time, and checked before anything is decoded.

A hostile header can claim a shape, but not that of a tensor of the base, and the size of every part follows from shape
and parameters: so what decoding takes is bounded by the base's tensor and the file. Whoever decodes without a base goes
by `check_claims` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from archspec.diagnostics import fail
from archspec.host.strict_json import Malformed
from archspec.packs.header import AGAIN, Change, Header, part_name, read_pack
from archspec.packs.terms import Term, matrix_shape
from archspec.runtime.packs.decode import Parts, decode
from archspec.runtime.store.files import hash_file
from archspec.source import Span

LARGEST = 2**31
"""Elements of a tensor that is decoded without a base to compare its shape with."""


@dataclass(frozen=True)
class Pack:
    """A file and its header."""

    path: Path
    header: Header

    @cached_property
    def digest(self) -> str:
        return hash_file(self.path)

    def parts(self, name: str, place: int) -> Parts:
        """Return the parts of a tensor's term."""
        layout = self.change(name).terms[place].layout(matrix_shape(self.change(name).shape))
        with safe_open(self.path, framework="pt") as file:
            return {part: file.get_tensor(part_name(name, place, part)) for part in layout}

    def terms(self, name: str) -> list[tuple[Term, Parts]]:
        return [(term, self.parts(name, place)) for place, term in enumerate(self.change(name).terms)]

    def change(self, name: str) -> Change:
        return self.header.tensors[name]

    def delta(self, name: str) -> Tensor:
        """Return the difference that the pack holds for a tensor, in its shape, float32. AS680 where it decodes to what
        is no number."""
        shape = self.change(name).shape
        found = torch.zeros(matrix_shape(shape))
        for term, parts in self.terms(name):
            try:
                found += decode(term, parts, shape)
            except Malformed as error:
                message = f"the term '{term.op}' of '{name}' in '{self.path.name}' {error}"
                raise fail("AS680", message, None, AGAIN) from error
        return found.reshape(shape)


def open_pack(path: Path | str, span: Span | None = None) -> Pack:
    """Read the header of a pack. AS610 to AS617 where the file is damaged, AS680 where it contradicts itself."""
    return Pack(Path(path), read_pack(Path(path), span)[0])


def check_claims(pack: Pack) -> None:
    """Refuse tensors that are too large to decode without a base that has them."""
    for name, change in pack.header.tensors.items():
        count = torch.Size(change.shape).numel()
        if change.terms and count > LARGEST:
            raise fail("AS680", f"'{pack.path.name}' claims {count} elements for '{name}'", None, AGAIN)
