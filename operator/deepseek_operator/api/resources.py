"""Requests and limits of a container: names and amounts that Kubernetes takes, and how the two must agree."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from deepseek_operator.api.fields import Model, Quantity, Rule, obeys, parse_quantity, validations
from deepseek_operator.api.labels import KEY_PATTERN

_RESOURCE = "^(cpu|memory|ephemeral-storage|hugepages-[1-9][0-9]*(Ki|Mi|Gi))$"
_RESOURCE_RULE = Rule(
    f"self.all(k, k.matches('{_RESOURCE}') || (k.contains('/') && k.size() <= 308 && k.matches('{KEY_PATTERN}') && "
    "!k.startsWith('requests.')))",
    "a resource is cpu, memory, ephemeral-storage, hugepages-<size> or one with a domain, such as nvidia.com/gpu; "
    "correct its name",
    holds=lambda amounts: all(map(_is_resource, amounts)),
)
_WHOLE_RULE = Rule(
    "self.all(k, !k.contains('/') || quantity(string(self[k])).isInteger())",
    "resources with a domain, such as nvidia.com/gpu, are counted in whole pieces; write a whole number",
    holds=lambda amounts: all(parse_quantity(amounts[name]) % 1 == 0 for name in amounts if "/" in name),
)


def _is_resource(name: str) -> bool:
    extended = "/" in name and len(name) <= 308 and re.fullmatch(KEY_PATTERN, name) and name[:9] != "requests."
    return bool(extended or re.fullmatch(_RESOURCE, name))


def limit_is_request(name: str) -> bool:
    """Whether Kubernetes can't overcommit a resource, so that its request must be its limit."""
    return "/" in name or name.startswith("hugepages-")


Amounts = Annotated[
    dict[str, Quantity],
    Field(max_length=16, json_schema_extra=validations(_RESOURCE_RULE, _WHOLE_RULE)),
    obeys(_RESOURCE_RULE, _WHOLE_RULE),
]


class Resources(Model):
    """Compute resources of a container."""

    rules: ClassVar = (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            "a request is larger than its limit; raise the limit or lower the request",
            ".requests",
            holds=lambda resources: all(
                parse_quantity(request) <= parse_quantity(resources.limits.get(name, request))
                for name, request in resources.requests.items()
            ),
        ),
        Rule(
            "!has(self.requests) || self.requests.all(k, !(k.contains('/') || k.startsWith('hugepages-')) || "
            "(has(self.limits) && k in self.limits && "
            "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) == 0))",
            "requests of hugepages and of extended resources such as nvidia.com/gpu must equal their limits; "
            "set only limits, and Kubernetes copies them to requests",
            ".requests",
            holds=lambda resources: all(
                parse_quantity(request) == parse_quantity(resources.limits.get(name, "0"))
                for name, request in resources.requests.items()
                if limit_is_request(name)
            ),
        ),
        Rule(
            "!has(self.limits) || !self.limits.exists(k, k.startsWith('hugepages-')) || "
            "['cpu', 'memory'].exists(k, k in self.limits || (has(self.requests) && k in self.requests))",
            "hugepages need cpu or memory beside them; set one of the two",
            ".limits",
            holds=lambda resources: (
                not any(name.startswith("hugepages-") for name in resources.limits)
                or bool({"cpu", "memory"} & {*resources.limits, *resources.requests})
            ),
        ),
        Rule(
            "!has(self.limits) || self.limits.all(k, !k.startsWith('hugepages-') || "
            "(quantity(string(self.limits[k])).isInteger() && "
            "quantity(string(self.limits[k])).asInteger() % quantity(k.substring(10)).asInteger() == 0))",
            "hugepages are given out in whole pages; write a multiple of the page size in the resource's name",
            ".limits",
            holds=lambda resources: all(
                parse_quantity(amount) % parse_quantity(name.removeprefix("hugepages-")) == 0
                for name, amount in resources.limits.items()
                if name.startswith("hugepages-")
            ),
        ),
    )
    requests: Amounts = Field(
        default_factory=dict, description="What the scheduler sets aside, for example cpu: 4, memory: 16Gi."
    )
    limits: Amounts = Field(
        default_factory=dict, description="What the container may use at most, for example nvidia.com/gpu: 8."
    )
