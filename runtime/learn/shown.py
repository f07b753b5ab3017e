"""What the teacher showed at sites, kept as artifacts: parts that imitate one site on the same examples see the same.

Kept is what a plan calls by a key (`Task.settings["teacher"]`) and a run was told that others will need; found is
whatever is there. A run that begins to watch claims what it will keep, so that of several runs one watches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from archspec.runtime.learn.cache import ActivationCache
from archspec.runtime.store.artifacts import Artifacts

Show = Callable[[Sequence[str]], None]
"""Runs the teacher and writes what it shows the parts of these names into the cache."""


@dataclass(frozen=True)
class Shown:
    """`keys`: name of a part -> key of what it is shown; `wanted`: the keys that are kept."""

    artifacts: Artifacts
    keys: Mapping[str, str] = field(default_factory=dict)
    wanted: Collection[str] = ()

    def fill(self, cache: ActivationCache, names: Sequence[str], show: Show) -> None:
        """Put what all these parts are shown into the cache: from artifacts, the rest from one run of the teacher."""
        with self.artifacts.claim(self.keys[name] for name in names if self.keys.get(name) in self.wanted):
            left = [name for name in names if not self._find(cache, name)]
            if left:
                show(left)
            for name in left:
                self._keep(cache, name)

    def _find(self, cache: ActivationCache, name: str) -> bool:
        key = self.keys.get(name)
        if key is None or not self.artifacts.holds(key):
            return False
        try:
            cache.unpack(name, self.artifacts.report(key)["layout"], self.artifacts.tensors(key))
        except ValueError:
            return False
        return True

    def _keep(self, cache: ActivationCache, name: str) -> None:
        key, packed = self.keys.get(name), cache.packed(name)
        if key is not None and key in self.wanted and packed is not None:
            layout, tensors = packed
            self.artifacts.keep(key, {"kind": "teacher", "layout": layout}, tensors)
