"""What the teacher showed at sites, kept as artifacts: parts that imitate one site on the same examples see the same.

Kept is what a plan calls by a key (`Task.settings["teacher"]`) and a run was told that others will need; found is
whatever is there. A run that begins to watch claims what it will keep, so that of several runs one watches.
"""

from __future__ import annotations

import time
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
    borrowed: dict[str, float] = field(default_factory=dict)
    """Name of a part -> CPU seconds that another run spent on what it was shown."""

    def fill(self, cache: ActivationCache, names: Sequence[str], show: Show) -> None:
        """Put what all these parts are shown into the cache: from artifacts, the rest from one run of the teacher."""
        with self.artifacts.claim(self.keys[name] for name in names if self.keys.get(name) in self.wanted):
            left = [name for name in names if not self._find(cache, name)]
            start = time.process_time()
            if left:
                show(left)
            spent = time.process_time() - start
            for name in left:
                self._keep(cache, name, spent / len(left))

    def serves(self, name: str) -> bool:
        """Say whether what this part is shown is there, or will be kept for others."""
        key = self.keys.get(name)
        return key is not None and (key in self.wanted or self.artifacts.holds(key))

    def borrowings(self, name: str) -> dict[str, float]:
        """Return what a report says of what another run has spent for this part."""
        return {"borrowed_cpu_seconds": spent} if (spent := self.borrowed.get(name)) else {}

    def _find(self, cache: ActivationCache, name: str) -> bool:
        key = self.keys.get(name)
        if key is None or not self.artifacts.holds(key):
            return False
        report = self.artifacts.report(key)
        try:
            cache.unpack(name, report["layout"], self.artifacts.tensors(key))
        except ValueError:
            return False
        self.borrowed[name] = report["cpu_seconds"]
        return True

    def _keep(self, cache: ActivationCache, name: str, seconds: float) -> None:
        key, packed = self.keys.get(name), cache.packed(name)
        if key is not None and key in self.wanted and packed is not None:
            layout, tensors = packed
            report = {"kind": "teacher", "cpu_seconds": round(seconds, 3), "layout": layout}
            self.artifacts.keep(key, report, tensors)
