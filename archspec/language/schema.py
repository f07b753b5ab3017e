"""The JSON Schema (draft-07) of spec files, for yaml-language-server and other editors.

Generated from the dataclasses of `spec.py` and of every operator's signature, the same that the builder reads; a test
fails when `grammars/spec.schema.json` drifts. A schema sees a spec through a YAML parser that knows nothing of
archspec's scalars, so where a number may be written `50_000`, `10%` or `2GiB` it also takes such a text. Selectors
and expectations are texts here; `archspec validate` says what is wrong within one.

Every property has a `description`: editors show it on hover. Draft-07 ignores what stands beside `$ref`, so a described
reference is `allOf: [$ref]`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from archspec.language.arms import FIXED
from archspec.language.edits import EDITS, OperatorCall
from archspec.language.expectations import Expectation
from archspec.language.fields import Node, declared, written
from archspec.language.selectors import Selector
from archspec.language.spec import Spec
from archspec.operators import OPERATORS, signature
from archspec.operators.base import Signature

Schema = dict[str, Any]

INTEGER = r"^[+-]?\d[\d_]*$"
NUMBER = r"^[+-]?(\d[\d_]*)?\.?\d+([eE][+-]?\d+)?\s*%?$"
HOLE: Schema = {"$ref": "#/definitions/hole"}
BYTES = r"^\d[\d_]*(\.\d+)?\s*([kKMGT]i?)?B?$"


def spec_schema() -> Schema:
    """Return the schema of a whole spec file."""
    definitions: Schema = {}
    root = _object(Spec, definitions)
    root["properties"] |= _several(root["properties"])
    definitions["hole"] = {"description": "`$axis`: a value of the matrix", "type": "string", "pattern": r"\$[A-Za-z_]"}
    root["anyOf"] = [{"required": ["base"]}, {"required": ["extends"]}]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "archspec",
        **root,
        "definitions": dict(sorted(definitions.items())),
    }


def _several(properties: Schema) -> Schema:
    """Return the schemas of `matrix` and `arms`. An arm has the keys of a spec, and its edits may be a map."""
    items = {"type": "array", "items": {"type": "object", "minProperties": 1}}
    axis = {"anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}]}
    own = {
        key: {"description": body["description"], "allOf": [{"$ref": f"#/properties/{key}"}]}
        for key, body in properties.items()
        if key not in (*FIXED, "edits")
    }
    every = {"description": "keys that go into every edit which has them", "type": "object"}
    edits = {"description": "edits, or a change to all", "anyOf": [{"$ref": "#/properties/edits"}, every]}
    arm = {"type": ["object", "null"], "properties": {**own, "edits": edits}, "additionalProperties": False}
    lists = {
        "exclude": {"description": "members that are left out, by values of axes", **items},
        "include": {"description": "members that are added, by values of axes", **items},
    }
    matrix = {"type": "object", "properties": lists, "additionalProperties": axis, "minProperties": 1}
    arms = {"type": "object", "additionalProperties": arm, "minProperties": 1}
    return {
        key: {"description": properties[key]["description"], "anyOf": [schema, {"enum": ["none"]}]}
        for key, schema in (("matrix", matrix), ("arms", arms))
    }


def schema_text() -> str:
    return json.dumps(spec_schema(), indent=2, ensure_ascii=False) + "\n"


def _object(cls: type[Node], definitions: Schema, *, skip: str = "") -> Schema:
    """Return the schema of a node written as a map; `skip` leaves one field out."""
    hints = get_type_hints(cls)
    fields = [f for f in declared(cls) if f.name != skip]
    properties = {written(f.name): _property(f, hints[f.name], definitions) for f in fields}
    required = [written(f.name) for f in fields if "default" not in properties[written(f.name)] and _must(f)]
    schema = {"description": summary(cls), "type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _must(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING and field.default_factory is MISSING


def summary(cls: type) -> str:
    """Return the first paragraph of a class's docstring on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _property(field: Any, hint: Any, definitions: Schema) -> Schema:
    """Return the schema of a field: its type, bounds and documentation."""
    schema = _open(_type(hint, definitions, field.metadata))
    if "$ref" in schema:
        schema = {"allOf": [schema]}
    if isinstance(field.default, str | int | float | bool):
        schema["default"] = field.default
    if field.metadata.get("example") is not None:
        schema["examples"] = [field.metadata["example"]]
    return {"description": field.metadata["doc"], **schema}


def _open(schema: Schema) -> Schema:
    """Return a schema that also takes `$axis`, unless it takes any text or anything."""
    if not schema or schema == {"type": "string"}:
        return schema
    return {"anyOf": [*(schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]), HOLE]}


def _type(hint: Any, definitions: Schema, meta: Mapping[str, Any]) -> Schema:
    """Return the schema of a type; `meta` is what the field declares beside it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, UnionType):
        return _union(args, definitions, meta)
    if origin is tuple:
        return {"type": "array", "items": _open(_type(args[0], definitions, {}))}
    if origin is not None and issubclass(origin, Mapping):
        if args[1] is Any:
            return {"type": "object"}
        keys = {"enum": list(meta["keys"])} if meta.get("keys") else {"pattern": _whole(meta["pattern"])}
        return {"type": "object", "propertyNames": keys, "additionalProperties": _open(_type(args[1], definitions, {}))}
    return _class(hint, definitions, meta)


def _class(hint: type, definitions: Schema, meta: Mapping[str, Any]) -> Schema:
    if hint is bool:
        return {"type": "boolean"}
    if hint in (int, float):
        return _number(hint, meta)
    if hint in (str, Selector, Expectation):
        return {"type": "string", **({"pattern": _whole(meta["pattern"])} if meta.get("pattern") else {})}
    if issubclass(hint, Node):
        return _reference(hint, definitions)
    raise TypeError(f"no schema for {hint!r}")


def _number(hint: type, meta: Mapping[str, Any]) -> Schema:
    """Return the schema of a number within bounds, or of a text that archspec reads as one."""
    names = {"minimum": "least", "maximum": "most", "exclusiveMinimum": "above"}
    bounds = {keyword: meta[name] for keyword, name in names.items() if meta.get(name) is not None}
    pattern = BYTES if meta.get("unit") == "bytes" else INTEGER if hint is int else NUMBER
    number = {"type": "integer" if hint is int else "number", **bounds}
    return {"anyOf": [number, {"type": "string", "pattern": pattern}]}


def _whole(pattern: str) -> str:
    """Return a pattern that must match the whole text, as JSON Schema's do not."""
    return f"^(?:{pattern})$"


def _union(args: tuple[Any, ...], definitions: Schema, meta: Mapping[str, Any]) -> Schema:
    """Return the schema of a union. One that is a node or nothing may also be written `none`."""
    if set(args) == set(EDITS):
        return {"oneOf": [_reference(edit, definitions) for edit in EDITS]}
    parts = [_type(arg, definitions, meta) for arg in args if arg is not NoneType]
    flat = [option for part in parts for option in part.get("anyOf", [part])]
    if NoneType in args:
        nodes = any(isinstance(arg, type) and issubclass(arg, Node) for arg in args)
        flat.append({"enum": [None, "none"]} if nodes else {"type": "null"})
    return {"anyOf": flat}


def _reference(cls: type[Node], definitions: Schema) -> Schema:
    """Return a reference to the definition of a node, and make the definition once."""
    name = cls.__name__.lower()
    if name not in definitions:
        definitions[name] = {}
        definitions[name] = _definition(cls, definitions)
    return {"$ref": f"#/definitions/{name}"}


def _definition(cls: type[Node], definitions: Schema) -> Schema:
    if cls in EDITS:
        return _edit(cls, definitions)
    schema = _operator(definitions) if cls is OperatorCall else _object(cls, definitions)
    if cls.shorthand is None:
        return schema
    short = next(f for f in declared(cls) if f.name == cls.shorthand)
    scalar = (
        _open({"enum": list(OPERATORS)})
        if cls is OperatorCall
        else _property(short, get_type_hints(cls)[short.name], {})
    )
    return {"description": summary(cls), "anyOf": [scalar, schema]}


def _edit(cls: Any, definitions: Schema) -> Schema:
    """Return the schema of an edit: its verb holds the selector."""
    schema = _object(cls, definitions, skip="target")
    target = next(f for f in declared(cls) if f.name == "target")
    schema["properties"] = {
        cls.verb: {"description": f"{summary(cls)} Selector of: {target.metadata['doc']}.", "type": "string"},
        **schema["properties"],
    }
    schema["required"] = [cls.verb, *schema.get("required", ())]
    return schema


def _operator(definitions: Schema) -> Schema:
    """Return the schema of an operator with its parameters: which keys are known depends on `op`."""
    rules = [
        {
            "if": {"properties": {"op": {"const": name}}, "required": ["op"]},
            "then": _parameters(signature(name), definitions),
        }
        for name in OPERATORS
    ]
    op = {"description": "operator", **_open({"enum": list(OPERATORS)})}
    return {"type": "object", "properties": {"op": op}, "required": ["op"], "allOf": rules}


def _parameters(cls: type[Signature], definitions: Schema) -> Schema:
    schema = _object(cls, definitions)
    schema["properties"] = {"op": {"description": summary(cls), "const": cls.name}, **schema["properties"]}
    return schema
