"""Turns pydantic's JSON schema into a structural schema, the dialect of OpenAPI v3.0 that a CRD takes.

The two differ in references, null, constants, exclusive bounds and defaults. Rule: a keyword that is not known
here is an error with its place, never silently dropped, because what is dropped is what nobody checks any more.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.fields import INT_OR_STRING, VALIDATIONS

Schema = dict[str, Any]

_KEPT = frozenset(
    {
        *("type", "description", "enum", "pattern", "format", "default", "multipleOf"),
        *("minimum", "maximum", "minLength", "maxLength"),
        *("minItems", "maxItems", "minProperties", "maxProperties"),
    }
)
_DROPPED = frozenset({"title", "$defs"})
_LARGEST_INT64 = 2**63 - 1


class SchemaError(ValueError):
    """A model says something that a structural schema can't; the message has the field and the keyword."""


def structural(json_schema: Schema, *, with_defaults: bool = True) -> Schema:
    """The structural schema of a model.

    Args:
        json_schema: what `model_json_schema(by_alias=True)` returned.
        with_defaults: write defaults, so that the API server fills them in. Off for a status, whose every field
            is written by the operator.

    Raises:
        SchemaError: there is no equivalent.
    """
    converted = _Converter(json_schema.get("$defs", {})).convert(json_schema, "")
    return converted if with_defaults else _without_defaults(converted)


class _Converter:
    """Converts nodes of one document, whose references it resolves."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def convert(self, node: Schema, where: str) -> Schema:
        node, _ = self._plain(node, where)
        out: Schema = {}
        for key, value in node.items():
            if key in _KEPT or key.startswith("x-kubernetes-"):
                out[key] = value
            elif key not in _DROPPED:
                out |= self._keyword(key, value, node, where)
        return _order(_integer(_int_or_string(out)))

    def _plain(self, node: Schema, where: str) -> tuple[Schema, bool]:
        """The node without references and null, and whether it may be null. What a field says beats its type."""
        optional = False
        while "$ref" in node or "anyOf" in node or "allOf" in node:
            rest = {key: value for key, value in node.items() if key not in ("$ref", "anyOf", "allOf")}
            if "$ref" in node:
                inner = self._definitions[node["$ref"].removeprefix("#/$defs/")]
            else:
                choices = node.get("anyOf") or node["allOf"]
                others = [choice for choice in choices if choice.get("type") != "null"]
                optional = optional or len(others) < len(choices)
                if len(others) != 1:
                    raise SchemaError(f"{where or 'root'}: a union of types can't be written as a structural schema")
                (inner,) = others
            node = inner | rest
        if optional and node.get("default", ...) is None:
            node = {key: value for key, value in node.items() if key != "default"}
        return node, optional

    def _keyword(self, key: str, value: Any, node: Schema, where: str) -> Schema:
        match key:
            case "const":
                return {"enum": [value]}
            case "exclusiveMinimum":
                return {"minimum": value, key: True}
            case "exclusiveMaximum":
                return {"maximum": value, key: True}
            case "items":
                return {key: self.convert(value, f"{where}[]")}
            case "additionalProperties" if value is True:
                return {"x-kubernetes-preserve-unknown-fields": True}
            case "additionalProperties":
                return {key: self.convert(value, f"{where}{{}}")} if value else {}
            case "properties":
                return {key: self._properties(node, where)}
            case "required":
                return {key: value} if value else {}
        raise SchemaError(f"{where or 'root'}: keyword {key} is unknown to structural schemas; teach api/schema.py")

    def _properties(self, node: Schema, where: str) -> Schema:
        required = node.get("required", [])
        out: Schema = {}
        for name, value in node["properties"].items():
            converted = self.convert(value, f"{where}.{name}")
            _, optional = self._plain(value, where)
            if name not in required and not optional and _fillable(converted):
                converted = _order(converted | {"default": _whole_default(converted)})
            out[name] = converted
        return out


def _fillable(schema: Schema) -> bool:
    """An object made of defaults: {} stands for all of them, and the API server writes them out."""
    fields = schema.get("properties", {})
    return bool(fields) and not schema.get("required") and any("default" in field for field in fields.values())


def _whole_default(schema: Schema) -> Schema:
    """{} where that will do; written out where rules look at it, which they do before the fields' own defaults come."""
    if VALIDATIONS not in schema:
        return {}
    return {name: field["default"] for name, field in schema["properties"].items() if "default" in field}


def _int_or_string(schema: Schema) -> Schema:
    if not schema.get(INT_OR_STRING):
        return schema
    rest = {key: value for key, value in schema.items() if key != "type"}
    return rest | {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def _integer(schema: Schema) -> Schema:
    if schema.get("type") != "integer":
        return schema
    # The format is the bound: as a float64, which OpenAPI has, the largest int64 would be one too many.
    bounds = {key: value for key, value in schema.items() if key != "maximum" or value < _LARGEST_INT64}
    return bounds | {"format": "int64"}


def _without_defaults(schema: Schema) -> Schema:
    out = {key: value for key, value in schema.items() if key != "default"}
    for key in ("items", "additionalProperties"):
        if key in out:
            out[key] = _without_defaults(out[key])
    if "properties" in out:
        out["properties"] = {name: _without_defaults(field) for name, field in out["properties"].items()}
    return out


def _order(schema: Schema) -> Schema:
    """Description and type first, children last: the generated file is read by people too."""
    first = ("description", "type")
    last = ("required", "items", "additionalProperties", "properties")
    middle = sorted(key for key in schema if key not in first + last)
    cleaned = schema | ({"description": " ".join(schema["description"].split())} if "description" in schema else {})
    return {key: cleaned[key] for key in (*first, *middle, *last) if key in cleaned}
