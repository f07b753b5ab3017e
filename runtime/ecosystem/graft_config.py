"""Configs of compiled models in transformers: one registered model type, behind which every host's config stands.

A compiled `config.json` has the model type `archspec`. `AutoConfig` finds `ArchspecConfig` under it, which reads the
host's own model type from the entry `archspec` and gives a config of the class `Grafted<Host>Config`: the host's
config, with the host's model type while it is in memory, plus the entry. The Auto classes that know the host's config
then learn its grafted twin. Importing this does not import torch.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from archspec.diagnostics import fail
from archspec.runtime.model.program import KEY, MODEL_TYPE, PREFIX, read_graft


class ArchspecConfig(PreTrainedConfig):  # type: ignore[misc]
    """Reads configs of any grafted host."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        graft = read_graft(config_dict.get(KEY))
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if graft.model_type not in CONFIG_MAPPING or graft.model_type == MODEL_TYPE:
            raise fail("AS645", f"transformers has no model type '{graft.model_type}', that of the checkpoint's host")
        found = config_class(CONFIG_MAPPING[graft.model_type])
        _register(found)
        return found.from_dict(config_dict, **kwargs)


def document(host: Any) -> str:
    return f"{host.__name__} as edited by archspec; the config's `{KEY}` entry holds the instructions."


@cache
def config_class(host: type[Any]) -> type[Any]:
    """Return `Grafted<HostConfig>`: the host's config, saved under the model type `archspec`."""

    def to_dict(self: Any) -> dict[str, Any]:
        found: dict[str, Any] = host.to_dict(self)
        return {**found, "model_type": MODEL_TYPE} if found.get(KEY) else found

    def from_dict(cls: Any, /, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        own = {key: value for key, value in config_dict.items() if key != "model_type"}
        return host.from_dict.__func__(cls, own, **kwargs)

    body = {
        "to_dict": to_dict,
        "from_dict": classmethod(from_dict),
        "__module__": "archspec",
        "__doc__": document(host),
    }
    return type(PREFIX + host.__name__, (host,), body)


def _register(config: type[Any]) -> None:
    """Let every Auto class that knows the host's config know the grafted one. Models of another config, which some Auto
    classes give to the host's (Jev to Qwen2's), are none of it."""
    from transformers.models.auto import modeling_auto

    from archspec.runtime.ecosystem.interop import grafted_class

    host = config.__mro__[1]
    for auto in _autos(modeling_auto):
        known = auto._model_mapping.get(host, ())
        own = (model for model in (known if isinstance(known, tuple) else (known,)) if model.config_class is host)
        for model in own:
            auto.register(config, grafted_class("transformers", model.__name__), exist_ok=True)


def _autos(module: ModuleType) -> list[Any]:
    found = (getattr(module, name) for name in dir(module) if name.startswith("AutoModel"))
    return [auto for auto in found if getattr(auto, "_model_mapping", None) is not None]
