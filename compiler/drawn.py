"""`weights: random` of a spec: its base with weights drawn anew, as a checkpoint of its own, before anything reads it.

What the host's own class does when it is built from a config is what counts as random: diffusers' constructors,
transformers' `_init_weights`. The draw depends on the seed alone (and on the versions of the libraries), so compiling
again gives the same bytes, and tasks are found again by the fingerprint of what was drawn. The checkpoint stands beside
the result, as NAME.base, and says itself (drawn.json) what it is. Without a `teacher` it is what results are measured
beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_model

from archspec.compiler.attached import beside, made_base
from archspec.compiler.capture.infer import complete
from archspec.compiler.emission.emit import copy_rest, read_content
from archspec.compiler.emission.result import DRAWN, side_files
from archspec.host.headers import STEMS
from archspec.host.locate import (
    CONFIG,
    PIPELINE,
    Located,
    check_teacher,
    find_teacher,
    folder_of,
    locate,
    structure_of,
)
from archspec.host.strict_json import read_json
from archspec.host.structure import Structure
from archspec.language.spec import Base, Spec
from archspec.runtime.model.hosts import build
from archspec.runtime.model.initialize import path_seed
from archspec.runtime.store.files import check_replaceable, copy_file, publish


@dataclass(frozen=True)
class Teacher:
    """The trained model that stands for a base of random weights where something is imitated or compared."""

    base: Base
    located: Located
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return what the lock says of it."""
        return {"from": self.base.teacher, "subfolder": self.base.subfolder, "fingerprint": self.fingerprint}


def named_teacher(spec: Spec, near: Path, structure: Structure, whole: bool) -> Teacher | None:
    """Find and read the teacher that a base of random weights names. `whole`: AS658 where it has no weights."""
    located = find_teacher(spec.base, near)
    if located is None or spec.base is None:
        return None
    found = complete(structure_of(located))
    check_teacher(spec.base, found, structure, whole)
    return Teacher(spec.base, located, read_content(found).fingerprint)


@contextmanager
def with_weights(spec: Spec, near: Path, target: Path) -> Iterator[Located | None]:
    """Give where the drawn base of a spec is, written beside `target`; None where its base has weights of its own. When
    what follows fails, a base that was not there before goes again."""
    if spec.base is None or spec.base.weights != "random":
        yield None
        return
    located = locate(spec.base, near)
    folder_of(located)
    with made_base(target) as out:
        check_replaceable(out, DRAWN, "base of random weights")
        draw(spec.base, located, out)
        subfolder = spec.base.subfolder if located.pipeline else None
        home = out / subfolder if subfolder else out
        pipeline = out if subfolder else None
        yield replace(located, folder=home, pipeline=pipeline, file=None, random=False, name=beside(near, out))


def draw(base: Base, located: Located, out: Path) -> None:
    """Write the base with random weights to the folder `out`, in the form (model or pipeline) of `located`."""
    structure, source = structure_of(located), folder_of(located)
    with publish(out) as folder:
        model = folder
        if located.pipeline and base.subfolder:
            copy_file(located.pipeline / PIPELINE, folder / PIPELINE)
            copy_rest(
                located.pipeline, folder, read_json(located.pipeline / PIPELINE, "AS601"), base.subfolder, link=True
            )
            model = folder / base.subfolder
        _write(drawn(structure, base.seed), structure.library, source, model)
        (folder / DRAWN).write_text(json.dumps(_record(structure, base.seed), indent=1) + "\n", "utf-8")


def drawn(structure: Structure, seed: int) -> Any:
    """Return the host with weights that its class draws, float32 on the CPU; torch's global state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(path_seed(seed, "base"))
        return build(structure.config, structure.library, structure.architecture, "cpu")


def _write(model: Any, library: str, source: Path, folder: Path) -> None:
    """Save the weights under the names that the class has for them (transformers' own saving may choose former ones),
    and beside them the other files of the base as they are."""
    folder.mkdir(exist_ok=True)
    stem = STEMS[1] if library == "diffusers" else STEMS[0]
    tied = list(getattr(model, "all_tied_weights_keys", None) or ())
    save_torch_model(model, folder, filename_pattern=f"{stem}{{suffix}}.safetensors", shared_tensors_to_discard=tied)
    for path in (source / CONFIG, *side_files(source)):
        copy_file(path, folder / path.name)


def _record(structure: Structure, seed: int) -> dict[str, Any]:
    libraries = {name: version(name) for name in ("torch", structure.library)}
    return {"format": 1, "architecture": structure.architecture, "seed": seed, "libraries": libraries}
