"""Injections where no attention processor exists: the attention's own graph, with its kernel's call exchanged.

torch.fx traces the module; the one call of `scaled_dot_product_attention` in it becomes a call that asks a session
what each sample sees. Everything around it (projections, norms, rotations, the output map) stays the host's own code.
Queries and keys arrive as the kernel is given them: a host that rotates has done so, so donors' keys keep their places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from archspec.diagnostics import fail
from archspec.runtime.features.apply import Call, attention
from archspec.runtime.features.positions import Fixed
from archspec.runtime.features.session import Session

KERNEL = F.scaled_dot_product_attention


def rewritten(module: nn.Module, session: Session, site: str) -> fx.GraphModule:
    """Return the module with its attention under an injection. It shares all weights. AS758 where it cannot be traced,
    or attends not exactly once by torch's kernel."""
    try:
        graph = fx.Tracer().trace(module)
    except (TypeError, ValueError, AttributeError, NotImplementedError, fx.proxy.TraceError) as error:
        first = str(error).partition("\n")[0]
        raise fail("AS758", f"the attention at '{site}' cannot be traced: {first}") from error
    calls = [node for node in graph.nodes if node.op == "call_function" and node.target is KERNEL]
    if len(calls) != 1:
        message = f"the module at '{site}' calls torch's attention {len(calls)} times"
        raise fail("AS758", message, None, "name modules that call scaled_dot_product_attention once")
    (node,) = calls
    feature = next(other for other in graph.nodes if other.op == "placeholder")
    with graph.inserting_before(node):
        seen = graph.call_function(_kernel(session, site), (feature, *node.args), dict(node.kwargs))
    node.replace_all_uses_with(seen)
    graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(module, graph)


def _kernel(session: Session, site: str) -> Callable[..., Tensor]:
    """Return a function of a name, which graphs ask for."""

    def attend_with_donors(*args: Any, **keywords: Any) -> Tensor:
        return _attend(session, site, *args, **keywords)

    return attend_with_donors


def _attend(
    session: Session,
    site: str,
    feature: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **keywords: Any,
) -> Tensor:
    """Attend as the kernel would where nothing is grafted."""
    if session.idle(site):
        return KERNEL(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **keywords)
    if is_causal:
        attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
    rows, columns = session.grid
    image = slice(q.shape[2] - rows * columns, q.shape[2])
    call = Call(site, q, k, v, image, feature[:, image], Fixed(), attn_mask, keywords.get("scale"))
    return attention(call, session)
