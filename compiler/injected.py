"""What `archspec inject PATH` runs: an injection and its model, of a spec or of a compiled checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from archspec.diagnostics import fail
from archspec.host.locate import check_fingerprint, find_base, folder_of, structure_of
from archspec.injection import Donor, Injection
from archspec.language.parse import files_of, load, read_source
from archspec.language.spec import Spec
from archspec.runtime.execution.workspace import Workspace
from archspec.runtime.store.home import Home, home
from archspec.runtime.store.lock import is_compiled, read_lock
from archspec.semantics.check import check
from archspec.semantics.resolve import resolve

NOTHING = "write for example `inject: {preset: shared_attention, donors: {cat: cat.png}}`"


@dataclass(frozen=True)
class Injected:
    """`near`: the folder that paths of donors are relative to."""

    injection: Injection
    place: Home
    near: Path

    def with_donors(self, given: dict[str, tuple[str, str | None]]) -> Injected:
        """Put pictures (and masks) in the place of those that are stated, by paths from where the command runs; a name
        that no graft knows is a donor of every graft that states none. AS750."""
        injection = self.injection
        donors = dict(injection.donors)
        for name, (image, mask) in given.items():
            own = donors.get(name) or _like(injection, name)
            if own.state == "batch":
                hint = "leave out --donor, or state the donor as `state: inverted`"
                raise fail("AS750", f"donor '{name}' is a sample of the batch itself: it takes no picture", None, hint)
            kept = own.mask if own.image is None else None  # that of another picture is none of this one's
            drawn = str(Path(mask).absolute()) if mask else kept
            donors[name] = replace(own, image=str(Path(image).absolute()), mask=drawn)
        if not donors:
            raise fail("AS750", "no donors", None, "write `--donor NAME=IMAGE[:MASK]`")
        free = tuple(donors)
        grafts = tuple(replace(g, donors=g.donors if injection.donors else free) for g in injection.grafts)
        return replace(self, injection=replace(injection, donors=donors, grafts=grafts))

    def files(self, path: Path) -> Iterator[Path]:
        """Yield every file that is read for this injection, which the spec or the checkpoint `path` states."""
        if path.is_file():
            yield from files_of(path)
        collage, donors = self.injection.collage, self.injection.donors.values()
        named = [name for donor in donors for name in (donor.image, donor.mask, donor.layout.place)]
        yield from (self.near / name for name in (*named, collage.template) if isinstance(name, str))

    def texts(self) -> dict[str, str]:
        """Return what each donor says, of hosts of text: its file's text, else its prompt. AS762."""
        found = {}
        for name, donor in self.injection.donors.items():
            text = donor.prompt
            if donor.image is not None:
                text = read_source(self.near / donor.image).text
            if not text or not text.strip():
                hint = f"write `{name}: {{prompt: ...}}`, what it says, or --donor {name}=FILE"
                raise fail("AS762", f"donor '{name}' says nothing", None, hint)
            found[name] = text
        return found


def _like(injection: Injection, name: str) -> Donor:
    """Return a donor that the spec does not name, of the stanza's state. A spec that names donors takes no others."""
    if injection.donors:
        known = ", ".join(injection.donors)
        raise fail("AS750", f"the injection has no donor '{name}'", None, f"its donors are {known}")
    return Donor(injection.state)


def injected(path: Path, member: str | None = None, given: Collection[str] = ()) -> Injected:
    """Read a spec (of one with a matrix, this member) or a compiled checkpoint. The pictures that a spec states of the
    donors `given` elsewhere need not be there. AS750 where nothing is injected, AS763 for a spec that must be
    compiled."""
    if path.is_dir():
        return _compiled(path)
    spec = _without_pictures(load(path, member), given)
    if spec.inject is None:
        raise fail("AS750", f"'{path}' injects nothing", None, NOTHING)
    if spec.edits or spec.attach:
        what = "edits" if spec.edits else "packs"
        hint = f"archspec compile {path} -o out/{spec.name} && archspec inject out/{spec.name} ..."
        raise fail("AS763", f"the {what} of '{path}' are not in any checkpoint yet", None, hint)
    return _from_spec(spec, path.parent)


def _without_pictures(spec: Spec, names: Collection[str]) -> Spec:
    """Leave out the pictures of these donors, each with its mask."""
    if spec.inject is None:
        return spec
    stated = spec.inject.donors
    bare = {n: replace(d, image=None, mask=None) for n, d in stated.items() if n in names and d.image is not None}
    return replace(spec, inject=replace(spec.inject, donors={**stated, **bare}))


def _from_spec(spec: Spec, near: Path) -> Injected:
    located = find_base(spec, near)
    assert spec.base is not None
    check_fingerprint(spec.base, located)
    resolved = resolve(spec, structure_of(located, whole=True))
    check(resolved).raise_if_errors()
    assert resolved.injection is not None
    return Injected(resolved.injection, Home(folder_of(located), located.pipeline), near)


def _compiled(folder: Path) -> Injected:
    if not is_compiled(folder):
        raise fail("AS640", f"'{folder}' is not a compiled checkpoint", None, "name a spec, or what one compiled to")
    lock = read_lock(folder)
    if lock.injection is None:
        raise fail("AS750", f"'{folder}' was compiled from a spec that injects nothing", None, NOTHING)
    return Injected(lock.injection, home(folder), Workspace(folder).origin().get("near", Path()))
