"""Finding a base and reading its structure, without torch and without the network.

`locate` turns the `base` of a spec into folders: a path relative to the spec file, else a hub id in the local cache of
Hugging Face, whose layout is read directly (`models--<org>--<name>/refs/<revision>`, `snapshots/<commit>`): importing
huggingface_hub takes longer than a whole validation. A hub id that is not in the cache is a note, not an error; what
needs the content (`structure_of`) then raises.

Three forms of base are known: a model folder (config.json and weights), a pipeline folder (model_index.json) with the
`subfolder` of the model that is edited, and one safetensors file beside its config.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from archspec.diagnostics import fail, nearest, setting
from archspec.families import describe
from archspec.host.fingerprint import FULL, SAMPLED, identity_of
from archspec.host.headers import PICKLES, read_folder
from archspec.host.strict_json import read_json
from archspec.host.structure import SiteShape, Structure
from archspec.language.fields import Node
from archspec.language.parse import DSL, YAML
from archspec.language.spec import Base, Spec
from archspec.source import Span
from archspec.syntax.tree import Entry, Map, Scalar

__all__ = [
    "Located", "base_at", "check_fingerprint", "check_teacher", "find_base", "find_teacher", "fingerprint", "folder_of",
    "locate", "recorded", "structure_of",
]  # fmt: skip

CONFIG, PIPELINE = "config.json", "model_index.json"
EDITED = ("transformer", "unet")
"""Subfolders of pipelines whose model is the one that specs are about."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class Located:
    """Where a base is. `folder` is None for a hub id that is not in the local cache; `note` then says so."""

    folder: Path | None
    """Of the model: holds config.json."""
    pipeline: Path | None = None
    """Of the pipeline that the model is part of."""
    note: str = ""
    sought: str = ""
    """What was looked for in vain: what is said where nothing goes without it."""
    file: Path | None = None
    """The one file of weights that the spec names, when it names one."""
    span: Span | None = None
    """The name of the base in the spec: what errors in its files are shown at."""
    random: bool = False
    """Its weights are drawn at a compile: those that stand in its files, if any, are not read."""
    name: str | None = None
    """Path from the spec, of a base that was made for it."""

    @property
    def weights(self) -> Path | None:
        """What `read_folder` and `fingerprint` take: the named file, else the folder."""
        return self.file or self.folder


def base_at(name: str) -> Base:
    """Return the base that a path or a hub id outside of specs means: of a pipeline, the model that is edited."""
    path = Path(name)
    return Base(from_=str(path.absolute()) if path.exists() else name, subfolder=_edited(path))


def _edited(path: Path) -> str | None:
    if not (path / PIPELINE).is_file() or (path / CONFIG).is_file():
        return None
    return next((part for part in EDITED if (path / part / CONFIG).is_file()), None)


def find_base(spec: Spec, near: Path) -> Located:
    """Find the base of a spec, whose paths start at `near`. AS141 when it names none."""
    if spec.base is None:
        name = spec.origin.span_of("name") if spec.origin else None
        raise fail("AS141", "a spec needs 'base'", name, "write `base: FOLDER`, or extend a spec that has one")
    return locate(spec.base, near)


def recorded(base: Mapping[str, Any], *starts: Path) -> Path | None:
    """Return the model's folder where a lock's record of it leads: from one of the folders `starts`, or in the hub's
    cache; None where it is not at hand."""
    name, subfolder, revision = (base.get(key) for key in ("from", "subfolder", "revision"))
    if not isinstance(name, str):
        return None
    start = next((start for start in starts if (start / name).exists()), None)
    if start is None and (_looks_like_path(name) or not _HUB_ID.fullmatch(name)):
        return None
    return locate(Base(from_=name, subfolder=subfolder, revision=revision), start or starts[0]).folder


def find_teacher(base: Base | None, near: Path) -> Located | None:
    """Find the trained model that a base of random weights names; None where it names none."""
    if base is None or base.teacher is None or base.weights != "random":
        return None
    return locate(Base(origin=_as_from(base, "teacher"), from_=base.teacher, subfolder=base.subfolder), near)


def locate_named(node: Node, key: str, near: Path) -> Located:
    """Find the checkpoint that a field of a node names."""
    return locate(Base(origin=_as_from(node, key), from_=getattr(node, key)), near)


def _as_from(node: Node, key: str) -> Map | None:
    """Return what is written under a key as the `from` of a base, with its place."""
    entry = node.origin.entry(key) if node.origin else None
    return Map((Entry(Scalar("from", "from", entry.key.span), entry.value),), entry.value.span) if entry else None


def locate(base: Base, near: Path) -> Located:
    """Find a base; relative paths start at the folder `near`."""
    return replace(_locate(base, near), random=base.weights == "random")


def _locate(base: Base, near: Path) -> Located:
    span = base.span("from") or base.span()
    local = _local(base.from_, near, span)
    if local and base.revision is not None:
        hint = "leave it out: only hub ids have revisions"
        raise fail("AS608", f"'{base.from_}' is a local path", base.span("revision"), hint)
    found = local or _cached(base, span)
    if found is None:
        note = f"'{base.from_}' is not in the local cache, so it is checked as far as that goes without it"
        return Located(None, note=note, sought=_sought(base, near), span=span)
    if found.is_file():
        return _single(found, base, span)
    return _folder(found, base, span)


def _sought(base: Base, near: Path) -> str:
    at = f" at revision '{base.revision}'" if base.revision else ""
    cached = f"no '{base.from_}'{at} in the hub's cache '{hub_cache()}'"
    return f"there is no such folder or checkpoint: no '{near / base.from_}', and {cached}"


def _local(name: str, near: Path, span: Span | None) -> Path | None:
    """Return the path that a name stands for; None when it can only be a hub id."""
    try:
        path = near / Path(name).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise fail("AS600", f"'{name}' is no path: {error}", span) from error
    if exists:
        return path
    if _looks_like_path(name):
        where = " beside the spec" if span else ""
        raise fail("AS600", f"there is no '{name}'{where}", span, *_neighbours(path))
    if not _HUB_ID.fullmatch(name) or ".." in name:
        raise fail("AS608", f"'{name}' is neither a path nor a hub id", span, "a hub id is written organisation/model")
    return None


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or Path(name).suffix in (".safetensors", *PICKLES)
    )


def _neighbours(path: Path) -> tuple[str, ...]:
    """Return the hint that names what does exist near a missing path."""
    parent = path.parent
    return nearest(path.name, sorted(os.listdir(parent))) if parent.is_dir() else (f"there is no folder '{parent}'",)


def _single(file: Path, base: Base, span: Span | None) -> Located:
    if base.subfolder:
        raise fail("AS601", f"'{base.from_}' is a file, so it has no subfolder", base.span("subfolder"), "leave it out")
    if file.suffix in (*YAML, *DSL):
        hint = f"`archspec plan {base.from_}` says what it amounts to" if span is None else "extend it: `extends: FILE`"
        raise fail("AS601", f"'{base.from_}' is a spec, not a model", span, hint)
    if not (file.parent / CONFIG).is_file():
        raise fail("AS601", f"there is no {CONFIG} beside '{base.from_}'", span, f"put the model's {CONFIG} beside it")
    return Located(file.parent, file=file, span=span)


def _folder(root: Path, base: Base, span: Span | None) -> Located:
    folder = root
    if base.subfolder is not None:
        _check_inside(base.subfolder, "subfolder", base.span("subfolder"))
        folder = root / base.subfolder
    if (folder / CONFIG).is_file():
        pipeline = root if folder != root and (root / PIPELINE).is_file() else None
        return Located(folder, pipeline, span=span)
    if base.subfolder is not None:
        hints = nearest(base.subfolder, _models(root)) or _choose(root, span)
        raise fail("AS601", f"'{base.from_}' has no model '{base.subfolder}'", base.span("subfolder"), *hints)
    what = "is a pipeline of several models" if (root / PIPELINE).is_file() else f"holds no {CONFIG}"
    raise fail("AS601", f"'{base.from_}' {what}", span, *_choose(root, span))


def _models(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob(f"*/{CONFIG}"))


def _choose(root: Path, span: Span | None) -> tuple[str, ...]:
    models = sorted(_models(root), key=lambda name: (name not in EDITED, name))
    if not models:
        return ()
    others = f" (or {', '.join(models[1:])})" if models[1:] else ""
    if span is None:
        return (f"name the folder of a model: '{root / models[0]}'{others}",)
    return (f"write {setting(span, 'subfolder', models[0])}{others}",)


def _check_inside(name: str, what: str, span: Span | None) -> None:
    """Refuse a relative name that could leave its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or not name.isprintable():
        raise fail("AS608", f"{what} '{name}' is no path within the base", span, "write a plain folder name")


def _cached(base: Base, span: Span | None) -> Path | None:
    """Return the snapshot of a hub id in the local cache, None when it is not there."""
    home = hub_cache() / ("models--" + base.from_.replace("/", "--"))
    revision = base.revision or "main"
    _check_inside(revision, "revision", base.span("revision"))
    reference = home / "refs" / revision
    commit = reference.read_text(encoding="utf-8", errors="replace").strip() if reference.is_file() else revision
    _check_inside(commit, "revision", base.span("revision"))
    snapshot = home / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def hub_cache() -> Path:
    """Return the folder of the hub cache, by the environment variables of huggingface_hub in their order."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if found := os.environ.get(name):
            return Path(found).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def folder_of(located: Located) -> Path:
    """Return the model's folder. AS600 when it is not at hand."""
    if located.folder is None:
        message = located.sought or "the base is not at hand"
        raise fail("AS600", message, located.span, "download it once: `hf download <id>`, or name a local folder")
    return located.folder


def structure_of(located: Located, whole: bool = False) -> Structure:
    """Read a base's structure from its config.json and, when it has weights, their headers. `whole`: AS648 without."""
    folder = folder_of(located)
    config = read_json(folder / CONFIG, "AS602", located.span)
    tensors = {} if located.random else read_folder(located.file or folder, located.span)
    if whole and not tensors:
        raise fail("AS648", *_without_weights(located))
    return describe(config, tensors or None, located.span)


def check_teacher(base: Base, teacher: Structure, structure: Structure, whole: bool = False) -> None:
    """Refuse a teacher of another class or with other sites than the base's. `whole`: and one without weights. AS658"""
    span, hint = base.span("teacher"), "name a trained model of the base's own class and sizes"
    if teacher.architecture != structure.architecture:
        message = f"the teacher is a {teacher.architecture}, and the base a {structure.architecture}"
        raise fail("AS658", message, span, hint)
    if _contracts(teacher) != _contracts(structure):
        raise fail("AS658", "the teacher's sites are not the base's", span, hint)
    if whole and not teacher.tensors:
        raise fail("AS658", "the teacher has a config and no weights", span, hint)


def _contracts(structure: Structure) -> list[tuple[str, str, SiteShape]]:
    return [(site.path, site.slot, site.shape) for site in structure.sites]


def _without_weights(located: Located) -> tuple[str, Span | None, str]:
    if located.random:
        hint = "compile the spec, and name the base that it writes beside the result: `NAME.base`"
        return "the base has no weights before they are drawn", located.span, hint
    hint = (
        "a config is enough for `archspec validate` and `plan`; to compile, put the safetensors beside it, or write "
        f"`{setting(located.span, 'weights', 'random')}` in the base to draw them"
    )
    return "the base has a config and no weights", located.span, hint


def fingerprint(path: Path, scheme: str = FULL, span: Span | None = None) -> str:
    """Return the content identity of a model: its folder, or one safetensors file beside its config.json.

    Only what is part of the model counts: a repeat of a tied tensor or an old buffer in the files does not.
    """
    located = Located(path) if path.is_dir() else Located(path.parent, file=path)
    structure = structure_of(replace(located, span=span))
    return identity_of(structure.config, structure.tensors or {}, scheme, span)


def check_fingerprint(base: Base, located: Located) -> None:
    """Refuse a base whose content is not what the spec says it is. Either scheme may be stated; of random weights, a
    compile holds what it drew to it."""
    if base.fingerprint is None or located.weights is None or located.random:
        return
    span = base.span("fingerprint")
    scheme = base.fingerprint.partition(":")[0]
    if scheme not in (FULL, SAMPLED):
        hint = f"write what `archspec show` prints: {FULL}:… or {SAMPLED}:…"
        raise fail("AS607", f"'{base.fingerprint}' is no fingerprint", span, hint)
    found = fingerprint(located.weights, scheme, located.span)
    if found != base.fingerprint:
        raise fail("AS607", "the content of the base is not what the spec was written for", span, f"it is now {found}")
