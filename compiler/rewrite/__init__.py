"""The host's graph, the passes that rewrite it, and what must hold after each."""
