"""The Spec: what a person wrote, as frozen dataclasses. One class per construct, one field per key.

Both spellings build this (through `build.py`); the JSON Schema, `docs/language.md`'s tables and the validator read
the same declarations. Units: fractions are floats (10 % is 0.1), bytes are integers, times are diffusion times.
Selectors always name sites of the *base*, so the order of edits never renumbers anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from archspec.language.edits import Edit, OperatorCall
from archspec.language.expectations import Expectation
from archspec.language.features import Inject
from archspec.language.fields import Node, arg, node
from archspec.language.knowledge import Attach, Pack, Route
from archspec.language.selectors import Selector
from archspec.language.stages import Data, Distill, Eval, Finetune


@node
class Base(Node):
    """The host."""

    shorthand: ClassVar[str | None] = "from_"
    from_: str = arg(
        "hub id, or path of a folder or file relative to the spec", example="facebook/DiT-XL-2-256", path=True
    )
    subfolder: str | None = arg("folder of the model inside a pipeline", default=None, example="transformer")
    revision: str | None = arg("hub revision", default=None)
    fingerprint: str | None = arg(
        "refuse a base whose content has another fingerprint (as the lock prints it)", default=None
    )
    weights: Literal["stored", "random"] = arg(
        "random: drawn anew by the host's own class, in float32; of the base only its config is read", default="stored"
    )
    seed: int = arg("seed of random weights", default=0, least=0)
    teacher: str | None = arg(
        "of random weights: the trained model of the same sites that is imitated and measured beside the result, hub "
        "id or path of a folder (and the same subfolder); default: none",
        default=None,
        path=True,
    )


@node
class Search(Node):
    """What `archspec search` chooses from: an operator for each site, at a price (Puzzle,
    https://arxiv.org/abs/2411.19146, Sec. 3)."""

    sites: Selector = arg("sites to choose for")
    candidates: tuple[OperatorCall, ...] = arg("operators; beside them every site may stay as it is")
    budget: tuple[Expectation, ...] = arg("upper bounds on params, flops, weights or latency of the result")
    samples: int = arg("calibration samples of the fits that scores are of", default=256, least=1)
    ridge: float = arg("ridge of these fits, as a fraction of the mean Gram diagonal", default=1e-4, least=0)
    seed: int = arg("seed of random weights and of calibration", default=0, least=0)


@node
class Spec(Node):
    """A whole spec file. Of a member of a matrix, `matrix` and `arms` are empty (`archspec.language.matrix`)."""

    called: ClassVar[str | None] = "a spec"
    archspec: Literal[1] = arg("version of the language", default=1)
    name: str = arg(
        "name of the result: letters, digits, `.`, `_`, `-`",
        example="dit-xl2-hyena-x-50",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*",
    )
    description: str | None = arg("one paragraph for the model card", default=None)
    extends: str | None = arg("spec to inherit from, path relative to this file", default=None)
    base: Base | None = arg("the host; may come from `extends`", default=None)
    probe: str | None = arg(
        "file that `archspec probe` wrote of the host, by which `top` and `bottom` rank sites", default=None, path=True
    )
    seed: int | None = arg("seed of every init and stage that states none", default=None, least=0)
    matrix: Mapping[str, Any] = arg("axes: `$axis` stands for one of its values", default_factory=dict)
    arms: Mapping[str, Any] = arg("variants, each told by what it changes of the spec", default_factory=dict)
    let: Mapping[str, Selector] = arg("named selectors", default_factory=dict, pattern=r"[A-Za-z_]\w*")
    edits: tuple[Edit, ...] = arg("edits", default=())
    data: Data | None = arg("default data of all stages", default=None)
    distill: Distill | None = arg("regression; absent or `none`: none", default=None)
    finetune: Finetune | None = arg("finetuning; absent or `none`: none", default=None)
    eval: Eval | None = arg("measurement; absent or `none`: none", default=None)
    search: Search | None = arg("what `archspec search` chooses edits from; absent or `none`: nothing", default=None)
    pack: Pack | None = arg("what `archspec pack` makes; absent or `none`: nothing", default=None)
    attach: Attach | None = arg("packs on the base; absent or `none`: none", default=None)
    route: Route | None = arg("what `archspec route` makes; absent or `none`: nothing", default=None)
    inject: Inject | None = arg("features of donors, while it draws; absent or `none`: none", default=None)
    expect: tuple[Expectation, ...] = arg("assertions about the result", default=())
