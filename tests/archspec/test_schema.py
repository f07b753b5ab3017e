"""The JSON Schema against the language: it takes what is right, refuses what is wrong, and explains every key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from archspec.language.edits import EDITS
from archspec.language.parse import parse_tree, read_source
from archspec.language.schema import spec_schema
from archspec.operators import OPERATORS, signature
from archspec.source import Source
from archspec.syntax.tree import plain
from archspec.syntax.yaml_syntax import parse_yaml

ROOT = Path(__file__).parents[2]
SCHEMA = spec_schema()
VALIDATOR = Draft7Validator(SCHEMA)
SPECS = sorted(p for p in (ROOT / "specs").rglob("*") if p.suffix in (".yaml", ".yml", ".arch"))


def errors(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(plain(parse_yaml(Source("spec.yaml", text))))]


def test_it_is_a_draft_7_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_spec_of_the_repository_is_valid(path: Path) -> None:
    data = plain(parse_tree(read_source(path)))
    assert [error.message for error in VALIDATOR.iter_errors(data)] == []


GOOD = [
    "name: x\nbase: a/b\n",
    "name: x\nextends: parent.yaml\nfinetune: none\ndistill: null\n",
    "archspec: 1\nname: x\nbase: {from: a/b, subfolder: transformer}\nlet: {odd: 'blocks[1::2]'}\n",
    "name: x\nbase: a/b\nedits: [{replace: odd.attn, with: hyena_x}]\n",
    "name: x\nbase: a/b\nedits: [{replace: odd.attn, with: {op: hyena_x, kernel: 8}, init: random}]\n",
    "name: x\nbase: a/b\nedits: [{replace: odd.attn, with: identity, init: {kind: least_squares, ridge: 1e-3}}]\n",
    "name: x\nbase: a/b\nedits: [{parallelize: blocks, by: 2, merge: linear}, {drop: 'blocks[0]'}]\n",
    "name: x\nbase: a/b\ndata: digits\ndistill: {cache: 2GiB, loss: l1, samples: 8_192}\n",
    "name: x\nbase: a/b\ndistill: {loss: {attn: l1, mlp: l2}}\nfinetune: {fraction: 10%, milestones: [1, 2]}\n",
    "name: x\nbase: a/b\nexpect: [depth == 14, 'params <= 0.9x', not causal]\n",
]
BAD = {
    "an unknown key": "name: x\nbase: a/b\nedit: []\n",
    "no base": "name: x\n",
    "no name": "base: a/b\n",
    "a bad name": "name: ../x\nbase: a/b\n",
    "an unknown verb": "name: x\nbase: a/b\nedits: [{replce: blocks, with: hyena_x}]\n",
    "two verbs": "name: x\nbase: a/b\nedits: [{drop: blocks, share: blocks}]\n",
    "no operator": "name: x\nbase: a/b\nedits: [{replace: blocks}]\n",
    "an unknown operator": "name: x\nbase: a/b\nedits: [{replace: blocks, with: hyenax}]\n",
    "an unknown parameter": "name: x\nbase: a/b\nedits: [{replace: blocks, with: {op: hyena_x, window: 2}}]\n",
    "a parameter of a wrong type": "name: x\nbase: a/b\nedits: [{replace: blocks, with: {op: hyena_x, kernel: big}}]\n",
    "a parameter out of bounds": "name: x\nbase: a/b\nedits: [{replace: blocks, with: {op: hyena_x, kernel: 0}}]\n",
    "a missing parameter": "name: x\nbase: a/b\nedits: [{replace: blocks, with: {op: local_attention}}]\n",
    "a wrong choice": "name: x\nbase: a/b\nedits: [{parallelize: blocks, merge: lineer}]\n",
    "a wrong number": "name: x\nbase: a/b\nfinetune: {steps: many}\n",
    "a bound": "name: x\nbase: a/b\nfinetune: {fraction: 0}\n",
    "a wrong unit": "name: x\nbase: a/b\ndistill: {cache: 2 parsecs}\n",
    "a loss of no slot": "name: x\nbase: a/b\ndistill: {loss: {atn: l1}}\n",
    "a let that is no name": "name: x\nbase: a/b\nlet: {'a-b': blocks}\n",
    "edits that are no list": "name: x\nbase: a/b\nedits: {drop: blocks}\n",
}


@pytest.mark.parametrize("text", GOOD)
def test_right_specs_are_valid(text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize("text", BAD.values(), ids=list(BAD))
def test_wrong_specs_are_not(text: str) -> None:
    assert errors(text)


def properties(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every property of the schema with its place."""
    if isinstance(schema, dict):
        inner = schema.get("properties", {})
        described = inner if "if" not in path.rsplit("/", 1)[-1:] else {}
        yield from ((f"{path}/{name}", body) for name, body in described.items())
        for key, value in schema.items():
            yield from properties(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from properties(value, f"{path}/{number}")


def test_every_key_has_a_hover_text() -> None:
    found = [(path, body) for path, body in properties(SCHEMA) if path.split("/")[-2] != "if"]
    assert len(found) > 80
    assert [path for path, body in found if not body.get("description")] == []


def test_every_operator_and_verb_is_in_the_schema() -> None:
    definitions = SCHEMA["definitions"]
    assert {cls.__name__.lower() for cls in EDITS} <= definitions.keys()
    rules = definitions["operatorcall"]["anyOf"][1]["allOf"]
    assert [rule["if"]["properties"]["op"]["const"] for rule in rules] == list(OPERATORS)


def test_references_resolve() -> None:
    text = str(SCHEMA)
    assert set(re.findall(r"#/definitions/(\w+)", text)) <= SCHEMA["definitions"].keys()


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operator_page_names_every_parameter(name: str) -> None:
    from archspec.language.fields import declared, written
    from archspec.language.reference import operators_page

    section = operators_page().split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert all(f"| `{written(field.name)}` |" in section for field in declared(signature(name)))
