"""First weights of a new operator.

| kind | weights |
|---|---|
| random | torch's own defaults, drawn from the seed alone |
| identity | the operator changes nothing in the residual stream: a read-out of zeros |
| inherit | the teacher's weights, as far as the operator has a place for them |
| least_squares | as inherit where that is possible, else random; then a `fit` task solves for the read-out |

Every kind begins with the random draw, so that what is not set is defined too. A draw depends on the seed and the
path of the site only: not on the order of sites, the device, or the dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from archspec.diagnostics import InternalError
from archspec.host.structure import BESIDE
from archspec.operators.hyena_mlp import HyenaMlp
from archspec.operators.mlp import Mlp
from archspec.runtime.learn.narrowing import Way, narrowed
from archspec.runtime.operators.base import Operator, adopt, reset


def path_seed(seed: int, path: str) -> int:
    """Return a 63-bit seed for one place, independent of all others.

    >>> path_seed(0, "blocks.1.attn") == path_seed(0, "blocks.1.attn") != path_seed(0, "blocks.3.attn")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:8], "big") >> 1


def initialize(
    operator: Operator, kind: str, teacher: Mapping[str, Tensor], seed: int, neurons: Way = "strongest"
) -> None:
    """Set the operator's weights. `teacher` holds the site's weights by their canonical names (`q.weight`). `neurons`:
    how a narrower MLP is made of a wide one."""
    reset(operator, seed)
    if operator.foreign is not None:
        adopt(operator.foreign, {f"foreign.{name}": weight for name, weight in teacher.items()}, "foreign")
    if "up.weight" in teacher and isinstance(operator.config, Mlp | HyenaMlp):
        teacher = narrowed(teacher, operator.config.hidden or 0, neurons)
    match kind:
        case "random":
            return
        case "identity":
            operator.identify()
        case "inherit":
            _require(operator, teacher)
            _inherit(operator, teacher)
        case "least_squares":
            if can_inherit(operator, teacher):
                _inherit(operator, teacher)
        case _:
            raise InternalError(f"no initialization is called {kind!r}")


def _inherit(operator: Operator, teacher: Mapping[str, Tensor]) -> None:
    """Let the operator take over the weights of each stream. An attention without an output map has the identity."""
    own = {name: weight for name, weight in teacher.items() if not name.startswith(f"{BESIDE}.")}
    if not operator.shape.out_map:
        own["o.weight"] = torch.eye(operator.shape.width)
    operator.inherit(own)
    if operator.beside is not None:
        operator.lend(own | {name.removeprefix(f"{BESIDE}."): w for name, w in teacher.items() if name not in own})


def can_inherit(operator: Operator, teacher: Mapping[str, Tensor]) -> bool:
    """Whether the operator has a place for this teacher's weights."""
    config, shape = operator.config, operator.shape
    wanted = config.inherits(shape)
    fits = "inherit" in config.inits and not any(config.obstacles(shape))
    return fits and all(f"{name}.weight" in teacher for name in wanted)


def _require(operator: Operator, teacher: Mapping[str, Tensor]) -> None:
    if not can_inherit(operator, teacher):
        reasons = [p.message for p in operator.config.obstacles(operator.shape)]
        known = ", ".join(sorted(teacher)) or "nothing"
        detail = "; ".join(reasons) or f"the teacher's weights are {known}"
        raise InternalError(f"{operator.config.name} was to inherit and cannot: {detail}")
