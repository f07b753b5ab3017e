"""The host as the language sees it: sites and tensor headers, without torch.

A `Structure` is made from `config.json` and safetensors headers by a family of `archspec.families`. A `Site` is one
place that a selector can name; its `SiteShape` is the tensor contract that an operator must keep, (batch, tokens,
width) to the same; its `Port` says how the host's own code calls it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from archspec.host.excerpt import Excerpt


@dataclass(frozen=True)
class SiteShape:
    """The contract of a site. Sizes are counts; `None` means unknown or not applicable."""

    width: int
    """0 where only running the host can tell (a host of no known family)."""
    tokens: int | None = None
    """Tokens at the host's native size; None for a host that takes any number (language models)."""
    grid: tuple[int, int] | None = None
    """(rows, columns) when the tokens are a raster of a 2-D grid."""
    causal: bool = False
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    """Inner width of an MLP."""
    activation: str | None = None
    """Activation of an MLP, by its name in transformers' ACT2FN (`gelu_pytorch_tanh`, `silu`)."""
    gated: bool = False
    """MLP with a gate projection (SwiGLU)."""
    bias: bool = True
    """Input projections carry a bias."""
    out_bias: bool = True
    """The output projection carries a bias."""
    rotary: bool = False
    qk_norm: bool = False
    prefix: int = 0
    """Tokens before those of the grid (ViT's class token). A filter over the grid shows them nothing but themselves."""
    context: int | None = None
    """Width of what a cross attention reads beside the tokens: (batch, its tokens, context)."""
    beside: Literal["whole", "read"] | None = None
    """A second stream that the site mixes with its own, as one sequence in which it stands first: it has maps of its
    own into the mixer and (`whole`) out of it; `read`: nothing of it comes out. The sizes here are the own stream's."""
    context_first: bool = False
    """The tokens of a text stand before those of the grid, in the one sequence that the site reads. How many there are
    follows from the grid of a call."""
    out_map: bool = True
    """Attention has an output projection. Where it has none, the identity stands for it."""
    foreign: int = 0
    """Of a site's second module: as `Port.foreign`. What stands there keeps the host's map of these features, and adds
    to it what the site gives, which comes behind them."""


Streams = tuple[tuple[str, int | None], ...]
"""(parameter, index in the returned tuple) of each sequence of tokens that a module carries. Index None: it reads the
sequence and gives none back."""


@dataclass(frozen=True)
class Port:
    """How the host calls a site. `input` and the context names are parameter names of the host's module."""

    input: str = "hidden_states"
    returns: int = 0
    """0: the module returns the tensor itself; n: a tuple of n in which the tensor stands first and the rest is None,
    unless `streams` says otherwise."""
    rotary: str | None = None
    """Parameter that holds (cos, sin), each ([batch or 1,] tokens, head_dim), of all tokens that are mixed."""
    mask: str | None = None
    """Parameter that holds the attention mask."""
    cache: str | None = None
    """Parameter that holds a transformers `Cache`."""
    context: str | None = None
    """Parameter that holds what a cross attention reads beside the tokens."""
    places: tuple[str, ...] = ()
    """Parameters that the host gives by place behind the tokens, in order; where it says none, that is the mask."""
    exit: str | None = None
    """Where the host does a site's work in two modules (BERT: the last linear map stands in the next one): the second,
    by its path from the parent of the first. An operator does the work of both, and there the identity stands."""
    through: str | None = None
    """A module between these two that is the site's as well, likewise."""
    foreign: int = 0
    """How many inputs of the second module, its first ones, are not the site's (FLUX: one map reads the output of an
    attention and the neurons of an MLP). Its bias is not the site's either."""

    interleaved: bool = False
    """Rotary embeddings turn features 2i and 2i + 1 together; else i and i + head_dim / 2."""
    streams: Streams = ()
    """Of a module that carries several sequences (the tokens of an image and those of its caption): each of them, the
    site's own, `input`, before the others. They are the module's first parameters, in this order."""

    @property
    def output(self) -> int:
        """Index of the site's own tokens in a returned tuple."""
        return (self.streams[0][1] if self.streams else 0) or 0

    @property
    def ended(self) -> tuple[str, ...]:
        """The streams that are read and not given back: no block can stand behind this one."""
        return tuple(name for name, index in self.streams if index is None)

    def exit_of(self, path: str) -> str | None:
        """Return the path of the module that gives the output of the site at `path`, None where that is the site's own.

        >>> Port(exit="output.dense").exit_of("layer.0.attention.self")
        'layer.0.attention.output.dense'
        """
        return None if self.exit is None else sibling(path, self.exit)


def sibling(path: str, name: str) -> str:
    """Return the path of a module from its path within the parent of another.

    >>> sibling("h.0.attn", "mlp.up"), sibling("attn", "mlp")
    ('h.0.mlp.up', 'mlp')
    """
    home = path.rpartition(".")[0]
    return f"{home}.{name}" if home else name


EXIT = "exit"
"""The slot of a site's second module, which no selector names."""
JOINT = "joint_attn"
"""The slot of attention over two streams at once, with an output for each (`SiteShape.beside`)."""
BESIDE = "beside"
"""Under what an operator keeps the maps of a second stream, and a site's `teacher` its weights (`beside.q.weight`)."""
ROLES: Mapping[str, str] = {JOINT: "attn", "context_mlp": "mlp"}
"""Slot -> the slot whose losses, measures and low-rank targets mean it too."""


@dataclass(frozen=True)
class Site:
    """One place in the host. `path` is its module path in the base, for example `transformer_blocks.3.attn1`."""

    path: str
    slot: str
    """Role: attn, cross_attn, joint_attn, mlp, context_mlp (of the second stream), norm, block; `module` where a host
    of no known family leaves it open."""
    shape: SiteShape
    port: Port = Port()
    group: str = "blocks"
    """The list of blocks it belongs to, by its name in selectors."""
    index: int | None = None
    """Index of its block within the group, from 0."""
    teacher: Mapping[str, Excerpt] = field(default_factory=dict, hash=False)
    """Canonical weight name to where it stands in the base: attention q, k, v, o; MLP up, down, gate (each with
    `.weight` and, where the host has it, `.bias`). What `inherit` reads."""

    @property
    def role(self) -> str:
        """The slot that stands for it where slots are spoken of in general."""
        return ROLES.get(self.slot, self.slot)

    @property
    def exit(self) -> Site | None:
        """The second of its two modules, see `Port.exit`."""
        path = self.port.exit_of(self.path)
        return self._end(path, self.port.foreign) if path else None

    @property
    def ends(self) -> tuple[Site, ...]:
        """Its modules behind the first: what is between, and the second."""
        between = (self._end(sibling(self.path, self.port.through)),) if self.port.through else ()
        return (*between, self.exit) if self.exit else between

    def _end(self, path: str, foreign: int = 0) -> Site:
        shape = SiteShape(self.shape.width, self.shape.tokens, self.shape.grid, self.shape.causal, foreign=foreign)
        kept = {"weight": Excerpt(f"{path}.weight", axis=1, stop=foreign), "bias": Excerpt(f"{path}.bias")}
        return Site(path, EXIT, shape, Port("input"), self.group, self.index, kept if foreign else {})

    @property
    def paths(self) -> tuple[str, ...]:
        """The modules that do its work."""
        return (self.path, *(end.path for end in self.ends))

    @property
    def name(self) -> str:
        """The name a user would write for this site alone, for example `blocks[3].attn`; the path where no slot says
        it (a block has several norms, a `module` has no known role)."""
        if self.index is None or self.slot in ("norm", "module"):
            return f'"{self.path}"'
        block = f"{self.group}[{self.index}]"
        return block if self.slot == "block" else f"{block}.{self.slot}"


@dataclass(frozen=True)
class TensorHeader:
    """A tensor of a safetensors file: `dtype` as safetensors spells it (F32, BF16), data at `start` to `end` bytes of
    the whole file."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def count(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True)
class Probe:
    """A file that `archspec probe` wrote. `values`: measure -> module path -> figure; `digest` is of the content."""

    file: str
    digest: str
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Structure:
    """All that is known of a host without running it."""

    family: str
    """Name in `archspec.families.FAMILIES`; `unknown` for a host addressed by module paths."""
    architecture: str
    """Class name from the config: `DiTTransformer2DModel`, `LlamaForCausalLM`."""
    library: str
    """`diffusers` or `transformers`."""
    config: Mapping[str, Any]
    groups: Mapping[str, str]
    """Selector name of each list of blocks to its module path: {"blocks": "transformer_blocks"}."""
    sites: tuple[Site, ...]
    tensors: Mapping[str, TensorHeader] | None = None
    """None when only the config is at hand."""
    probe: Probe | None = None
    """What was measured of the host, when the spec names it."""

    def depth(self, group: str = "blocks") -> int:
        return sum(1 for s in self.sites if s.slot == "block" and s.group == group)

    def site(self, path: str) -> Site | None:
        return next((s for s in self.sites if s.path == path), None)

    def children(self, block: Site) -> tuple[Site, ...]:
        """Return the sites inside a block, the block itself left out."""
        return tuple(s for s in self.sites if s.path.startswith(f"{block.path}."))

    @property
    def tokens(self) -> int | None:
        return next((s.shape.tokens for s in self.sites if s.shape.tokens), None)


def inside(path: str, paths: Collection[str]) -> bool:
    """Say whether a module or tensor, or a module above it, is among `paths` (a set, or a mapping's keys).

    >>> inside("h.1.attn.q.weight", {"h.1.attn"}), inside("h.11.attn", {"h.1"})
    (True, False)
    """
    while path:
        if path in paths:
            return True
        path = path.rpartition(".")[0]
    return False
