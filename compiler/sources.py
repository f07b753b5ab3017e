"""What the tasks of a plan depend on beside the spec's words, gathered by content: base, data, files.

Their identities go into the keys of tasks, so a result is found again exactly as long as all of it is the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from archspec.compiler.emission.emit import BaseContent
from archspec.compiler.fractions import check_fractions
from archspec.compiler.inputs import content as content_of
from archspec.compiler.planning import Sources
from archspec.diagnostics import ArchspecError, Diagnostic, Severity, fail
from archspec.host.locate import Located, folder_of
from archspec.language.stages import Data
from archspec.plan import digest
from archspec.runtime.data.describe import describe, identity
from archspec.runtime.data.needs import NO_TOKENIZER
from archspec.runtime.objectives import told
from archspec.runtime.store.home import Home
from archspec.semantics.resolve import ResolvedSpec, explicit

AROUND = ("scheduler", "vae")
READING = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt")


def gather(
    resolved: ResolvedSpec, located: Located, content: BaseContent, near: Path, whole: bool
) -> tuple[Sources, list[Diagnostic]]:
    """Gather what the plan's tasks depend on; say of data that is not there, unless `whole` makes it an error."""
    spec = resolved.to_json()
    stanzas = {stage: spec[stage] for stage in ("distill", "finetune", "eval") if spec[stage]}
    needs_data = stanzas or any(e.init and e.init.kind == "least_squares" for e in resolved.edits)
    given = {
        "distill": resolved.spec.data,
        "finetune": resolved.spec.finetune.data if resolved.spec.finetune else None,
        "eval": resolved.spec.eval.data if resolved.spec.eval else None,
    }
    found = {stage: data or resolved.spec.data for stage, data in given.items()}
    identities: dict[str, str] = {}
    absent: list[Diagnostic] = []
    place = Home(folder_of(located), located.pipeline)
    for stage, data in found.items():
        try:
            if data:
                identities[stage] = identity(explicit(data), near)
                _check_text(data, near, place)
        except ArchspecError as error:
            if whole:
                raise
            absent += [replace(d, severity=Severity.NOTE) for d in error.diagnostics if d not in absent]
    check_fractions(resolved.spec, near)
    base = {**spec["base"], "fingerprint": content.fingerprint}
    objective = told(place) if needs_data else "none"
    files, around = _files(resolved, near), _around(place)
    fingerprint = digest([content.fingerprint, around]) if around else content.fingerprint
    return Sources(base, fingerprint, objective, spec["data"], identities, files), list(dict.fromkeys(absent))


def _check_text(data: Data, near: Path, place: Home) -> None:
    """Refuse files of text where nothing cuts them into tokens. AS708."""
    if describe(explicit(data), near).kind == "text" and place.tokenizer is None:
        hint = NO_TOKENIZER if place.reads_text else f"{place.architecture} learns from images or latents"
        raise fail("AS708", f"'{data.from_}' is text and the host has no tokenizer", data.span("from"), hint)


def _files(resolved: ResolvedSpec, near: Path) -> dict[str, str]:
    """Return path, as the spec writes it -> identity of the files that tasks depend on: weights that parts begin with,
    the classifier that measures."""
    stage = resolved.spec.eval
    named = {edit.init.from_ for edit in resolved.edits if edit.init} | {stage.classifier if stage else None}
    return {name: content_of(near / name) for name in named if name and (near / name).exists()}


def _around(place: Home) -> list[list[str]]:
    """Return name and content of what stands beside a base and decides what it is fed, or how it draws: of a pipeline
    its schedule of noise and its autoencoder, of a language model its tokenizer."""
    parts = [folder for name in AROUND if (folder := place.part(name))]
    return [[path.name, content_of(path)] for path in (*parts, *map(place.model.joinpath, READING)) if path.exists()]
