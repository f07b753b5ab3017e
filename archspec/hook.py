"""Teach transformers about compiled checkpoints when, and only when, it is there.

`import archspec` must stay cheap, and may come before or after `import transformers`. So if transformers' table of
model types is loaded already, the model type `archspec` is registered at once; else a finder at the head of
`sys.meta_path` waits for that one module, registers behind its loading, and leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # what these are bases of is told by its methods; importing them takes longer than all the rest of this package
    Loader = MetaPathFinder = object

AWAITED = "transformers.models.auto.configuration_auto"


def install() -> None:
    """Register now or as soon as possible; doing so again changes nothing."""
    module = sys.modules.get(AWAITED)
    if module is not None and hasattr(module, "AutoConfig"):
        register(module)
    elif not any(isinstance(finder, _Awaiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Awaiting())


def register(module: ModuleType) -> None:
    """Enter the model type into transformers' lazy table."""
    from archspec.runtime.ecosystem.graft_config import ArchspecConfig

    module.CONFIG_MAPPING.register(ArchspecConfig.model_type, ArchspecConfig, exist_ok=True)


class _Awaiting(MetaPathFinder):
    """Finds nothing by itself; wraps the loader of the awaited module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AWAITED:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads the module as its own loader does, then registers."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register(module)

    def __getattr__(self, name: str) -> Any:
        """Offer what else the loader can do (sources for tracebacks, resources)."""
        return getattr(self._loader, name)
