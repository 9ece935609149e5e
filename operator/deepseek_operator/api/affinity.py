"""Where pods may run relative to nodes' labels and to other pods: Kubernetes' own affinity, bounded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_operator.api.fields import DnsName, LabelKey, LabelValue, Model

Values = Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=128)]
Weight = Annotated[int, Field(ge=1, le=100)]


class NodeRequirement(Model):
    """One requirement on a node's label."""

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

    required_during_scheduling_ignored_during_execution: NodeTerms | None = Field(None, description="Must hold.")
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNodeTerm], Field(max_length=16)] = (
        Field(default_factory=list, description="Is wished for.")
    )


class LabelRequirement(Model):
    """One requirement on a pod's label."""

    key: LabelKey = Field(description="Label of the pods.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How it is compared.")
    values: Values = Field(default_factory=list, description="With what; empty for Exists and DoesNotExist.")


class LabelSelector(Model):
    """Which pods."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=32)] = Field(
        default_factory=dict, description="Labels that must have these values."
    )
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=32)] = Field(
        default_factory=list, description="Requirements on labels."
    )


class PodTerm(Model):
    """Beside (or apart from) which pods, and how near."""

    label_selector: LabelSelector = Field(description="The other pods.")
    topology_key: LabelKey = Field(description="Label of nodes whose equal values mean the same place.")
    namespaces: Annotated[list[DnsName], Field(max_length=16)] = Field(
        default_factory=list, description="Namespaces of the other pods; default: the job's."
    )


class PreferredPodTerm(Model):
    """A wish about other pods."""

    weight: Weight = Field(description="How much it counts, from 1 to 100.")
    pod_affinity_term: PodTerm = Field(description="What is wished for.")


class PodAffinity(Model):
    """Near which pods, or far from which."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodTerm], Field(max_length=16)] = Field(
        default_factory=list, description="Must hold."
    )
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredPodTerm], Field(max_length=16)] = (
        Field(default_factory=list, description="Is wished for.")
    )


class Affinity(Model):
    """Rules of placement, as in a pod."""

    node_affinity: NodeAffinity | None = Field(None, description="Which nodes.")
    pod_affinity: PodAffinity | None = Field(None, description="Near which pods.")
    pod_anti_affinity: PodAffinity | None = Field(None, description="Far from which pods.")
