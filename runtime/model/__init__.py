"""Models in memory: the host built from its config, and programs of instructions executed on it."""
