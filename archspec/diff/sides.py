"""A word on the command line to an `Outline`: a spec file, a folder, a hub id, or `revision:path` of git.

A revision is unpacked as a whole into a scratch folder, so that `extends` and relative bases are found as they were.
Torch is not needed: a compiled checkpoint tells its program in its lock, a spec is lowered by the language.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archspec.diagnostics import fail
from archspec.diff.outline import Outline, Tensor, Tensors, derived_tensors, outline
from archspec.families import describe, expected_tensors
from archspec.host.headers import read_folder
from archspec.host.locate import CONFIG, locate, structure_of
from archspec.host.probes import with_probe
from archspec.host.strict_json import read_json
from archspec.instructions import Instruction
from archspec.language.parse import load
from archspec.language.spec import Base
from archspec.runtime.model.program import KEY, read_graft
from archspec.runtime.store.lock import Lock, is_compiled, read_lock
from archspec.semantics.lower import lower
from archspec.semantics.resolve import resolve
from archspec.syntax.tree import plain

SPEC_SUFFIXES = (".yaml", ".yml", ".arch")
EVALUATION = "eval.json"
"""What `archspec eval` leaves in a checkpoint."""
PRICE = ("flops", "activations")


def read_side(word: str, scratch: Path) -> Outline:
    """Outline what `word` names. `scratch` is a folder for what has to be unpacked; the caller removes it."""
    path = _path(word, scratch)
    if path.suffix in SPEC_SUFFIXES:
        return _of_spec(word, path)
    if is_compiled(path):
        return _of_checkpoint(word, path)
    return _of_host(word, path)


SAFE: Mapping[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""How to unpack; Python 3.11.3 and older know no filter. The archive is git's own, of the user's repository."""


def _path(word: str, scratch: Path) -> Path:
    revision, colon, name = word.partition(":")
    if Path(word).exists() or not colon or len(revision) < 2:
        return Path(word)
    return unpack(revision, scratch) / name


def unpack(revision: str, scratch: Path) -> Path:
    """Unpack a git revision of the repository around the working directory; return where that directory is in it."""
    prefix = _git("rev-parse", "--show-prefix").decode().strip()
    top = _git("rev-parse", "--show-toplevel").decode().strip()
    _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", about=revision)
    archive = _git("-C", top, "archive", "--format=tar", f"{revision}^{{commit}}", about=revision)
    scratch.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(scratch, **SAFE)
    return scratch / prefix


def _git(*arguments: str, about: str = "") -> bytes:
    try:
        return subprocess.run(("git", *arguments), check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise fail("AS810", "git is not installed", None, "install git, or compare files") from error
    except subprocess.CalledProcessError as error:
        what = f"no revision '{about}'" if about else "this is no git repository"
        raise fail("AS810", f"{what}: {error.stderr.decode(errors='replace').strip() or 'git refused'}") from error


def _of_spec(label: str, path: Path) -> Outline:
    """A spec whose host is not at hand still has its text to compare."""
    spec = load(path)
    written: Any = plain(spec.origin) if spec.origin else None
    if spec.base is None:
        raise fail(
            "AS811", f"'{label}' has no base", spec.span(), "write base: {from: ...}, or extend a spec that has one"
        )
    located = locate(spec.base, path.parent)
    if located.folder is None:
        return Outline(label, "spec", "", {}, (), {}, {}, None, spec=written, path=path)
    structure = with_probe(structure_of(located), spec.probe, path.parent, spec.span("probe"))
    program = lower(resolve(spec, structure))
    known = structure.tensors or (located.random and expected_tensors(structure))
    tensors = derived_tensors(structure, program) if known else None
    return outline(label, "spec", structure, program, tensors, spec=written, path=path)


def _of_checkpoint(label: str, path: Path) -> Outline:
    lock = read_lock(path)
    folder = path / (lock.subfolder or "")
    structure = describe(_base_config(read_json(folder / CONFIG, "AS602")))
    return outline(
        label,
        "checkpoint",
        structure,
        lock.instructions,
        _kept(folder, lock),
        recorded=_recorded(path, lock, "result"),
        of_base=_recorded(path, lock, "host"),
        files=_files(folder),
    )


def _base_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config as the base had it."""
    graft = read_graft(config.get(KEY))
    plain_config = {k: v for k, v in config.items() if k != KEY} | dict(graft.base)
    if "_class_name" in config:
        return plain_config | {"_class_name": graft.architecture}
    named = {"architectures": [graft.architecture]}
    return plain_config | named | ({"model_type": graft.model_type} if graft.model_type else {})


def _kept(folder: Path, lock: Lock) -> Tensors:
    headers = read_folder(folder)
    return {
        name: Tensor(headers[name].dtype, headers[name].shape, origin.base)
        for name, origin in lock.tensors.items()
        if name in headers
    }


def _recorded(folder: Path, lock: Lock, side: str) -> dict[str, float]:
    """What is on record of the `host` or the `result`: its price, and the quality that was measured last."""
    price = (lock.results.get("cost") or {}).get(side) or {}
    reports = [*(lock.results.get("measured") or {}).values()]
    if (folder / EVALUATION).is_file():
        reports.append(read_json(folder / EVALUATION, "AS641"))
    measured = {k: v for report in reports for k, v in (report.get(side) or {}).items()}
    numbers = {**{k: price[k] for k in PRICE if k in price}, **measured}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float)}


def _of_host(label: str, path: Path) -> Outline:
    base, near = _as_base(label, path)
    located = locate(base, near)
    structure = structure_of(located)
    program: tuple[Instruction, ...] = ()
    tensors = {n: Tensor(h.dtype, h.shape, n) for n, h in (structure.tensors or {}).items()} or None
    assert located.folder is not None
    return outline(label, "host", structure, program, tensors, files=_files(located.weights or located.folder))


def _as_base(label: str, path: Path) -> tuple[Base, Path]:
    """A pipeline folder stands for its transformer; anything that does not exist is a hub id."""
    if not path.exists():
        return Base(from_=label), Path()
    subfolder = "transformer" if (path / "transformer" / CONFIG).is_file() and not (path / CONFIG).is_file() else None
    return Base(from_=str(path.absolute()), subfolder=subfolder), Path()


def _files(path: Path) -> dict[str, str]:
    return {name: header.file for name, header in read_folder(path).items()}
