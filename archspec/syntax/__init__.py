"""Text to tree and back: YAML and the DSL, two spellings of one syntax tree."""
