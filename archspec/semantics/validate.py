"""Everything that can be known of a spec without torch and without the network, as one function.

    validate(path)            a file
    validate_source(source)   a text; relative paths start at the folder of its name

Stages run in order and each reports all it finds; a later stage does not run on what an earlier one refused. A host
that is not at hand is no error: what does not need it is still checked, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archspec.diagnostics import ArchspecError, Collector, Diagnostic, Severity, fail
from archspec.host.locate import check_fingerprint, locate, structure_of
from archspec.language.build import build_signature
from archspec.language.parse import load, load_source
from archspec.language.spec import Replace, Spec
from archspec.semantics.check import check, check_without_host
from archspec.semantics.resolve import resolve
from archspec.source import Source


def validate(path: str | Path) -> tuple[Diagnostic, ...]:
    """Return everything there is to say of a spec file, in the order of its text."""
    collector = Collector()
    try:
        _check(load(path), Path(path).parent, collector)
    except ArchspecError as error:
        collector.add(error.diagnostics)
    return tuple(collector)


def validate_source(source: Source) -> tuple[Diagnostic, ...]:
    """Return everything there is to say of a text that is not, or not yet, a file."""
    collector = Collector()
    try:
        _check(load_source(source), Path(source.name).parent, collector)
    except ArchspecError as error:
        collector.add(error.diagnostics)
    return tuple(collector)


def _check(spec: Spec, near: Path, collector: Collector) -> None:
    """Check a spec against its host, as far as the host is at hand."""
    if spec.base is None:
        name = spec.origin.span_of("name") if spec.origin else None
        raise fail(
            "AS141", "a spec needs 'base'", name, "write `base: facebook/DiT-XL-2-256`, or a folder, or extend a spec"
        )
    located = locate(spec.base, near)
    if located.folder is None:
        hint = f"download it once: hf download {spec.base.from_}"
        collector.report("AS340", located.note, located.span, hint, severity=Severity.NOTE)
        collector.add(_parameters(spec))
        collector.add(check_without_host(spec))
        return
    check_fingerprint(spec.base, located)
    collector.add(check(resolve(spec, structure_of(located))))


def _parameters(spec: Spec) -> Iterator[Diagnostic]:
    """Yield what is wrong with operators and their parameters in themselves."""
    found = Collector()
    for edit in spec.edits:
        if isinstance(edit, Replace):
            build_signature(edit.with_, found)
    yield from found
