"""`archspec.load(folder)`: a compiled checkpoint as a module, strictly.

The host is built without memory from its config, the instructions are executed on it, and the tensors of the files
are put in as mappings of the files: nothing is read before it is used, and nothing is converted unless `dtype` asks
for it. Whatever is missing, unexpected or of another shape is an error before any weight is touched. No code of a
checkpoint runs: classes are looked up by name in diffusers and transformers, operators in archspec's own table.

The result is an instance of `Grafted<HostClass>` in evaluation mode, so `save_pretrained` and everything else of the
host's library work on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from archspec.diagnostics import Collector, fail
from archspec.host.headers import read_folder
from archspec.host.strict_json import read_json
from archspec.host.structure import TensorHeader
from archspec.runtime.ecosystem.interop import grafted_class
from archspec.runtime.model.program import KEY, read_graft
from archspec.runtime.store.checkpoint import DTYPES, live
from archspec.runtime.store.lock import is_compiled, read_lock


def load(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    subfolder: str | None = None,
) -> nn.Module:
    """Return the model of a compiled checkpoint. `dtype`: of floating weights, by default as they are stored.

    Of a pipeline, the edited component is loaded; `subfolder` is needed only where no lock says which that is.
    """
    root = model_folder(Path(folder), subfolder)
    config = read_json(root / "config.json", "AS602")
    if KEY not in config:
        hint = "it is a plain model: load it with its own library"
        raise fail("AS640", f"'{root}' is not a compiled checkpoint: its config has no '{KEY}' entry", None, hint)
    headers = live(root, read_folder(root))
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype or stored(headers)):
        model = build_compiled(config)
    _check(model, headers, root)
    _fill(model, headers, device, dtype)
    _finish(model, root)
    return model.to(device).eval()


def model_folder(folder: Path, subfolder: str | None = None) -> Path:
    """Return the folder of the model in a checkpoint: itself, or the edited component of a pipeline."""
    if subfolder is None and is_compiled(folder):
        subfolder = read_lock(folder).subfolder
    return folder / subfolder if subfolder else folder


def build_compiled(config: Mapping[str, Any]) -> nn.Module:
    """Return the edited model of a compiled config: parameters without memory, buffers real."""
    from accelerate import init_empty_weights

    graft = read_graft(config[KEY])
    library = "transformers" if graft.model_type else "diffusers"
    cls = grafted_class(library, graft.architecture)
    with init_empty_weights(include_buffers=False):
        if library == "diffusers":
            return cls.from_config(dict(config))  # type: ignore[no-any-return]
        return cls(cls.config_class.from_dict(dict(config)))  # type: ignore[no-any-return]


def stored(headers: Mapping[str, TensorHeader]) -> torch.dtype:
    """Return the dtype of most floating elements."""
    counts: dict[torch.dtype, int] = {}
    for header in headers.values():
        found = DTYPES.get(header.dtype)
        if found in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            counts[found] = counts.get(found, 0) + header.count
    return max(counts, key=counts.__getitem__, default=torch.float32)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let the host compute its tables in the dtype that its library would."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype.is_floating_point and dtype.itemsize > 1 else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _tied(model: nn.Module) -> Mapping[str, str]:
    """Return transformers' own ties (output embedding to input embedding): tensor to the one it equals."""
    found: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return found


def _check(model: nn.Module, headers: Mapping[str, TensorHeader], root: Path) -> None:
    """Names and shapes must agree before any weight is touched."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = Collector()
    for name in sorted(wanted.keys() - headers.keys() - _tied(model).keys()):
        problems.report("AS644", f"tensor '{name}' is missing in '{root}'")
    for name in sorted(headers.keys() - wanted.keys()):
        problems.report("AS644", f"tensor '{name}' in '{root}' is not part of {type(model).__name__}")
    for name in sorted(wanted.keys() & headers.keys()):
        if wanted[name] != headers[name].shape:
            shapes = f"{headers[name].shape} in '{root}', {wanted[name]} in {type(model).__name__}"
            problems.report("AS644", f"tensor '{name}' has shape {shapes}")
    problems.raise_if_errors()


def _fill(
    model: nn.Module, headers: Mapping[str, TensorHeader], device: str | torch.device, dtype: torch.dtype | None
) -> None:
    """Put the tensors of the files in place of the empty ones, file by file."""
    for file in sorted({header.file for header in headers.values()}):
        names = [name for name, header in headers.items() if header.file == file]
        model.load_state_dict(dict(_tensors(file, names, device, dtype)), strict=False, assign=True)


def _tensors(
    file: str, names: list[str], device: str | torch.device, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt", device=str(device)) as weights:
        for name in names:
            tensor: Tensor = weights.get_tensor(name)
            yield name, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


def _finish(model: nn.Module, root: Path) -> None:
    """Do what the library's own loading does behind the weights."""
    found: Any = model
    if _tied(model):
        found.tie_weights()
    if getattr(found, "generation_config", None) is not None and (root / "generation_config.json").is_file():
        from transformers import GenerationConfig

        found.generation_config = GenerationConfig.from_pretrained(root)
    if hasattr(found, "register_to_config"):
        found.register_to_config(_name_or_path=str(root))
