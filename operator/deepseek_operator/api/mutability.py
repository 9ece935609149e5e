"""What of a spec may change when: transition rules, which the API server enforces.

    never             what the job is: profile, trainer, entrypoint, data, managedBy, where its checkpoints are
                      (the claim that is made for them may grow, and may be kept or not)
    while suspended   what its pods are made of, and how they get their nodes
    at any time       suspend, recovery, lifecycle, elastic, and workers.replicas while the job is elastic

Rule: what is changed and resumed in one request has been changed while the job was suspended; what is changed and
suspended in one request has not.
"""

from __future__ import annotations

from deepseek_operator.api.checkpoint import Checkpoint
from deepseek_operator.api.fields import Model, Rule
from deepseek_operator.api.workers import Workers

NEVER = ("profile", "trainer", "entrypoint", "data", "managedBy")
"""Optional fields of the spec that can't change while the job exists."""
WHILE_SUSPENDED = {
    "communication": False,
    "scheduling": False,
    "preflight": False,
    "backend": True,
}
"""Fields that may change only while the job is suspended, and whether they are always present."""
ANEW = "delete the job and apply it anew: with the same checkpoint volume (or object store) and subPath it goes on from its last checkpoint"


def _same(field: str, required: bool) -> str:
    """CEL: a field is what it was; a presence that changes is a change too."""
    same = f"self.{field} == oldSelf.{field}"
    return same if required else f"(has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same}))"


def _never(field: str) -> Rule:
    return Rule(_same(field, required=False), f"{field} can't change while the job exists; {ANEW}", f".{field}")


def _while_suspended(field: str, required: bool) -> Rule:
    return Rule(
        f"oldSelf.suspend || {_same(field, required)}",
        f"{field} can change only while the job is suspended; set suspend: true, apply, change it, and resume",
        f".{field}",
    )


def _others(model: type[Model], path: str, but: str) -> str:
    """CEL: all fields of a section but one are what they were."""
    names = [field.alias or name for name, field in model.model_fields.items() if name != but]
    return "(" + " && ".join(_same(f"{path}.{name}", required=False) for name in names) + ")"


def _checkpoint() -> tuple[Rule, ...]:
    """Checkpoints stay where they are; how they are made changes while suspended; their claim may grow at any time."""
    volume, template = "checkpoint.volume", "checkpoint.volume.template"
    made = f"{_same(f'{template}.storageClassName', False)} && {_same(f'{template}.accessModes', False)}"
    where = " && ".join(
        (
            _same(f"{volume}.claimName", required=False),
            _same(f"{volume}.subPath", required=False),
            f"has(self.{template}) == has(oldSelf.{template})",
            f"(!has(self.{template}) || ({made}))",
        )
    )
    has_volume = f"has(self.{volume}) == has(oldSelf.{volume}) && (!has(self.{volume}) || ({where}))"
    sizes = f"quantity(string(self.{template}.size)).compareTo(quantity(string(oldSelf.{template}.size)))"
    return (
        Rule(
            f"!has(oldSelf.checkpoint) || (has(self.checkpoint) && {has_volume})",
            f"checkpoint.volume can't change while the job exists, or its checkpoints would be lost to it; {ANEW}",
            ".checkpoint.volume",
        ),
        Rule(
            f"!has(oldSelf.checkpoint) || !has(oldSelf.{volume}) || !has(oldSelf.{template}) || !has(self.checkpoint) || "
            f"!has(self.{volume}) || !has(self.{template}) || {sizes} >= 0",
            "checkpoint.volume.template.size can only grow: Kubernetes makes no volume smaller; put it back",
            ".checkpoint.volume.template.size",
        ),
        _of_checkpoint("objectStore", ", or its checkpoints would be lost to it"),
        _of_checkpoint("resumeFrom"),
        Rule(
            "oldSelf.suspend || (has(self.checkpoint) == has(oldSelf.checkpoint) && (!has(self.checkpoint) || "
            f"{_others(Checkpoint, 'checkpoint', 'volume')}))",
            "checkpoint can change only while the job is suspended (volume.template.size and onDelete at any time); set "
            "suspend: true, apply, change it, and resume",
            ".checkpoint",
        ),
    )


def _of_checkpoint(field: str, why: str = "") -> Rule:
    """A field of `checkpoint` that never changes; that it may not go altogether is the volume's rule."""
    return Rule(
        f"!has(oldSelf.checkpoint) || !has(self.checkpoint) || {_same(f'checkpoint.{field}', required=False)}",
        f"checkpoint.{field} can't change while the job exists{why}; {ANEW}",
        f".checkpoint.{field}",
    )


def _workers() -> tuple[Rule, ...]:
    """Workers change while suspended; how many of them, also while the job is elastic."""
    return (
        Rule(
            f"oldSelf.suspend || {_others(Workers, 'workers', 'replicas')}",
            "workers can change only while the job is suspended (replicas also while it is elastic); set suspend: true, "
            "apply, change it, and resume",
            ".workers",
        ),
        Rule(
            "oldSelf.suspend || has(self.elastic) || self.workers.replicas == oldSelf.workers.replicas",
            "workers.replicas can change only while the job is suspended or elastic; set elastic.minReplicas and "
            "maxReplicas, or suspend it first",
            ".workers.replicas",
        ),
    )


TRANSITIONS: tuple[Rule, ...] = (
    *_checkpoint(),
    *map(_never, NEVER),
    *(_while_suspended(field, required) for field, required in WHILE_SUSPENDED.items()),
    *_workers(),
)
"""Rules of the spec."""
