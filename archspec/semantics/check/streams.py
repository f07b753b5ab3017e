"""Blocks of several streams: what is read again must have been given back."""

from __future__ import annotations

from archspec.diagnostics import Collector
from archspec.language.edits import Repeat
from archspec.semantics.check.places import listed, target_span
from archspec.semantics.resolve import ResolvedSpec


def streams_go_on(resolved: ResolvedSpec, collector: Collector) -> None:
    """Report blocks that would run again on a stream that they end."""
    for edit in resolved.edits:
        ends = [site for site in edit.sites if site.port.ended] if isinstance(edit.edit, Repeat) else []
        if ends:
            names = " and ".join(ends[0].port.ended)
            message = f"{listed(ends)} cannot run again: it reads {names} and gives none back"
            collector.report("AS621", message, target_span(edit), "leave this one out of the selection")
