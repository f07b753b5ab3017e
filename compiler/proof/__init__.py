"""Translation validation: the lowered model equals the rewritten graph, in form and in numbers."""
