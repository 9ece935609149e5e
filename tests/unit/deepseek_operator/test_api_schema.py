"""pydantic's JSON schema becomes a structural schema: each difference between the two dialects, one by one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from deepseek_operator.api.crd import crd
from deepseek_operator.api.fields import Model, Quantity, Rule, parse_quantity
from deepseek_operator.api.schema import SchemaError, structural
from pydantic import ConfigDict, Field, ValidationError


class Inner(Model):
    """The type's own words."""

    depth: int = Field(2, description="How deep.")


class Outer(Model):
    """Everything that has to be converted."""

    rules = (
        Rule("self.count > 1", "count must be more than 1; raise it", ".count", holds=lambda outer: outer.count > 1),
    )

    count: Annotated[int, Field(gt=0, le=9)] = Field(3, description="A number.")
    share: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="A share.")
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(0, description="As large as an integer can be.")
    kind: Literal["only"] = Field("only", description="A constant.")
    inner: Inner = Field(default_factory=Inner, description="The field's words.")
    maybe: Inner | None = Field(None, description="May be absent.")
    needed: Inner = Field(description="Must be there.")
    amount: Quantity | None = Field(None, description="A quantity.")
    table: Annotated[dict[str, Quantity], Field(max_length=4)] = Field(default_factory=dict, description="A map.")
    listed: list[Inner] = Field(default_factory=list, description="A list.")
    free: dict[str, Any] | None = Field(None, description="Anything.")


SCHEMA = structural(Outer.model_json_schema(by_alias=True))
FIELDS = SCHEMA["properties"]


def test_exclusive_bounds_are_booleans() -> None:
    assert FIELDS["count"] | {"minimum": 0, "exclusiveMinimum": True, "maximum": 9} == FIELDS["count"]
    assert FIELDS["share"] | {"maximum": 1, "exclusiveMaximum": True} == FIELDS["share"]


def test_the_largest_integer_is_a_format_not_a_rounded_bound() -> None:
    assert "maximum" not in FIELDS["seed"]
    assert FIELDS["seed"]["format"] == "int64"


def test_a_constant_is_an_enum_of_one() -> None:
    assert FIELDS["kind"]["enum"] == ["only"]


def test_null_means_absent() -> None:
    for name in ("share", "maybe", "amount", "free"):
        assert name not in SCHEMA["required"]
        assert "nullable" not in FIELDS[name]
        assert "default" not in FIELDS[name]


def test_a_fields_words_beat_its_types() -> None:
    assert FIELDS["inner"]["description"] == "The field's words."
    assert FIELDS["listed"]["items"]["description"] == "The type's own words."


def test_an_object_made_of_defaults_is_filled_in_only_where_it_may_be_left_out_but_not_null() -> None:
    assert FIELDS["inner"]["default"] == {}
    assert "default" not in FIELDS["maybe"]
    assert "default" not in FIELDS["needed"]


def test_a_quantity_is_a_number_or_a_text() -> None:
    for schema in (FIELDS["amount"], FIELDS["table"]["additionalProperties"]):
        assert schema["x-kubernetes-int-or-string"] is True
        assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}]
        assert "type" not in schema


def test_maps_stay_and_anything_is_preserved() -> None:
    assert FIELDS["table"]["maxProperties"] == 4
    assert FIELDS["free"]["x-kubernetes-preserve-unknown-fields"] is True


def test_nothing_of_pydantic_is_left() -> None:
    text = repr(SCHEMA)
    assert not [
        word
        for word in ("$ref", "$defs", "'title'", "'const'", "'null'", "'additionalProperties': False")
        if word in text
    ]


def test_the_rules_are_in_the_schema() -> None:
    assert SCHEMA["x-kubernetes-validations"] == [
        {"rule": "self.count > 1", "message": "count must be more than 1; raise it", "fieldPath": ".count"}
    ]


def test_the_rules_hold_without_an_api_server() -> None:
    with pytest.raises(ValidationError, match="raise it"):
        Outer(count=1, needed=Inner())


def test_a_status_has_no_defaults() -> None:
    bare = structural(Outer.model_json_schema(by_alias=True), with_defaults=False)
    assert "'default'" not in repr(bare)


def test_what_has_no_equivalent_is_named() -> None:
    with pytest.raises(SchemaError, match=r"\.a\.b: a union"):
        structural(_nested({"anyOf": [{"type": "string"}, {"type": "integer"}]}))
    with pytest.raises(SchemaError, match=r"\.a\.b: keyword patternProperties"):
        structural(_nested({"type": "object", "patternProperties": {}}))


def _nested(schema: dict[str, Any]) -> dict[str, Any]:
    a = {"type": "object", "properties": {"b": schema}}
    return {"type": "object", "properties": {"a": a}}


def test_a_rule_about_a_field_that_is_gone_is_named() -> None:
    class Renamed(Model):
        model_config = ConfigDict(title="Renamed")
        other: int = 1

    schema = Renamed.model_json_schema(by_alias=True)
    with pytest.raises(SchemaError, match=r"spec\.trainer\.model: .* has no field model"):
        crd(schema, schema)


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("500m", 0.5), ("1.5k", 1500), ("2Ki", 2048), ("1E", 10**18)])
def test_quantities(text: str, value: float) -> None:
    assert float(parse_quantity(text)) == value
