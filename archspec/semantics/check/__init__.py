"""Checks of a resolved spec: everything that the config and the tensor headers can show to be wrong.

`check` runs the tables below and reports all findings together; errors mean that the spec cannot be compiled,
warnings that it will do something other than it seems to say. To add a check: a function from (resolved, collector),
a line in a table below, a code, and a case in tests/diagnostics.
"""

from __future__ import annotations

from collections.abc import Callable

from archspec.diagnostics import Collector
from archspec.host.structure import Structure
from archspec.language.partial import Partial
from archspec.semantics.check.base import random_weights_teach_nothing
from archspec.semantics.check.operators import operators_fit
from archspec.semantics.check.overlaps import edits_agree, outer_parts_stay
from archspec.semantics.check.sharing import shared_sites_are_alike
from archspec.semantics.check.stages import (
    data_is_there,
    evaluation_fits_the_host,
    lora_has_old_weights,
    names_are_used,
    packs_are_whole,
    paths_exist,
    search_has_choices,
    settings_have_effect,
    something_learns,
    training_settings_are_sane,
)
from archspec.semantics.check.static import expectations_hold
from archspec.semantics.check.streams import streams_go_on
from archspec.semantics.resolve import ResolvedEdit, ResolvedSpec

Check = Callable[[ResolvedSpec, Collector], None]

OF_EDITS: tuple[Check, ...] = (edits_agree, shared_sites_are_alike, outer_parts_stay, streams_go_on, operators_fit)
"""What stands against lowering."""
OF_STAGES: tuple[Check, ...] = (
    data_is_there,
    names_are_used,
    something_learns,
    lora_has_old_weights,
    settings_have_effect,
    training_settings_are_sane,
    evaluation_fits_the_host,
    search_has_choices,
    packs_are_whole,
    paths_exist,
    random_weights_teach_nothing,
)
WITHOUT_HOST: tuple[Check, ...] = (
    data_is_there,
    names_are_used,
    training_settings_are_sane,
    paths_exist,
    random_weights_teach_nothing,
)
"""Those that look at the spec alone."""


def check(resolved: ResolvedSpec) -> Collector:
    """Return every finding that does not follow from what is missing. What is expected of the result is held only
    against a program that can be lowered."""
    collector = Collector()
    for look in OF_EDITS:
        look(resolved, collector)
    whole = not resolved.gaps.of_edits and not collector.has_errors
    for look in OF_STAGES:
        look(resolved, collector)
    expectations_hold(resolved, collector, whole)
    return collector


def check_without_host(partial: Partial) -> Collector:
    """Return the findings that need no host: for a base that is not at hand."""
    nothing = Structure("unknown", "unknown", "", {}, {}, ())
    edits = tuple(ResolvedEdit(edit, ()) for edit in partial.spec.edits)
    resolved = ResolvedSpec(partial.spec, nothing, edits, partial.gaps)
    collector = Collector()
    for look in WITHOUT_HOST:
        look(resolved, collector)
    return collector
