"""Where pods may run relative to nodes' labels and to other pods: Kubernetes' own affinity, bounded."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from deepseek_operator.api.fields import DnsLabel, Model, Rule
from deepseek_operator.api.labels import LabelKey, LabelMap, LabelValue

Values = Annotated[list[LabelValue], Field(max_length=128)]
Weight = Annotated[int, Field(ge=1, le=100)]
_REQUIRED = "required_during_scheduling_ignored_during_execution"
_PREFERRED = "preferred_during_scheduling_ignored_during_execution"
_INTEGER = "^-?[0-9]{1,18}$"
_VALUES_RULES = (
    Rule(
        "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
        "operators In and NotIn compare with values; list one or more",
        ".values",
        holds=lambda requirement: requirement.operator not in ("In", "NotIn") or bool(requirement.values),
    ),
    Rule(
        "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
        "operators Exists and DoesNotExist take no values; remove them, or use In or NotIn",
        ".values",
        holds=lambda requirement: requirement.operator not in ("Exists", "DoesNotExist") or not requirement.values,
    ),
)


def _says_something(what: str, *fields: str, lists: tuple[str, ...] = ()) -> Rule:
    """A rule of placement that has no effect is a mistake."""
    names = [to_camel(field) for field in (*fields, *lists)]
    parts = [f"has(self.{name})" for name in names[: len(fields)]]
    parts += [f"(has(self.{name}) && self.{name}.size() > 0)" for name in names[len(fields) :]]
    return Rule(
        " || ".join(parts),
        f"{what} is empty and has no effect; give it {' or '.join(names)}, or remove it",
        holds=lambda model: any(getattr(model, field) for field in (*fields, *lists)),
    )


def _one_number(requirement: NodeRequirement) -> bool:
    values = requirement.values
    return requirement.operator not in ("Gt", "Lt") or (
        len(values) == 1 and re.fullmatch(_INTEGER, values[0]) is not None
    )


class NodeRequirement(Model):
    """One requirement on a node's label."""

    rules: ClassVar = (
        *_VALUES_RULES,
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || (has(self.values) && self.values.size() == 1 && "
            f"self.values[0].matches('{_INTEGER}'))",
            "operators Gt and Lt compare with one whole number; list exactly one, in quotes",
            ".values",
            holds=_one_number,
        ),
    )
    key: LabelKey = Field(description="Label of the node.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(description="How it is compared.")
    values: Values = Field(default_factory=list, description="With what; empty for Exists and DoesNotExist.")


class NodeTerm(Model):
    """Requirements that must all hold."""

    match_expressions: Annotated[list[NodeRequirement], Field(min_length=1, max_length=32)] = Field(
        description="Requirements on the node's labels."
    )


class PreferredNodeTerm(Model):
    """A wish about nodes."""

    weight: Weight = Field(description="How much it counts, from 1 to 100.")
    preference: NodeTerm = Field(description="What is wished for.")


class NodeTerms(Model):
    """Terms of which one must hold."""

    node_selector_terms: Annotated[list[NodeTerm], Field(min_length=1, max_length=16)] = Field(
        description="A node must satisfy one of them."
    )


class NodeAffinity(Model):
    """Which nodes."""

    rules: ClassVar = (_says_something("nodeAffinity", _REQUIRED, lists=(_PREFERRED,)),)
    required_during_scheduling_ignored_during_execution: NodeTerms | None = Field(None, description="Must hold.")
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNodeTerm], Field(max_length=16)] = (
        Field(default_factory=list, description="Is wished for.")
    )


class LabelRequirement(Model):
    """One requirement on a pod's label."""

    rules: ClassVar = _VALUES_RULES
    key: LabelKey = Field(description="Label of the pods.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How it is compared.")
    values: Values = Field(default_factory=list, description="With what; empty for Exists and DoesNotExist.")


class LabelSelector(Model):
    """Which pods."""

    match_labels: LabelMap = Field(default_factory=dict, description="Labels that must have these values.")
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=32)] = Field(
        default_factory=list, description="Requirements on labels."
    )


class PodTerm(Model):
    """Beside (or apart from) which pods, and how near."""

    label_selector: LabelSelector = Field(description="The other pods.")
    topology_key: LabelKey = Field(description="Label of nodes whose equal values mean the same place.")
    namespaces: Annotated[list[DnsLabel], Field(max_length=16)] = Field(
        default_factory=list, description="Namespaces of the other pods; default: the job's."
    )


class PreferredPodTerm(Model):
    """A wish about other pods."""

    weight: Weight = Field(description="How much it counts, from 1 to 100.")
    pod_affinity_term: PodTerm = Field(description="What is wished for.")


class PodAffinity(Model):
    """Near which pods, or far from which."""

    rules: ClassVar = (_says_something("this rule about pods", lists=(_REQUIRED, _PREFERRED)),)
    required_during_scheduling_ignored_during_execution: Annotated[list[PodTerm], Field(max_length=16)] = Field(
        default_factory=list, description="Must hold."
    )
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredPodTerm], Field(max_length=16)] = (
        Field(default_factory=list, description="Is wished for.")
    )


class Affinity(Model):
    """Rules of placement, as in a pod."""

    rules: ClassVar = (_says_something("affinity", "node_affinity", "pod_affinity", "pod_anti_affinity"),)
    node_affinity: NodeAffinity | None = Field(None, description="Which nodes.")
    pod_affinity: PodAffinity | None = Field(None, description="Near which pods.")
    pod_anti_affinity: PodAffinity | None = Field(None, description="Far from which pods.")
