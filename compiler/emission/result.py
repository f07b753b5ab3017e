"""What a result is made of, before any byte is written: its tensors, its config, the other files around it.

result_pieces(program, structure)    every tensor with dtype, shape, and where its bytes are
result_config(program, structure)    config.json of the grafted class
side_files(folder)                   what else of a model folder goes along (tokenizer, licence), never code
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archspec.host.headers import PICKLES
from archspec.host.structure import Structure, TensorHeader
from archspec.instructions import Instruction, Relist, TensorSource
from archspec.runtime.model.program import KEY, MODEL_TYPE, PREFIX, Graft
from archspec.runtime.packs.attach import RECORD
from archspec.runtime.store.checkpoint import Piece
from archspec.semantics.layout import tensor_sources

TRAINABLE = ("F64", "F32", "BF16", "F16")
"""Dtypes that new tensors may have."""
DRAWN = "drawn.json"
"""What a base says of its random weights."""
OWN = frozenset({"config.json", "README.md", "archspec.lock.json", "plan.json", ".archspec", RECORD, DRAWN})
"""Files that a compile writes itself, and records of how the base was made (packs, random weights), which are its."""
NOT_TAKEN = (".safetensors", ".index.json", *PICKLES, ".h5", ".msgpack", ".onnx", ".gguf", ".py", ".pyc")
"""Other forms of the weights, which the edit makes wrong, and code."""


def result_pieces(program: tuple[Instruction, ...], structure: Structure) -> list[Piece]:
    """Return the tensors of the result. New ones have the dtype, and go to the file, of what they stand in for."""
    base = structure.tensors or {}
    near = _Neighbours(program, base)
    pieces = []
    for name, source in tensor_sources(program, structure).items():
        header = base[source.base] if source.base else None
        if header is not None:
            pieces.append(Piece(name, header.dtype, header.shape, header))
        else:
            dtype, file = near.of(source)
            pieces.append(Piece(name, dtype, source.shape or (), None, file))
    return pieces


class _Neighbours:
    """Dtype and file of the base's tensors at a site."""

    def __init__(self, program: tuple[Instruction, ...], base: Mapping[str, TensorHeader]) -> None:
        self._base = base
        self._lists = {i.path: i for i in program if isinstance(i, Relist)}
        self._known: dict[str, tuple[str, str | None]] = {}

    def of(self, source: TensorSource) -> tuple[str, str | None]:
        """Return (dtype, file) for a new tensor."""
        path = source.site or ""
        if path in self._lists:
            entry = self._lists[path].entries[int(source.local.partition(".")[0])]
            path = f"{path}.{entry.members[0]}"
        if path not in self._known:
            self._known[path] = self._look(path)
        return self._known[path]

    def _look(self, path: str) -> tuple[str, str | None]:
        """Look at the tensors within the module at `path`, then within what holds it."""
        while path:
            headers = [h for name, h in self._base.items() if name.startswith(f"{path}.")]
            dtypes = Counter(h.dtype for h in headers if h.dtype in TRAINABLE)
            if dtypes:
                return dtypes.most_common(1)[0][0], headers[0].file
            path = path.rpartition(".")[0]
        return "F32", None


def result_config(program: tuple[Instruction, ...], structure: Structure) -> dict[str, Any]:
    """Return the config of the result: the base's, with the grafted class's name and the entry `archspec`."""
    name, config = structure.architecture, dict(structure.config)
    if structure.library == "diffusers":
        return {**config, "_class_name": PREFIX + name, KEY: Graft(name, program).to_json()}
    before, after = _runtime_configs(program, structure)
    changed = sorted(key for key in after if key in before and after[key] != before[key])
    graft = Graft(name, program, config["model_type"], {key: before[key] for key in changed})
    own = {"architectures": [PREFIX + name], "model_type": MODEL_TYPE, KEY: graft.to_json()}
    return {**config, **{key: after[key] for key in changed}, **own}


def _runtime_configs(program: tuple[Instruction, ...], structure: Structure) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the host's config as transformers completes it, before and after the program (which changes the depth)."""
    if not any(isinstance(i, Relist) for i in program):
        return {}, {}
    from archspec.runtime.model.apply import apply
    from archspec.runtime.model.hosts import build

    model: Any = build(structure.config, structure.library, structure.architecture, "meta")
    before = model.config.to_dict()
    apply(model, program)
    return before, model.config.to_dict()


def side_files(folder: Path) -> Iterator[Path]:
    """Yield the plain files of a model folder that go along unchanged, in the order of their names."""
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if path.is_file() and not hidden and path.name not in OWN and not path.name.lower().endswith(NOT_TAKEN):
            yield path
