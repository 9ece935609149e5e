"""The checkpoint contract of a job: where its state is kept, how often it is saved, and what it begins with.

Rule: a field of the volume that Kubernetes can't change can't change here. See `mutability`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from deepseek_operator.api.fields import (
    DnsName,
    Model,
    Quantity,
    Rule,
    SubPath,
    exactly_one,
    inside_volume,
    parse_quantity,
)
from deepseek_operator.api.memory import CheckpointMemory
from deepseek_operator.api.objectstore import ObjectStore

SMALLEST = "1Mi"
"""Size of a claim that is made, at least."""
ONE_POD = "ReadWriteOncePod"


class VolumeTemplate(Model):
    """A PersistentVolumeClaim that the operator makes for the job, named <job>-checkpoints."""

    rules: ClassVar = (
        Rule(
            f"!('{ONE_POD}' in self.accessModes) || self.accessModes.size() == 1",
            f"{ONE_POD} goes with no other access mode; keep one of them",
            ".accessModes",
            holds=lambda template: ONE_POD not in template.access_modes or len(template.access_modes) == 1,
        ),
        Rule(
            f"quantity(string(self.size)).compareTo(quantity('{SMALLEST}')) >= 0",
            f"size is less than {SMALLEST}; write it with its unit: 500Gi",
            ".size",
            holds=lambda template: parse_quantity(template.size) >= parse_quantity(SMALLEST),
        ),
    )
    storage_class_name: DnsName | None = Field(
        None, description="StorageClass that the volume is of. Default: the cluster's default class. Can't change."
    )
    access_modes: Annotated[
        list[Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]], Field(min_length=1, max_length=2)
    ] = Field(
        ["ReadWriteMany"],
        description="ReadWriteMany: any number of nodes, which a class of a shared file system gives. ReadWriteOnce: the pods "
        "of one node. ReadWriteOncePod: one worker, and no other pod. Can't change.",
    )
    size: Quantity = Field(
        description="What is asked for, for example 500Gi. It can grow while the job exists, where the class allows it."
    )
    on_delete: Literal["Retain", "Delete"] = Field(
        "Retain",
        description="What becomes of the claim, and of all checkpoints, when the job is deleted. Retain: it stays, and a job "
        "of the same name takes it again. Delete: it goes with the job.",
    )


class CheckpointVolume(Model):
    """Where checkpoints live; it must outlast the pods."""

    rules: ClassVar = (
        Rule(
            "has(self.claimName) != has(self.template)",
            "set exactly one of claimName (a claim that is there) and template (one that is made for the job)",
            holds=exactly_one("claim_name", "template"),
        ),
        inside_volume("subPath"),
    )
    claim_name: DnsName | None = Field(
        None,
        description="PersistentVolumeClaim of the job's namespace. With workers on several nodes it must be ReadWriteMany.",
    )
    template: VolumeTemplate | None = Field(
        None, description="Instead of claimName: the claim that is made for the job when it starts."
    )
    sub_path: SubPath | None = Field(None, description="Folder of the volume; default: the job's name.")


class CheckpointInterval(Model):
    """How often the state is saved: by steps, by seconds, or as often as is worth its cost; every 100 steps by default."""

    rules: ClassVar = (
        Rule(
            "[has(self.steps), has(self.seconds), has(self.auto) && self.auto].filter(said, said).size() <= 1",
            "steps, seconds and auto exclude each other; keep the one that shall say when",
            holds=lambda interval: (
                sum((interval.steps is not None, interval.seconds is not None, bool(interval.auto))) <= 1
            ),
        ),
    )
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        None,
        description="Optimizer steps between two saves. Default: 100, where neither seconds nor auto is set. Each of these "
        "steps is saved: training waits if the checkpoint before is still being written.",
    )
    seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] | None = Field(
        None,
        description="Seconds between two saves, which are of the first step after them. Training waits for none: the next "
        "one is due when the one before is committed, at the earliest.",
    )
    auto: bool = Field(
        False,
        description="true: the seconds between two saves are chosen while the job runs, by what a save costs and by how often "
        "the job was started again without a planned move (Young and Daly: the square root of twice the cost times the time between failures), "
        "from 10 s to an hour. status.checkpoint.intervalSeconds has them.",
    )


class ResumeFrom(Model):
    """Another job's checkpoint that this one begins with."""

    rules: ClassVar = (inside_volume("subPath"),)
    claim_name: DnsName | None = Field(
        None,
        description="PersistentVolumeClaim that the checkpoint is on, mounted read-only in every worker as long as the job "
        "exists. Default: the job's own volume.",
    )
    sub_path: SubPath = Field(
        description="That job's folder on the volume, or its part of objectStore.url: its subPath, by default its name. It is only "
        "read."
    )
    step: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Step of the checkpoint. Default: the newest whole one at the start."
    )
    optimizer: bool = Field(
        False,
        description="Whether the optimizer's state is taken over too, as for more of the same training; else only the weights.",
    )


class Checkpoint(Model):
    """The checkpoint contract: what a restart goes back to."""

    rules: ClassVar = (
        Rule(
            "has(self.volume) != has(self.objectStore)",
            "set exactly one of volume (a PersistentVolumeClaim) and objectStore (a bucket)",
            holds=exactly_one("volume", "object_store"),
        ),
        Rule(
            "!has(self.objectStore) || !has(self.resumeFrom) || !has(self.resumeFrom.claimName)",
            "with objectStore, resumeFrom is another job's part of the same url; remove claimName, or set volume in place of "
            "objectStore",
            ".resumeFrom",
            holds=lambda checkpoint: (
                checkpoint.object_store is None
                or checkpoint.resume_from is None
                or checkpoint.resume_from.claim_name is None
            ),
        ),
    )
    volume: CheckpointVolume | None = Field(None, description="The volume where checkpoints live.")
    object_store: ObjectStore | None = Field(
        None,
        description="The object store where checkpoints live, in place of a volume. What a volume has beside them is then not kept: "
        "prepared data is made anew in each pod, and stacks of hung processes go with the pod. Only for the built-in trainer.",
    )
    interval: CheckpointInterval = Field(
        default_factory=CheckpointInterval, description="How often the state is saved."
    )
    mode: Literal["Async", "Sync"] = Field(
        "Async",
        description="Async: the state is copied into host memory (as much as the rank's weights and optimizer take) between "
        "two steps, and written and committed while steps go on. Sync: training waits until it is committed. The last "
        "checkpoint, and one because of a SIGTERM or a planned change of the workers, is always waited for.",
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(
        3, description="Verified checkpoints that are kept; the newest good one is never deleted."
    )
    keep_seconds: Annotated[int, Field(ge=1, le=10 * 365 * 24 * 3600)] | None = Field(
        None, description="Beside `keep`, checkpoints younger than this are kept, however many."
    )
    keep_every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        None,
        description="Beside `keep`, the first checkpoint of every so many steps is kept for good: with 1000 the first one at "
        "or after step 1000, the first one at or after step 2000, and so on.",
    )
    on_failure: Literal["Continue", "Fail"] = Field(
        "Continue",
        description="What follows from a checkpoint that could not be saved (a full disk, a volume that is read-only). "
        "Continue: training goes on, the condition CheckpointFailed says why, and the next one is tried when it is due. "
        "Fail: the workers end, and start again from the last checkpoint as after any loss of infrastructure.",
    )
    max_failures: Annotated[int, Field(ge=1, le=1000)] = Field(
        10,
        description="With onFailure Continue, checkpoints in a row that may fail; the one after that ends the workers, as "
        "with Fail, so that no more is at stake.",
    )
    memory: CheckpointMemory | None = Field(
        None,
        description="Keeps the last checkpoint in the memory of the nodes, too: a restart in place, a planned change of the "
        "workers and a replaced pod then read it there. Off by default, because of the memory that it takes.",
    )
    resume_from: ResumeFrom | None = Field(
        None,
        description="The weights that this job begins with, from a checkpoint of another one with the same model. It is a new "
        "run: step 0, its own data and learning rates. Counts only until this job has a checkpoint of its own, to which all "
        "restarts go back. Only for the built-in trainer. Can't change while the job exists.",
    )


def _pods(spec: Any) -> int:
    """Pods that may be there at one time."""
    most = spec.elastic.max_replicas if spec.elastic is not None else 1
    return int(max(spec.workers.replicas, most)) + (spec.scheduling.spares or 0)


def _asks_for_one_pod(spec: Any) -> bool:
    volume = spec.checkpoint.volume if spec.checkpoint is not None else None
    return volume is not None and volume.template is not None and ONE_POD in volume.template.access_modes


ALONE = Rule(
    "!has(self.checkpoint) || !has(self.checkpoint.volume) || !has(self.checkpoint.volume.template) || "
    f"!('{ONE_POD}' in self.checkpoint.volume.template.accessModes) || "
    "(self.workers.replicas + (has(self.scheduling) && has(self.scheduling.spares) ? self.scheduling.spares : 0) <= 1 && "
    "(!has(self.elastic) || self.elastic.maxReplicas <= 1))",
    f"a {ONE_POD} claim is for one pod, and this job may have more (replicas, elastic.maxReplicas, spares); ask for "
    "ReadWriteMany, or set workers.replicas to 1",
    ".checkpoint.volume.template.accessModes",
    holds=lambda spec: not _asks_for_one_pod(spec) or _pods(spec) <= 1,
)
"""Rule of the spec."""
