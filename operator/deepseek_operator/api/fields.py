"""What the API models are made of: the base model, bounded field types, and rules that cross fields.

A rule that crosses fields is written once, as a `Rule`: CEL for the API server, its twin in Python for the local
mode, which has no API server, and one message for both.

Bounds: every string, list and map of the spec is bounded. The API server prices each CEL rule by the largest
value it could meet and refuses a CRD whose rules could cost too much, so an unbounded field is a broken CRD.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

INT_OR_STRING = "x-kubernetes-int-or-string"
VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the object about itself; the message says what is wrong and what to do."""

    cel: str
    message: str
    field_path: str | None = None
    """The field that the API server's message names, below the object that the rule belongs to: `.volumes`."""
    holds: Callable[[Any], bool] | None = None
    """The same rule in Python; None where only the API server can tell (a change, an injected schema)."""

    def entry(self) -> dict[str, JsonValue]:
        """The rule as an entry of x-kubernetes-validations."""
        entry: dict[str, JsonValue] = {"rule": self.cel, "message": self.message}
        return entry | {"fieldPath": self.field_path} if self.field_path else entry


def validations(*rules: Rule) -> dict[str, JsonValue]:
    """The rules of a type that is no model, as an extra of its schema; `obeys` has them kept in Python too."""
    return {VALIDATIONS: [rule.entry() for rule in rules]}


def obeys(*rules: Rule) -> AfterValidator:
    """The rules of a type that is no model, for pydantic."""

    def check(value: Any) -> Any:
        broken = [rule.message for rule in rules if rule.holds is not None and not rule.holds(value)]
        if broken:
            raise ValueError("; ".join(broken))
        return value

    return AfterValidator(check)


_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_QUANTITY_RULE = Rule(
    f"string(self).matches('{_QUANTITY.replace(chr(92), chr(92) * 2)}')",
    "not a quantity; write a number and, where there is one, its unit without a space: 500m, 4, 16Gi",
    holds=lambda text: re.fullmatch(_QUANTITY, text) is not None,
)


_PATH_PART = "[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = (
    rf"^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]+)?/)?{_PATH_PART}(/{_PATH_PART})*"
    r"(:[A-Za-z0-9_][-A-Za-z0-9_.]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,128})?$"
)
_IMAGE_RULE = Rule(
    f"self.matches(r'{_IMAGE}')",
    "not an image reference; write it as ghcr.io/you/trainer:1.2 or ghcr.io/you/trainer@sha256:<digest>, without spaces "
    "and, but for the tag, in lower case",
    holds=lambda image: re.fullmatch(_IMAGE, image) is not None,
)
_PRIORITY_RULE = Rule(
    "!self.startsWith('system-')",
    "priority classes whose names begin with system- are for the parts of Kubernetes itself; choose another",
    holds=lambda name: not name.startswith("system-"),
)


def _text_of_number(value: Any) -> Any:
    """YAML reads `cpu: 4` as a number; Kubernetes takes it as the quantity "4", and so do we."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(max_length=64, json_schema_extra={INT_OR_STRING: True, **validations(_QUANTITY_RULE)}),
    BeforeValidator(_text_of_number),
    obeys(_QUANTITY_RULE),
]
DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
DnsName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
EnvName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, Field(min_length=1, max_length=1024)]
Image = Annotated[
    str, Field(min_length=1, max_length=1024, json_schema_extra=validations(_IMAGE_RULE)), obeys(_IMAGE_RULE)
]
PriorityClass = Annotated[DnsName, Field(json_schema_extra=validations(_PRIORITY_RULE)), obeys(_PRIORITY_RULE)]
SubPath = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^/].*$")]


_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """The number that a valid `Quantity` stands for: "500m" is 0.5, "1Ki" is 1024."""
    number = text.rstrip("mkKMGTPEi")
    return Decimal(number) * _SUFFIXES[text[len(number) :]]


class Model(BaseModel):
    """Frozen, strict about unknown fields and about types, camelCase on the wire, and obeys its rules."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Adds the rules to the model's schema, from where they reach the CRD."""
        generated = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(generated)[VALIDATIONS] = [rule.entry() for rule in cls.rules]
        return generated

    @model_validator(mode="after")
    def _obeys_its_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if rule.holds is not None and not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self


def exactly_one(*names: str) -> Callable[[Any], bool]:
    """A rule's `holds`: one and only one of the named fields is set."""
    return lambda model: sum(getattr(model, name) is not None for name in names) == 1


def named_map() -> dict[str, JsonValue]:
    """Schema of a list whose entries are told apart by their name: names are unique, and two managers may share it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


MOUNT_PATTERN = "^(/[^/:]+)+/?$"


def path_rules(mount: str, sub: str) -> tuple[Rule, ...]:
    """Rules of a mount: an absolute, plain mount path, and a sub path that stays within the volume."""
    return (
        Rule(
            f"self.{mount}.matches('{MOUNT_PATTERN}')",
            f"{mount} must begin with / and have no : and no empty element; write it as /data or /mnt/corpus",
            f".{mount}",
            holds=lambda model: re.fullmatch(MOUNT_PATTERN, model.mount_path) is not None,
        ),
        Rule(
            rf"!self.{mount}.matches('/\\.{{1,2}}(/|$)')",
            f"{mount} must not contain . or .. as a path element; write the path out",
            f".{mount}",
            holds=lambda model: not {".", ".."} & set(model.mount_path.split("/")),
        ),
        inside_volume(sub),
    )


def inside_volume(sub: str) -> Rule:
    """The rule of a sub path: it stays within its volume."""
    return Rule(
        rf"!has(self.{sub}) || !self.{sub}.matches('(^|/)\\.\\.(/|$)')",
        f"{sub} must not contain .. as a path element; write the path out",
        f".{sub}",
        holds=lambda model: ".." not in (model.sub_path or "").split("/"),
    )
