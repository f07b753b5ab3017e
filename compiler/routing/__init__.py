"""Routers made: `fit` finds a head and its threshold from embeddings of examples, `make` writes the file of a spec."""
