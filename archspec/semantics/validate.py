"""Everything that can be known of a spec without torch and without the network, as one function.

    validate(path)            a file
    validate_source(source)   a text; relative paths start at the folder of its name

Building, resolving and checking report together: each goes on with what the one before could make of the spec
(`archspec.language.partial`), so an early mistake hides no later one, and none is told twice. Only without a syntax
tree is there nothing to go on with. A host that is not at hand is no error: what does not need it is still checked, and
a note says so. Of a spec with a matrix every member is looked at; a finding is told once, with the members that it is
in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archspec.diagnostics import ArchspecError, Collector, Diagnostic, Severity
from archspec.host.locate import check_fingerprint, check_teacher, find_teacher, locate, structure_of
from archspec.host.probes import with_probe
from archspec.host.structure import Structure
from archspec.language.build import build_signature
from archspec.language.choice import merged
from archspec.language.edits import Replace
from archspec.language.matrix import Member
from archspec.language.parse import DSL, load_members
from archspec.language.partial import Partial, build_spec
from archspec.language.spec import Base
from archspec.semantics.check import check, check_without_host
from archspec.semantics.resolve import resolve_partial
from archspec.source import Source


def validate(path: str | Path) -> tuple[Diagnostic, ...]:
    """Return everything there is to say of a spec file, in the order of its text."""
    return _findings(Path(path), Path(path).parent)


def validate_source(source: Source) -> tuple[Diagnostic, ...]:
    """Return everything there is to say of a text that is not, or not yet, a file."""
    return _findings(source, Path(source.name).parent)


def _findings(of: Path | Source, near: Path) -> tuple[Diagnostic, ...]:
    collector = Collector()
    try:
        members = load_members(of, collector)
    except ArchspecError as error:
        collector.add(error.diagnostics)
        return tuple(collector)
    hosts: Hosts = {}
    merged([(member, _of_member(member, near, hosts)) for member in members], collector)
    return tuple(collector)


Hosts = dict[tuple[Base | None, str | None, bool], tuple[Structure | None, tuple[Diagnostic, ...]]]
"""Base, probe, whether the base is missing by a mistake -> its structure, and what is wrong with it: read once."""


def _of_member(member: Member, near: Path, hosts: Hosts) -> tuple[Diagnostic, ...]:
    collector = Collector()
    partial = build_spec(member.tree, collector)
    key = partial.spec.base, partial.spec.probe, partial.gaps.has("base")
    if key not in hosts:
        found = Collector()
        hosts[key] = _host(partial, near, found), tuple(found)
    structure, problems = hosts[key]
    collector.add(problems)
    if structure is None:
        collector.add(_parameters(partial))
        collector.add(check_without_host(partial))
    else:
        collector.add(check(resolve_partial(partial, structure, collector)))
    return tuple(collector)


def _host(partial: Partial, near: Path, collector: Collector) -> Structure | None:
    """Return the host's structure, None after saying why it is not at hand."""
    spec = partial.spec
    if spec.base is None:
        if not partial.gaps.has("base"):
            name = spec.origin.span_of("name") if spec.origin else None
            dsl = name is not None and name.source.name.endswith(DSL)
            example = 'base "facebook/DiT-XL-2-256"' if dsl else "base: facebook/DiT-XL-2-256"
            hint = f"write `{example}`, or a folder, or extend a spec"
            collector.report("AS141", "a spec needs 'base'", name, hint)
        return None
    try:
        located = locate(spec.base, near)
        if located.folder is None:
            hint = f"download it once: hf download {spec.base.from_}"
            collector.report("AS340", located.note, located.span, hint, severity=Severity.NOTE)
            return None
        structure = structure_of(located)
        check_fingerprint(spec.base, located)
        teacher = find_teacher(spec.base, near)
        if teacher is not None and teacher.folder is not None:
            check_teacher(spec.base, structure_of(teacher), structure)
        structure = with_probe(structure, spec.probe, near, spec.span("probe"))
    except ArchspecError as error:
        collector.add(error.diagnostics)
        return None
    return structure


def _parameters(partial: Partial) -> Iterator[Diagnostic]:
    """Yield what is wrong with operators and their parameters in themselves."""
    found = Collector()
    written = (edit.with_ for edit in partial.spec.edits if isinstance(edit, Replace))
    for call in (*written, *(broken.with_ for broken in partial.gaps.edits if broken.with_)):
        build_signature(call, found)
    yield from found
