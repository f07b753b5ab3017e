"""archspec: the compiler for the architecture of pretrained models.

Importing it costs next to nothing: torch and the libraries of the hosts are loaded by what needs them.

    archspec.load(folder)                       a compiled checkpoint as a module
    archspec.skills(model, pack)                SkillPacks on a loaded model, in a `with`
    archspec.inject(model, injection, donors)   features of donors in a diffusion host's attention, in a `with`
    archspec.routed(model, router)              each request answered by the SkillPacks of its task
    archspec.GraftedDiTTransformer2DModel, ...  what a compiled `config.json` or `model_index.json` names
    archspec.IdentityAutoencoder                the latent codec of hosts that work on pixels

After `import archspec`, diffusers' `DiffusionPipeline.from_pretrained` and transformers' `Auto*.from_pretrained` load
compiled checkpoints too, whichever library was imported first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from archspec import hook

if TYPE_CHECKING:
    from archspec.runtime.features.injecting import inject
    from archspec.runtime.packs.skills import skills
    from archspec.runtime.routing.routed import routed
    from archspec.runtime.store.load import load

__version__ = "0.1.0"
__all__ = ["__version__", "inject", "load", "routed", "skills"]
_HOMES = {
    "inject": "archspec.runtime.features.injecting",
    "load": "archspec.runtime.store.load",
    "routed": "archspec.runtime.routing.routed",
    "skills": "archspec.runtime.packs.skills",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name.startswith("Grafted") or name in ("IdentityAutoencoder", "ModelMixin", "PreTrainedModel"):
        from archspec.runtime.ecosystem import interop

        return interop.component(name)
    raise AttributeError(f"module 'archspec' has no attribute '{name}'")


hook.install()
