"""DeepSeekProfile: what a platform team fills in for the jobs that name it, and the most that they may ask for.

How each field becomes one with the job's is said in one place, `resolve.TABLE`, and shown in docs/api.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from deepseek_operator.api.affinity import Affinity
from deepseek_operator.api.containers import EnvVar, ObjectRef
from deepseek_operator.api.fields import DnsName, Image, Model, PriorityClass, Quantity, named_map
from deepseek_operator.api.labels import LabelMap, PodAnnotations, PodLabels
from deepseek_operator.api.policies import Communication, Scheduling, Seconds
from deepseek_operator.api.resources import Resources
from deepseek_operator.api.workers import MAX_PROC_PER_NODE, ProcPerNode, Toleration, named_once


class WorkerDefaults(Model):
    """What the workers have where their job leaves it open."""

    proc_per_node: ProcPerNode | None = Field(None, description="Training processes in each pod.")
    image: Image | None = Field(None, description="Container image.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When the image is pulled."
    )
    image_pull_secrets: Annotated[list[ObjectRef], Field(max_length=16)] = Field(
        default_factory=list, description="Secrets with registry credentials; added to the job's."
    )
    resources: Resources = Field(
        default_factory=Resources, description="Requests and limits; each amount stands where the job has none."
    )
    env: Annotated[list[EnvVar], Field(max_length=200)] = Field(
        default_factory=list,
        description="Environment; added to the job's, which wins where both set a variable.",
        json_schema_extra=named_map(),
    )
    node_selector: LabelMap = Field(
        default_factory=dict, description="The node pool: added to the job's, and wins where both have a label."
    )
    affinity: Affinity | None = Field(None, description="Rules of placement, where the job has none.")
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = Field(
        default_factory=list, description="Node taints that are tolerated; added to the job's."
    )
    priority_class_name: PriorityClass | None = Field(None, description="PriorityClass of the pods.")
    runtime_class_name: DnsName | None = Field(None, description="RuntimeClass of the pods.")
    labels: PodLabels = Field(default_factory=dict, description="Labels of the pods; the job's win.")
    annotations: PodAnnotations = Field(default_factory=dict, description="Annotations of the pods; the job's win.")
    shared_memory: Quantity | None = Field(None, description="Size of /dev/shm.")

    @field_validator("env")
    @classmethod
    def _named_once(cls, entries: list[Any]) -> list[Any]:
        """The API server sees to it by x-kubernetes-list-map-keys."""
        return named_once(entries)


class LifecycleDefaults(Model):
    """Deadlines and cleaning, where the job leaves them open."""

    active_deadline_seconds: Seconds | None = Field(None, description="Most seconds that a job may have pods.")
    start_deadline_seconds: Seconds | None = Field(None, description="Most seconds until all pods were ready once.")
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="Seconds after which a finished job is deleted."
    )
    clean_pod_policy: Literal["Running", "All"] | None = Field(
        None, description="Pods that are deleted when a job ends."
    )


class Limits(Model):
    """The most that a job with this profile may ask for. One that asks for more is not started, and says why."""

    max_replicas: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Most workers, elastic.maxReplicas too."
    )
    max_proc_per_node: Annotated[int, Field(ge=1, le=MAX_PROC_PER_NODE)] | None = Field(
        None, description="Most training processes in a pod."
    )
    max_resources: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default_factory=dict, description="Most of each resource that a worker pod may have as a limit or request."
    )
    max_active_deadline_seconds: Seconds | None = Field(
        None, description="Longest activeDeadlineSeconds; a job must then have one, its own or the profile's."
    )
    image_prefixes: Annotated[list[Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=32)] = Field(
        default_factory=list,
        description="Images of all containers and image volumes must begin with one of these, for example ghcr.io/you/. "
        "Empty: any image.",
    )


class ProfileSpec(Model):
    """Defaults and limits."""

    workers: WorkerDefaults = Field(default_factory=WorkerDefaults, description="Defaults of spec.workers.")
    communication: Communication = Field(
        default_factory=Communication, description="Defaults of spec.communication, field by field."
    )
    scheduling: Scheduling = Field(
        default_factory=Scheduling, description="Defaults of spec.scheduling, field by field."
    )
    lifecycle: LifecycleDefaults = Field(
        default_factory=LifecycleDefaults, description="Defaults of spec.lifecycle, field by field."
    )
    limits: Limits = Field(default_factory=Limits, description="The most that a job may ask for.")


class ProfileMeta(Model):
    """The part of metadata that is used."""

    model_config = ConfigDict(extra="ignore")

    name: str = ""
    uid: str = ""
    generation: int = 0


class DeepSeekProfile(Model):
    """What a platform team fills in for the jobs that name it, and the most that they may ask for."""

    api_version: Literal["training.deepseekjob.dev/v1alpha1"] = "training.deepseekjob.dev/v1alpha1"
    kind: Literal["DeepSeekProfile"] = "DeepSeekProfile"
    metadata: ProfileMeta = Field(default_factory=ProfileMeta)
    spec: ProfileSpec = Field(default_factory=ProfileSpec)
