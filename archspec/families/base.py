"""What a family of hosts is: the config attributes it understands, and the structure they describe.

A family lists every attribute that it handles (with the library's default, for configs that leave it out) and every
one that it ignores because it cannot change the structure; bookkeeping that all configs share is ignored in one place,
here. Any other attribute is refused by name, unless it is switched off: a host with a feature that nobody thought of
must not be edited as if it had none.

From the values a family makes an `Anatomy`: the lists of blocks, the sites in the order in which they run, and the name
and shape of every tensor. When the headers of the weights are at hand they must agree with it, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from archspec.diagnostics import Collector, fail, nearest
from archspec.host.excerpt import Excerpt
from archspec.host.fingerprint import same_data
from archspec.host.structure import Port, Site, SiteShape, Structure, TensorHeader
from archspec.source import Span

Shape = tuple[int, ...]
MOST_PROBLEMS = 3
"""Tensors that are named where a config and its weights disagree: more are counted, in one error."""

BOOKKEEPING = frozenset(
    {
        *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "name_or_path"),
        *("return_dict", "output_hidden_states", "output_attentions", "use_cache", "use_return_dict", "torchscript"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"),
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
        *("max_length", "min_length", "do_sample", "num_beams", "temperature", "top_k", "top_p", "repetition_penalty"),
        *("early_stopping", "num_return_sequences", "length_penalty", "no_repeat_ngram_size", "typical_p"),
        *("num_beam_groups", "diversity_penalty", "encoder_no_repeat_ngram_size", "output_scores", "bad_words_ids"),
        *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
        *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
        *("tokenizer_class", "prefix", "initializer_range", "use_bfloat16", "tf_legacy_loss"),
        *("transformers.js_config", "unsloth_fixed", "unsloth_version", "transformers_weights"),
    }
)
"""Attributes of any Hugging Face config that say nothing of the structure. Names that begin with `_` are as these."""


def bookkeeping(name: str) -> bool:
    return name.startswith("_") or name in BOOKKEEPING


@dataclass(frozen=True)
class Attribute:
    """A handled attribute: its default in the library, and what else it may be."""

    default: Any
    kind: type
    optional: bool = False
    most: int = 2**31
    choices: tuple[Any, ...] = ()

    def fault(self, value: Any) -> str | None:
        """Return why `value` is impossible, None when it is fine."""
        if value is None and (self.optional or self.default is None):
            return None
        if type(value) is not self.kind:  # not isinstance: True is an int
            return f"must be {KINDS[self.kind]}"
        if isinstance(value, int) and self.kind is int and not 1 <= value <= self.most:
            return f"must be 1 to {self.most}"
        return None


KINDS: Mapping[type, str] = {
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def count(default: int | None, most: int = 2**31, *, optional: bool = False) -> Attribute:
    return Attribute(default, int, optional, most=most)


def flag(default: bool | None) -> Attribute:
    return Attribute(default, bool, default is None)


def choice(default: str, *others: str) -> Attribute:
    """Declare a text of which only these values are understood."""
    return Attribute(default, str, choices=(default, *others))


@dataclass(frozen=True)
class Anatomy:
    """What a config's values describe."""

    groups: Mapping[str, str]
    """Selector name of each list of blocks -> its module path."""
    sites: tuple[Site, ...]
    """In the order in which they run, each block before its parts."""
    tensors: Mapping[str, Shape]
    """Every tensor that a checkpoint of this host has."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Tensor that a checkpoint may repeat -> the tensor whose weights it uses."""
    spare: frozenset[str] = frozenset()
    """Tensors that a checkpoint may hold although the host computes them (old buffers)."""


@dataclass(frozen=True)
class Family:
    """One family. `anatomy` gets the class and all handled values; it raises AS604 where they are at odds."""

    name: str
    library: str
    architectures: frozenset[str]
    handled: Mapping[str, Attribute]
    ignored: frozenset[str]
    anatomy: Callable[[str, Mapping[str, Any], Span | None], Anatomy]
    legacy: Callable[[Mapping[str, Any]], str | None] = field(default=lambda config: None)
    """Return the class that the library loads in place of an outdated one, None when that is not of this family."""
    task: Literal["images", "text", "encoder", "vision"] = "images"
    """What the host makes: which measures and objectives have a meaning for it."""
    headless: frozenset[str] = frozenset()
    """Those of its classes that give features and have no task of their own: they learn from a teacher alone."""
    outside: tuple[str, ...] = ()
    """Modules within blocks that the host also reads from outside of their block, which so cannot be taken away."""
    computed: frozenset[str] = frozenset()
    """Tensors of its checkpoints that are computed, not learned: they are copied, and are no parameters."""
    turned: frozenset[str] = frozenset()
    """Linear maps, by the last part of their paths, that keep their weights as (inputs, outputs)."""
    places: Literal["rotary", "fixed"] | None = None
    """How attention knows where its keys stand, of hosts that features can be injected into: `rotary` keys are rotated
    after projection; `fixed`: places are in the tokens."""
    advice: str = "are config.json and the weights of the same model?"
    """What to do when the headers of the weights are not what the config calls for."""

    def claims(self, library: str, architecture: str, config: Mapping[str, Any]) -> str | None:
        """Return the class of this family that the config stands for, None when it stands for none."""
        if library != self.library:
            return None
        return architecture if architecture in self.architectures else self.legacy(config)

    def tensors(self, architecture: str, config: Mapping[str, Any]) -> Mapping[str, Shape]:
        """Return name -> shape of every tensor that a config calls for."""
        return self._anatomy(architecture, config, None).tensors

    def tied(self, architecture: str, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return tensor that a checkpoint may repeat -> the tensor whose weights it uses."""
        return self._anatomy(architecture, config, None).tied

    def structure(
        self,
        architecture: str,
        config: Mapping[str, Any],
        tensors: Mapping[str, TensorHeader] | None = None,
        span: Span | None = None,
    ) -> Structure:
        """Return the host's structure. Everything in the config that is not understood is an error at `span`."""
        anatomy = self._anatomy(architecture, config, span)
        if tensors is not None:
            _compare(anatomy, tensors, span, self.advice)
            tensors = {name: header for name, header in tensors.items() if name in anatomy.tensors}
        return Structure(self.name, architecture, self.library, config, anatomy.groups, anatomy.sites, tensors)

    def _anatomy(self, architecture: str, config: Mapping[str, Any], span: Span | None) -> Anatomy:
        problems = Collector()
        values = self._values(config, problems, span)
        problems.raise_if_errors()
        return self.anatomy(architecture, values, span)

    def _values(self, config: Mapping[str, Any], problems: Collector, span: Span | None) -> dict[str, Any]:
        """Return every handled attribute's value, read or default."""
        values = {name: config.get(name, attribute.default) for name, attribute in self.handled.items()}
        for name, value in values.items():
            attribute = self.handled[name]
            if fault := attribute.fault(value):
                problems.report("AS604", f"config attribute '{name}' is {_short(value)}: it {fault}", span)
            elif attribute.choices and value not in attribute.choices:
                self._refuse(name, value, problems, span)
        for name, value in config.items():
            if name not in self.handled and name not in self.ignored and not bookkeeping(name) and not _off(value):
                self._refuse(name, value, problems, span)
        return values

    def _refuse(self, name: str, value: Any, problems: Collector, span: Span | None) -> None:
        message = f"config attribute '{name}' = {_short(value)} is not supported in {self.name} hosts"
        known = self.handled.get(name)
        if known:
            hints: tuple[str, ...] = (f"supported: {', '.join(map(repr, known.choices))}",)
        else:
            hints = nearest(name, self.handled) or (
                "the host's own code may give it a meaning that archspec cannot see",
            )
        problems.report("AS603", message, span, *hints)


def _off(value: Any) -> bool:
    """A feature that is not known is acceptable when it is switched off."""
    return value is None or value is False or value in ("", [], {})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compare(anatomy: Anatomy, tensors: Mapping[str, TensorHeader], span: Span | None, hint: str) -> None:
    """Refuse headers that are not what the config calls for: an error each, or one that names the first few."""
    problems = Collector()
    wrong = [
        *(f"tensor '{name}' is missing" for name in anatomy.tensors if name not in tensors),
        *(
            f"tensor '{name}' is {header.shape}, the config calls for {anatomy.tensors[name]}"
            for name, header in tensors.items()
            if name in anatomy.tensors and header.shape != anatomy.tensors[name]
        ),
        *(
            f"tensor '{name}' has no place in this model"
            for name in tensors
            if name not in anatomy.tensors and name not in anatomy.spare and name not in anatomy.tied
        ),
        *_untied(anatomy, tensors),
    ]
    if len(wrong) > MOST_PROBLEMS:  # one cause has many effects
        first = "; ".join(wrong[:MOST_PROBLEMS])
        wrong = [f"{len(wrong)} tensors are not what the config calls for: {first}; ..."]
    for message in wrong:
        problems.report("AS606", message, span, hint)
    problems.raise_if_errors()


def _untied(anatomy: Anatomy, tensors: Mapping[str, TensorHeader]) -> Iterator[str]:
    """Yield the repeats of tied tensors that hold something else; libraries would then not tie them."""
    for name, owner in anatomy.tied.items():
        repeat, original = tensors.get(name), tensors.get(owner)
        if repeat and original and not same_data(repeat, original):
            yield f"the config ties '{name}' to '{owner}', but the two differ"


def linear(name: str, rows: int, columns: int, bias: bool = True) -> dict[str, Shape]:
    """Return the tensors of an `nn.Linear` from `columns` to `rows` features."""
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def layer_norm(name: str, width: int) -> dict[str, Shape]:
    """Return the tensors of an `nn.LayerNorm` that has weights."""
    return {f"{name}.{part}": (width,) for part in PARTS}


def prefixed(prefix: str, tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    return {f"{prefix}.{name}": shape for name, shape in tensors.items()}


def teachers(path: str, names: Mapping[str, str | Excerpt], tensors: Mapping[str, Shape]) -> dict[str, Excerpt]:
    """Return canonical weight -> where it stands, for the projections of one site.

    `names` maps canonical projections to modules under `path`, or to an excerpt whose `tensor` is such a module: what
    is taken of the weight is taken of the bias too. `tensors` tells which of them have a bias.

    >>> found = teachers("h.0.attn", {"o": "to_out.0"}, {"h.0.attn.to_out.0.weight": (2, 2)})
    >>> {role: excerpt.to_json() for role, excerpt in found.items()}
    {'o.weight': 'h.0.attn.to_out.0.weight'}
    """
    found = {}
    for role, module in names.items():
        whole = module if isinstance(module, Excerpt) else Excerpt(module)
        for part in PARTS:
            excerpt = _part(replace(whole, tensor=f"{path}.{whole.tensor}.{part}"), part)
            if excerpt.tensor in tensors:
                found[f"{role}.{part}"] = excerpt
    return found


def _part(excerpt: Excerpt, part: str) -> Excerpt:
    """Fit the excerpt of a weight to the bias: it has the outputs alone."""
    if part == "weight":
        return excerpt
    return replace(excerpt, transposed=False) if excerpt.axis == 0 else Excerpt(excerpt.tensor, scale=excerpt.scale)


def norm_site(
    path: str,
    shape: SiteShape,
    index: int,
    tensors: Mapping[str, Shape],
    port: Port = Port("input"),
    group: str = "blocks",
) -> Site:
    """Return the site of a norm, whose teacher is those of its parts that `tensors` have."""
    teacher = {part: Excerpt(name) for part in PARTS if (name := f"{path}.{part}") in tensors}
    return Site(path, "norm", shape, port, group, index, teacher)


def check_heads(name: str, whole: int, heads: int, span: Span | None) -> None:
    """Refuse a size that its heads do not share evenly: AS604 at `span`."""
    if whole % heads:
        raise fail("AS604", f"config attribute '{name}' is {whole}: no multiple of {heads} heads", span)


PARTS = ("weight", "bias")
