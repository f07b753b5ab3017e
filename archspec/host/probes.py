"""What was measured of a host, site by site, as a file: JSON that `archspec probe` writes and selectors rank by.

    format      1
    host        architecture, fingerprint (sampled) of the weights; null where there were none
    settings    what was run, and how much of it
    measures    name, with its settings -> module path -> {mean, error}: `locality(k=32)`, `influence`, ...

A file of another host, or of other weights of the same one, is refused: ranks would be of something else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from archspec.diagnostics import ArchspecError, fail
from archspec.host.fingerprint import SAMPLED, hasher, identity_of
from archspec.host.strict_json import Malformed, read_json
from archspec.host.structure import Probe, Structure
from archspec.source import Span

VERSION = 1
AGAIN = "measure this one: `archspec probe HOST -o PROBE.json`"


def measure_name(name: str, settings: Mapping[str, Any]) -> str:
    """Return a measure as files and selectors name it.

    >>> measure_name("locality", {"k": 32}), measure_name("influence", {})
    ('locality(k=32)', 'influence')
    """
    told = ", ".join(f"{key}={settings[key]}" for key in sorted(settings))
    return f"{name}({told})" if told else name


def with_probe(structure: Structure, name: str | None, near: Path, span: Span | None = None) -> Structure:
    """Return the structure with what the file `name` (relative to `near`) says of it. AS660, AS661."""
    if name is None:
        return structure
    path = near / name
    content = read_json(path, "AS660", span)
    try:
        values = _values(content)
    except Malformed as error:
        raise fail("AS660", f"'{name}' is no probe: {error}", span, AGAIN) from error
    _check_host(content["host"], structure, name, span)
    strange = sorted({site for sites in values.values() for site in sites if structure.site(site) is None})
    if strange:
        raise fail("AS661", f"'{name}' measured '{strange[0]}', which this host has not", span, AGAIN)
    return replace(structure, probe=Probe(name, digest_of(content), values))


def is_probe(path: Path) -> bool:
    """Say whether a file is a probe that can be read, of whatever host."""
    try:
        _values(read_json(path, "AS660"))
    except (ArchspecError, Malformed):
        return False
    return True


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the identity of a probe's content."""
    return f"xxh3:{hasher(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


def host_of(structure: Structure) -> dict[str, Any]:
    """Return what a probe says of its host: enough to tell it from others, and from other weights of the same."""
    found = identity_of(structure.config, structure.tensors, SAMPLED) if structure.tensors else None
    return {"architecture": structure.architecture, "fingerprint": found}


def _values(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    if content.get("format") != VERSION:
        raise Malformed(f"its format is {content.get('format')!r}, this archspec reads {VERSION}")
    host, measures = content.get("host"), content.get("measures")
    if not isinstance(host, dict) or not isinstance(measures, dict):
        raise Malformed("it lacks 'host' or 'measures'")
    return {name: {site: _mean(name, site, f) for site, f in _sites(name, m).items()} for name, m in measures.items()}


def _sites(name: str, measure: Any) -> Mapping[str, Any]:
    if not isinstance(measure, dict):
        raise Malformed(f"'{name}' is no map of sites")
    return measure


def _mean(name: str, site: str, figure: Any) -> float:
    mean = figure.get("mean") if isinstance(figure, dict) else None
    if not isinstance(mean, int | float) or isinstance(mean, bool) or not math.isfinite(mean):
        raise Malformed(f"'{name}' has no figure at '{site}'")
    return float(mean)


def _check_host(host: Mapping[str, Any], structure: Structure, name: str, span: Span | None) -> None:
    found = host_of(structure)
    if host.get("architecture") != found["architecture"]:
        message = f"'{name}' is of a {host.get('architecture')}, the host is a {found['architecture']}"
        raise fail("AS661", message, span, AGAIN)
    if found["fingerprint"] is not None and host.get("fingerprint") != found["fingerprint"]:
        raise fail("AS661", f"'{name}' was measured on other weights than the host's", span, AGAIN)
