"""Edits: one class per verb, what they put in place, and how that gets its first weights.

Selectors always name sites of the *base*, so the order of edits never renumbers anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from archspec.language.fields import Node, arg, node
from archspec.language.selectors import Selector

InitKind = Literal["random", "identity", "inherit", "least_squares", "artifact"]
Merge = Literal["linear", "residual_linear", "sum", "average"]
SkipMerge = Literal["linear", "residual_linear", "sum"]


@node
class OperatorCall(Node):
    """An operator by name, with its parameters. `op` is its name; every other key is a field of its config."""

    called: ClassVar[str | None] = "an operator"
    shorthand: ClassVar[str | None] = "op"
    op: str = arg("operator", example="hyena_x")
    params: Mapping[str, Any] = field(default_factory=dict, metadata={"hidden": True})


@node
class Init(Node):
    """How the new part gets its first weights."""

    shorthand: ClassVar[str | None] = "kind"
    kind: InitKind | None = arg("how; default: the best that the operator supports without data", default=None)
    from_: str | None = arg("artifact to read (kind artifact)", default=None, path="file")
    neurons: Literal["auto", "strongest", "nearest", "clusters", "greedy"] = arg(
        "of a narrower MLP: strongest: those of large weights stay; nearest, clusters: those that are alike are "
        "merged; greedy: those that data miss least (least_squares); auto: greedy, without data strongest",
        default="auto",
    )
    ridge: float = arg("least_squares: ridge, as a fraction of the mean Gram diagonal", default=1e-4, least=0)
    samples: int = arg("least_squares: calibration samples", default=1024, least=1)
    sequential: bool = arg("least_squares: fit on the activations of the already edited model", default=False)
    grams: int = arg(
        "least_squares: budget of the Gram matrices held at once, bytes (`4GiB`; the least of all edits counts): sites "
        "that do not fit together take turns",
        default=4 * 1024**3,
        least=0,
        unit="bytes",
    )
    seed: int = arg("seed of random weights and of calibration", default=0, least=0)


@node
class Replace(Node):
    """Put another operator in place of each selected site."""

    verb: ClassVar[str] = "replace"
    target: Selector = arg("sites")
    with_: OperatorCall = arg("operator")
    init: Init = arg("first weights", default_factory=Init)


@node
class Parallelize(Node):
    """Run groups of consecutive selected blocks side by side on the same input and merge their outputs."""

    verb: ClassVar[str] = "parallelize"
    target: Selector = arg("blocks")
    by: int = arg("blocks per group", default=2, least=2)
    merge: Merge = arg("how outputs are merged", default="residual_linear")
    init: Init = arg("first weights of the merge", default_factory=Init)


@node
class Drop(Node):
    """Remove blocks."""

    verb: ClassVar[str] = "drop"
    target: Selector = arg("blocks")


@node
class Repeat(Node):
    """Apply each selected block several times in a row."""

    verb: ClassVar[str] = "repeat"
    target: Selector = arg("blocks")
    times: int = arg("applications in all", default=2, least=2, most=64)
    tie: bool = arg("every application uses the same weights; else copies", default=False)


@node
class Share(Node):
    """Let all selected sites use the weights of the first."""

    verb: ClassVar[str] = "share"
    target: Selector = arg("sites of one slot, or blocks")


@node
class Insert(Node):
    """Put an operator behind each selected block, in a residual branch of its own: y = x + op(norm(x))."""

    verb: ClassVar[str] = "insert"
    target: Selector = arg("blocks that it stands behind")
    with_: OperatorCall = arg("operator")
    init: Init = arg("first weights; default identity: at first the model computes what it did", default_factory=Init)


@node
class Skip(Node):
    """Lead outputs of early blocks to inputs of later ones: the first selected block to the last of `to`, and so on
    inwards, as in U-ViT (https://arxiv.org/abs/2209.12152, Sec. 3)."""

    verb: ClassVar[str] = "skip"
    target: Selector = arg("blocks whose outputs are led on")
    to: Selector = arg("as many later blocks, whose inputs they are merged into")
    merge: SkipMerge = arg("how an input and what skips to it are merged", default="residual_linear")
    init: Init = arg(
        "first weights of the merge; default identity: at first the model computes what it did", default_factory=Init
    )


@node
class Freeze(Node):
    """Keep the weights of the selected sites fixed in finetuning."""

    verb: ClassVar[str] = "freeze"
    target: Selector = arg("sites")


Edit = Replace | Parallelize | Drop | Repeat | Share | Insert | Skip | Freeze
EDITS: tuple[type[Edit], ...] = (Replace, Parallelize, Drop, Repeat, Share, Insert, Skip, Freeze)
"""One line per verb: all that the grammar, the builder and the schema know of edits."""


def selectors(edit: Edit) -> tuple[Selector, ...]:
    """Return every selector of an edit."""
    return (edit.target, edit.to) if isinstance(edit, Skip) else (edit.target,)
