"""The YAML configs of the published grafts (arXiv 2506.05340), read as edits, and the mistakes that some of them hold.

    operator:        type (mha | mlp), name, config_filepath (of the operator's parameters, from the repository's root)
    sample_config:   (or train_config) graft_indexes, graft_weights, dit_model_name, image_size

The code that came with them believes all of it in silence. Here each of these is an error, with its place:

AS655   the operator or a parameter is none that exists (`fused_bias_fc` of the MLP Hyena-X makes the code fail), the
        file of parameters is missing, or a width or size contradicts the model
AS656   `graft_weights` is a list of maps (the code then loads none of them, without a word), names a block that is not
        grafted, or gives a block the weights of another
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archspec.diagnostics import Collector, nearest
from archspec.language.parse import read_source
from archspec.source import Span
from archspec.syntax.tree import Map, Scalar, Seq, Tree, plain
from archspec.syntax.yaml_syntax import parse_yaml

SECTIONS = ("sample_config", "train_config")
SLOTS = {"mha": "attn", "mlp": "mlp"}
_BLOCK = re.compile(r"block_(\d+)")


@dataclass(frozen=True)
class Kind:
    """A published operator: its slot, ours, and the keys of its config (key -> our parameter, None: without effect)."""

    slot: str
    operator: str
    keys: Mapping[str, str | None]
    width: str = "d_model"
    fixed: Mapping[str, Any] = field(default_factory=dict)


def _without(*keys: str) -> dict[str, str | None]:
    return dict.fromkeys(keys)


HYENA = {"order": 2, "inner_factor": 1}
"""The only values with which the published code works."""
COMMON = _without("d_model", "l_max", "num_heads", "num_blocks", *HYENA)
SWA = _without(
    *("embed_dim", "num_heads_kv", "cross_attn", "out_proj_bias", "dropout", "softmax_scale", "layer_idx", "dwconv"),
    *("rotary_emb_dim", "rotary_emb_base", "rotary_emb_scale_base", "rotary_emb_interleaved", "fused_bias_fc"),
    *("use_flash_attn", "return_residual", "checkpointing", "device", "dtype", "qkv_proj_bias"),
)
KINDS: Mapping[str, Kind] = {
    "mha": Kind("attn", "attention", _without("dim", "qkv_bias") | {"num_heads": "heads"}, width="dim"),
    "swa": Kind(
        "attn",
        "local_attention",
        SWA | {"num_heads": "heads", "window_size": "window", "causal": "causal"},
        width="embed_dim",
    ),
    "hyena_se": Kind(  # the published module gives both convolutions the taps of the first
        "attn", "hyena_se", COMMON | {"short_filter_order": "kernel", "inner_filter_len": "inner_kernel"}, fixed=HYENA
    ),
    "hyena_x": Kind("attn", "hyena_x", COMMON | {"short_filter_order": "kernel"}, fixed=HYENA),
    "hyena_y": Kind("attn", "hyena_y", COMMON | {"inner_filter_len": "kernel"}, fixed=HYENA),
    "mamba2": Kind(
        "attn",
        "mamba2",
        _without("d_model") | {"d_state": "state", "d_conv": "conv", "expand": "expand", "headdim": "head_dim"},
    ),
    "mlp": Kind("mlp", "mlp", _without("d_model", "dropout") | {"expansion_ratio": "ratio"}),
    "mlp_hyena_x": Kind(
        "mlp", "hyena_mlp", COMMON | {"expansion_ratio": "ratio", "short_filter_order": "kernel"}, fixed=HYENA
    ),
}
"""One line per published operator."""


@dataclass(frozen=True)
class Config:
    """What a published config asks for."""

    name: str
    kind: Kind
    blocks: tuple[int, ...]
    parameters: Mapping[str, Any]
    width: int | None
    side: int | None
    """Of the latent image."""
    span: Span
    """Of the list of blocks."""

    @property
    def is_host(self) -> bool:
        """A graft of the operator that DiT has there: the file is then a plain DiT."""
        return self.kind.operator == "attention" or self.parameters.get("ratio") == 4


def read_config(path: Path) -> Config:
    """Read a config and the file of parameters that it names; raises ArchspecError with every mistake."""
    problems = Collector()
    tree = parse_yaml(read_source(path), foreign="`operator: ...` and `sample_config: ...`")
    found = _Reader(path, problems).config(tree)
    problems.raise_if_errors()
    assert found is not None
    return found


@dataclass(frozen=True)
class _Reader:
    path: Path
    problems: Collector

    def config(self, tree: Map) -> Config | None:
        operator, section = self._map(tree, "operator"), next((s for s in SECTIONS if tree.entry(s)), None)
        inside = self._map(tree, section) if section else None
        if section is None:
            self.wrong(f"the config has neither {' nor '.join(map(repr, SECTIONS))}", tree.span)
        if operator is None or inside is None:
            return None
        kind = self._kind(operator)
        blocks = tuple(self._blocks(inside))
        self._weights(inside, blocks)
        size = _value(inside, "image_size")
        if kind is None:
            return None
        name, parameters, width = str(_value(operator, "name")), *self._parameters(operator, kind)
        span = inside.span_of("graft_indexes")
        return Config(name, kind, blocks, parameters, width, size // 8 if isinstance(size, int) else None, span)

    def wrong(self, message: str, span: Span, *hints: str, code: str = "AS655") -> None:
        self.problems.report(code, message, span, *hints)

    def _map(self, tree: Map, key: str) -> Map | None:
        entry = tree.entry(key)
        if entry is None or not isinstance(entry.value, Map):
            self.wrong(f"the config has no map '{key}'", tree.span)
            return None
        return entry.value

    def _kind(self, operator: Map) -> Kind | None:
        name, slot = _value(operator, "name"), _value(operator, "type")
        kind = KINDS.get(str(name))
        if kind is None:
            hints = nearest(str(name), KINDS) or (f"published operators are {', '.join(KINDS)}",)
            self.wrong(f"'{name}' is no published operator", operator.span_of("name"), *hints)
        elif SLOTS.get(str(slot)) != kind.slot:
            right = next(word for word, ours in SLOTS.items() if ours == kind.slot)
            self.wrong(f"'{name}' does not replace '{slot}'", operator.span_of("type"), f"write `type: {right}`")
        return kind

    def _blocks(self, section: Map) -> Iterator[int]:
        entry = section.entry("graft_indexes")
        if entry is None or not isinstance(entry.value, Seq) or not entry.value.items:
            self.wrong("the config names no blocks", section.span_of("graft_indexes"), "write `graft_indexes: [1, 3]`")
            return
        seen: set[int] = set()
        for item in entry.value.items:
            value = item.value if isinstance(item, Scalar) else None
            if not isinstance(value, int) or isinstance(value, bool) or value < 0 or value in seen:
                self.wrong("a block is a number from 0, and stands once", item.span)
                continue
            seen.add(value)
            yield value

    def _weights(self, section: Map, blocks: tuple[int, ...]) -> None:
        entry = section.entry("graft_weights")
        if entry is None or (isinstance(entry.value, Scalar) and entry.value.value is None):
            return
        if isinstance(entry.value, Seq):
            hint = "write a map, `graft_weights: {1: FILE, 3: FILE}`: of a list the published code loads nothing"
            self.wrong("'graft_weights' is a list", entry.value.span, hint, code="AS656")
            return
        if not isinstance(entry.value, Map):
            self.wrong("'graft_weights' is no map", entry.value.span, code="AS656")
            return
        given = {str(item.key.value): item for item in entry.value.entries}
        for key, item in given.items():
            if not key.isdecimal() or int(key) not in blocks:
                self.wrong(f"block {key} gets weights and no graft", item.key.span, code="AS656")
            other = _BLOCK.search(str(plain(item.value)))
            if other and other[1] != key:
                hint = f"name the file of block_{key}"
                self.wrong(f"block {key} gets the weights of block {other[1]}", item.value.span, hint, code="AS656")
        if missing := [b for b in blocks if str(b) not in given]:
            hint = "give every grafted block a file, or none"
            self.wrong(f"blocks {missing} get no weights", entry.value.span, hint, code="AS656")

    def _parameters(self, operator: Map, kind: Kind) -> tuple[dict[str, Any], int | None]:
        span = operator.span_of("config_filepath")
        named = _value(operator, "config_filepath")
        file = _above(self.path, str(named))
        if file is None:
            self.wrong(f"there is no file '{named}' here or in a folder above", span, "keep the repository's layout")
            return {}, None
        tree = parse_yaml(read_source(file, span), foreign="the operator's parameters")
        found: dict[str, Any] = {}
        for entry in tree.entries:
            key, value = str(entry.key.value), plain(entry.value)
            if key not in kind.keys:
                hints = nearest(key, kind.keys) or ("the published module takes no such parameter: remove it",)
                self.wrong(f"'{key}' is no parameter of '{_value(operator, 'name')}'", entry.key.span, *hints)
            elif key in kind.fixed and value != kind.fixed[key]:
                self.wrong(f"the published module works with {key} {kind.fixed[key]} only", entry.value.span)
            elif (ours := kind.keys[key]) is not None:
                found[ours] = self._read(ours, value, entry.value)
        width = _value(tree, kind.width)
        return found, width if isinstance(width, int) else None

    def _read(self, name: str, value: object, tree: Tree) -> object:
        found = READERS[name](value) if name in READERS else value
        if found is None:
            hint = "a window is two equal numbers, [4, 4]; a flag is true or false"
            self.wrong(f"{name} cannot be read from {value!r}", tree.span, hint)
        return found


def _window(value: object) -> int | None:
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1] and isinstance(value[0], int):
        return value[0]
    return None


def _flag(value: object) -> bool | None:
    return {"True": True, "False": False}.get(str(value).capitalize())


READERS: Mapping[str, Callable[[object], object]] = {"window": _window, "causal": _flag}
"""Our parameter -> how its published value is read; others are taken as they stand."""


def _value(tree: Map, key: str) -> Any:
    entry = tree.entry(key)
    return entry.value.value if entry and isinstance(entry.value, Scalar) else None


def _above(config: Path, name: str) -> Path | None:
    """Find a path that starts at the root of the repository in which a config lies."""
    folders = config.resolve().parents
    return next((folder / name for folder in folders if name and (folder / name).is_file()), None)
