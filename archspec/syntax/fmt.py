"""Printing syntax trees: `format_yaml` and `format_dsl`.

Either prints a tree that either parser made. Printing and parsing again gives the same values, and printing twice the
same text. Comments and single blank lines stay at their items; a map or list goes on one line where it is short,
nested and free of comments. The version of the language is always written in YAML, and in the DSL where it is not 1.
"""

from archspec.syntax.print_dsl import format_dsl
from archspec.syntax.print_yaml import format_yaml

__all__ = ["format_dsl", "format_yaml"]
