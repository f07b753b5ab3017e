"""Where a finding is shown, and how the sites it concerns are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archspec.host.structure import Site
from archspec.language.fields import Node
from archspec.semantics.resolve import ResolvedEdit
from archspec.source import Span


def target_span(edit: ResolvedEdit) -> Span | None:
    """Return the span of an edit's selector."""
    return edit.edit.target.span or edit.edit.span()


def written_keys(node: Node | None) -> frozenset[str]:
    """Return the keys that a person wrote in a node; none for a node made in Python."""
    return frozenset(node.origin.keys()) if node is not None and node.origin is not None else frozenset()


def above(path: str) -> Iterator[str]:
    """Yield the module paths above one, the nearest first.

    >>> list(above("h.0.attn"))
    ['h.0', 'h']
    """
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def without(selector: str, sites: Sequence[Site], most: int = 4) -> str:
    """Return the selector that names all that `selector` names but some sites.

    >>> from archspec.host.structure import SiteShape
    >>> without("a | b", [Site("h.3", "block", SiteShape(8), index=3)])
    '(a | b) - blocks[3]'
    """
    text = selector.strip()
    if any(sign in text for sign in "|&-") and not text.startswith('"'):
        text = f"({text})"
    names = " | ".join([site.name for site in sites[:most]] + ["..."] * (len(sites) > most))
    return f"{text} - ({names})" if len(sites) > 1 else f"{text} - {names}"


def listed(sites: Sequence[Site], most: int = 3) -> str:
    """Return the names of some sites, cut short.

    >>> from archspec.host.structure import SiteShape
    >>> listed([Site(f"h.{i}", "block", SiteShape(8), index=i) for i in range(9)])
    'blocks[0], blocks[1], blocks[2] and 6 more'
    """
    names = [site.name for site in sites[:most]]
    rest = len(sites) - len(names)
    if rest:
        return f"{', '.join(names)} and {rest} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
