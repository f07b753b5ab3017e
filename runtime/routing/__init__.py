"""Routers: which packs are active for a request, told by its task or by what it is like (`archspec.packs.router`).

`head` scores embeddings, `embed` makes them, `router` chooses, `routed` runs a model so, `mixture` while it generates.
Routers are made by `archspec.compiler.routing`.
"""
