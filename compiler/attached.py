"""The `attach` of a spec: its base with packs on it, as a checkpoint of its own, before anything else reads the base.

So every edit, `inherit` and the teacher of every regression see the weights with the packs. The checkpoint stands
beside the result, as NAME.base: it is the base that the lock names, and says itself (skillpacks.json) what it was made
of.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from archspec.diagnostics import fail
from archspec.host.locate import check_fingerprint, locate
from archspec.language.spec import Base, Spec
from archspec.runtime.packs.attach import Use, attach
from archspec.runtime.packs.reading import open_pack


@contextmanager
def with_packs(spec: Spec, near: Path, target: Path) -> Iterator[Spec]:
    """Give the spec with its packs on the base, which is written beside `target`; the same where it has none. When what
    follows fails, a base that was not there before goes again."""
    if spec.attach is None or spec.base is None or spec.base.weights == "random":  # AS659 is for `check` to say
        yield spec
        return
    located = locate(spec.base, near)
    if located.folder is None or located.file:
        message = located.note or "packs are attached to the folder of a model, and the base is one file"
        raise fail("AS673", message, located.span, "name a local folder")
    check_fingerprint(spec.base, located)
    with made_base(target) as out:
        attach(located.pipeline or located.folder, uses(spec, near), out)
        base = Base(origin=spec.base.origin, from_=beside(near, out), subfolder=spec.base.subfolder)
        yield replace(spec, base=base)


@contextmanager
def made_base(target: Path) -> Iterator[Path]:
    """Give the folder of a base that is made for the result at `target`. When something fails, a base that was not
    there before goes again."""
    out = target.with_name(f"{target.name}.base")
    former = out.exists()
    try:
        yield out
    except BaseException:
        if not former:
            shutil.rmtree(out, ignore_errors=True)
        raise


def beside(near: Path, out: Path) -> str:
    """Return the path from the spec to a base that was made for it: a lock holds no path of a machine."""
    return Path(os.path.relpath(out.absolute(), near.absolute())).as_posix()


def uses(spec: Spec, near: Path) -> list[Use]:
    packs = spec.attach.packs if spec.attach else ()
    return [Use(open_pack(near / Path(use.from_).expanduser(), use.span("from")), use.scale) for use in packs]
