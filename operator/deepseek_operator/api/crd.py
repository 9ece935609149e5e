"""The CustomResourceDefinitions of DeepSeekJob and DeepSeekProfile, made from the models: schema, rules, columns, names.

`spec.trainer` and `spec.data` are the trainer's: whoever generates the CRD hands their JSON schemas in, because the
operator may not import the trainer. `spec.data.ray` is the operator's own, and put beside the trainer's fields. What
crosses their fields is in `injected`.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.fields import VALIDATIONS, Model
from deepseek_operator.api.injected import RULES
from deepseek_operator.api.names import (
    GROUP,
    KIND,
    PLURAL,
    PROFILE_KIND,
    PROFILE_PLURAL,
    PROFILE_SHORT_NAME,
    SHORT_NAME,
    VERSION,
)
from deepseek_operator.api.profile import DeepSeekProfile, ProfileSpec
from deepseek_operator.api.schema import Schema, SchemaError, structural
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Spec, Status

CATEGORY = "ai"
_STANDARD = {
    "apiVersion": "Version of the schema of this object.",
    "kind": "Kind of this object.",
}


def _column(name: str, path: str, type_: str, description: str, priority: int = 0) -> Schema:
    column: Schema = {"name": name, "type": type_, "jsonPath": path, "description": description}
    return column | ({"priority": priority} if priority else {})


COLUMNS = [
    _column("State", ".status.state", "string", "One word: a fold of the conditions."),
    _column("Nodes", ".status.readyNodes", "string", "Workers ready and wanted."),
    _column("Step", ".status.training.step", "integer", "Optimizer steps done."),
    _column("Progress", ".status.training.percent", "string", "Share of the steps that is done."),
    _column("Loss", ".status.training.loss", "string", "Training loss, nats per token."),
    _column("Restarts", ".status.totalRestarts", "integer", "Restarts of workers, whatever caused them."),
    _column("ETA", ".status.training.eta", "string", "Estimated time to the last step."),
    _column("Age", ".metadata.creationTimestamp", "date", "Time since the job was created."),
    _column("Tok/s", ".status.training.tokensPerSecond", "integer", "Throughput of the whole job.", 1),
    _column("Ckpt", ".status.checkpoint.step", "integer", "Step of the newest committed checkpoint.", 1),
    _column("Ckpt-Age", ".status.checkpoint.time", "date", "Time since it was committed.", 1),
    _column("Goodput", ".status.goodput.ratio", "string", "Productive share of the active time.", 1),
    _column("Attempt", ".status.attempt", "integer", "Starts from scratch or from a checkpoint.", 1),
    _column("Reason", ".status.reason", "string", "The reason behind state.", 1),
]
"""What `kubectl get dsj` shows; priority 1 is shown with -o wide."""


PROFILE_COLUMNS = [
    _column("Image", ".spec.workers.image", "string", "Container image of its jobs."),
    _column("Max-replicas", ".spec.limits.maxReplicas", "integer", "Most workers that a job of it may have."),
    _column("Queue", ".spec.scheduling.queue", "string", "Queue that its jobs wait in."),
    _column("Age", ".metadata.creationTimestamp", "date", "Time since the profile was created."),
]
"""What `kubectl get dsp` shows."""


def crd(trainer: Schema, data: Schema) -> dict[str, Any]:
    """The CustomResourceDefinition of DeepSeekJob.

    Args:
        trainer: JSON schema of `spec.trainer`, as pydantic writes it.
        data: JSON schema of `spec.data`.

    Raises:
        SchemaError: a model can't be written as a structural schema, or a rule names a field that isn't there.
    """
    scale = {
        "specReplicasPath": ".spec.workers.replicas",
        "statusReplicasPath": ".status.nodes.desired",
        "labelSelectorPath": ".status.selector",
    }
    version = {
        "subresources": {"status": {}, "scale": scale},
        "additionalPrinterColumns": COLUMNS,
        "schema": {"openAPIV3Schema": schema(trainer, data)},
    }
    return _definition(KIND, PLURAL, SHORT_NAME, "Namespaced", version)


def profile_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of DeepSeekProfile. It has no status: nobody reconciles it, jobs read it."""
    version = {
        "additionalPrinterColumns": PROFILE_COLUMNS,
        "schema": {
            "openAPIV3Schema": _object(DeepSeekProfile, spec=structural(ProfileSpec.model_json_schema(by_alias=True)))
        },
    }
    return _definition(PROFILE_KIND, PROFILE_PLURAL, PROFILE_SHORT_NAME, "Cluster", version)


def _definition(kind: str, plural: str, short: str, scope: str, version: dict[str, Any]) -> dict[str, Any]:
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": [CATEGORY],
    }
    version = {"name": VERSION, "served": True, "storage": True} | version
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": scope, "names": names, "versions": [version]},
    }


def schema(trainer: Schema, data: Schema) -> Schema:
    """The structural schema of the whole object. For arguments and errors see `crd`."""
    spec = structural(Spec.model_json_schema(by_alias=True))
    for field, injected in {"trainer": trainer, "data": data}.items():
        own = spec["properties"][field]
        whole = structural(injected) | {"description": own["description"]}
        whole["properties"] |= own.get("properties", {})
        spec["properties"][field] = whole
    for path, rules in RULES.items():
        _find(spec, path)[VALIDATIONS] = [rule.entry() for rule in rules]
    return _object(
        DeepSeekJob, spec=spec, status=structural(Status.model_json_schema(by_alias=True), with_defaults=False)
    )


def _object(model: type[Model], **parts: Schema) -> Schema:
    """The schema of a whole object: what every object has, and its own parts."""
    rules = {VALIDATIONS: [rule.entry() for rule in model.rules]} if model.rules else {}
    properties: Schema = {name: {"description": text, "type": "string"} for name, text in _STANDARD.items()}
    return {
        "description": model.__doc__,
        "type": "object",
        **rules,
        "required": ["spec"],
        "properties": properties | {"metadata": {"type": "object"}} | parts,
    }


def _find(spec: Schema, path: str) -> Schema:
    node = spec
    for name in path.split("."):
        if name not in node.get("properties", {}):
            raise SchemaError(f"spec.{path}: a rule of api/crd.py is about it, but the schema has no field {name}")
        node = node["properties"][name]
    return node
