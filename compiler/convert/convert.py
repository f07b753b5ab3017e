"""A published file to a folder of ours: a plain diffusers model, or, where it is grafted, a compiled checkpoint.

The grafted one is compiled like any other: the tensors that belong to no graft are laid out as a base, the modules'
as an artifact, and a spec that replaces their sites is resolved, proved, priced and emitted on top. So what is written
has its lock, and its program was proved on the captured graph. The base of the lock is named, not known: published
files hold finetuned weights, and nothing of the model that they began from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from archspec.compiler.convert import dit
from archspec.compiler.convert.published import Config
from archspec.compiler.convert.reading import Known, Reading, read
from archspec.compiler.convert.recipe import Recipe
from archspec.compiler.convert.state import State, read_state
from archspec.compiler.derive import Clock, derive
from archspec.compiler.driver import cost_rows
from archspec.compiler.emission.card import card
from archspec.compiler.emission.emit import Emission, check_output, emit, read_content
from archspec.diagnostics import fail
from archspec.families import describe
from archspec.host.headers import read_folder
from archspec.host.locate import Located
from archspec.language.parse import parse
from archspec.language.selectors.indices import brackets
from archspec.plan import VERSION, Plan, digest
from archspec.runtime.model.hosts import build
from archspec.runtime.store.checkpoint import NAMES, Piece, Writer, shards
from archspec.runtime.store.files import publish
from archspec.semantics.resolve import resolve
from archspec.source import Source

BASE = "facebook/DiT-XL-2-256"
"""What the published grafts were made from: the name in their locks unless another is given."""
DEPTH = 28
"""Blocks of DiT-XL/2, the only model that the published code grafts."""
STEM = "diffusion_pytorch_model"
GRAFTS = "grafts"
RECORD = "converted.json"
"""In a plain model, what it was converted from; so it may be replaced by another conversion."""
Edits = list[dict[str, Any]]


def convert(path: Path, out: Path, known: Known = Known(), base: str = BASE, overwrite: bool = False) -> Edits:
    """Convert a published file to the folder `out`; return the edits that it holds, as plain data.

    Raises ArchspecError, AS650 to AS656; nothing is half-written then.
    """
    if not (out / RECORD).is_file():
        check_output(out, overwrite)
    state = read_state(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if not dit.is_dit(shapes):
        hint = f"a DiT file has {', '.join(dit.SIGNS)}"
        raise fail(
            "AS653", f"the layout of '{path.name}' is not known: it begins with {next(iter(shapes))}", None, hint
        )
    reading = read(shapes, known)
    _check_positions(state[dit.TABLE], reading.sizes)
    if reading.grafts:
        _compiled(spec_of(path.stem, base, reading.edits()), state, reading, out)
    else:
        with publish(out) as folder:
            _write_host(folder, state, reading)
            (folder / RECORD).write_text(json.dumps({"format": 1, "from": path.name}) + "\n", "utf-8")
    return reading.edits()


def spec_of(name: str, base: str, edits: Edits) -> dict[str, Any]:
    """Return a spec as plain data; what cannot be in a name becomes `-`."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip("-_")
    return {
        "archspec": 1,
        "name": plain or "converted",
        "base": {"from": base, "subfolder": "transformer"},
        "edits": edits,
    }


def config_edits(config: Config) -> Edits:
    """Return the edits that a published config asks for."""
    target = f"blocks{brackets(config.blocks, DEPTH)}.{config.kind.slot}"
    return [{"replace": target, "with": {"op": config.kind.operator, **config.parameters}, "init": "random"}]


def _check_positions(table: Tensor, sizes: dit.Sizes) -> None:
    """diffusers computes the table of positions: a file with another one is another model."""
    host: Any = build(sizes.config(), "diffusers", dit.ARCHITECTURE)
    ours = host.pos_embed.pos_embed
    if ours.shape != table.shape or float((ours - table.float()).abs().max()) > 1e-3:
        hint = "only the sine-cosine table of DiT can be converted"
        raise fail("AS651", "the table of positions is not the one that diffusers computes", None, hint)


def _write(folder: Path, stem: str, recipe: Recipe, state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the tensors of a recipe as safetensors, one in memory at a time."""
    pieces = [Piece(name, NAMES[state[part.name].dtype], shapes[name]) for name, part in recipe.items()]
    with Writer(folder, shards(pieces, {}, stem)) as writer:
        for name, part in recipe.items():
            writer.put(name, part.read(state).reshape(shapes[name]))


def _write_host(folder: Path, state: State, reading: Reading) -> None:
    config = reading.sizes.config()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    _write(folder, STEM, reading.recipe, state, reading.shapes)


def _compiled(data: dict[str, Any], state: State, reading: Reading, out: Path) -> None:
    """Compile the spec that the file amounts to, with the file's own tensors."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
        folder = Path(made)
        (folder / "host").mkdir()
        _write_host(folder / "host", state, reading)
        grafts = {name: part for graft in reading.grafts for name, part in graft.recipe().items()}
        _write(folder, GRAFTS, grafts, state, reading.shapes)
        emit(_emission(data, folder, reading), out)


def _emission(data: dict[str, Any], folder: Path, reading: Reading) -> Emission:
    init = {"kind": "artifact", "from": f"./{GRAFTS}.safetensors"}
    text = json.dumps({**data, "edits": [{**edit, "init": init} for edit in data["edits"]]})
    spec = parse(Source(str(folder / "converted.yaml"), text))
    structure = replace(describe(reading.sizes.config()), tensors=read_folder(folder / "host"))
    derived = derive(resolve(spec, structure), Clock())
    plan = Plan(VERSION, spec.name, data["base"], None, ())
    return Emission(
        resolved=derived.resolved,
        program=derived.program,
        located=Located(folder / "host"),
        near=folder,
        content=read_content(structure),
        plan=plan,
        spec_digest=digest(text),
        card=card(derived.resolved, derived.program, cost_rows(derived.cost), plan),
        results={"cost": derived.cost.to_json(), "proof": derived.proof.to_json()},
    )
