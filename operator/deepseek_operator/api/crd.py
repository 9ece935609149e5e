"""The CustomResourceDefinitions of DeepSeekJob and DeepSeekProfile, made from the models: schema, rules, columns, names.

`spec.trainer` and `spec.data` are the trainer's: whoever generates the CRD hands their JSON schemas in, because the
operator may not import the trainer. `spec.data.ray` is the operator's own, and put beside the trainer's fields. What
crosses their fields is written here, as CEL is Kubernetes' own.
"""

from __future__ import annotations

from typing import Any

from deepseek_operator.api.fields import VALIDATIONS, Model, Rule
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
ARCHITECTURE = (
    *("architecture", "hiddenSize", "numLayers", "numAttentionHeads", "numKeyValueHeads", "intermediateSize"),
    *("numExperts", "expertsPerToken", "expertIntermediateSize"),
)
"""Optional fields of a model that say, beside its preset, what it is like."""


def _undescribed(model: str) -> str:
    """CEL: the job says nothing of what the model is like."""
    return " && ".join((f"{model}.preset == 'tiny'", *(f"!has({model}.{field})" for field in ARCHITECTURE)))


INJECTED_RULES: dict[str, tuple[Rule, ...]] = {
    "trainer": (
        Rule(
            # The default, 20, must not make a short trial run wrong: it then ends before the peak.
            "self.optimizer.warmupSteps <= 20 || self.optimizer.warmupSteps <= self.training.steps",
            "optimizer.warmupSteps is more than training.steps: the peak learning rate would never be reached; "
            "lower warmupSteps or raise steps",
            ".optimizer.warmupSteps",
        ),
        Rule(
            "self.parallelism.tensor == 1 || self.training.precision != 'fp8'",
            "parallelism.tensor computes matrices in parts, and fp8 whole ones: take bf16, or tensor 1",
            ".training.precision",
        ),
        Rule(
            "self.parallelism.context == 1 || self.model.attention == 'SDPA'",
            "parallelism.context has an attention of its own, in a ring: set model.attention to SDPA, or context to 1",
            ".model.attention",
        ),
        Rule(
            "self.parallelism.pipeline == 1 || self.parallelism.pipelineSchedule in ['GPipe', '1F1B', 'Interleaved1F1B'] || "
            "(self.training.compile == 'none' && self.training.precision != 'fp8')",
            "a zero-bubble pipelineSchedule splits the backward pass of each matrix, which compiled layers and fp8 have in one: "
            "set training.compile to none and precision to bf16, or take Interleaved1F1B",
            ".parallelism.pipelineSchedule",
        ),
        Rule(
            "(self.parallelism.tensor == 1 && self.parallelism.context == 1) || self.training.compile == 'none'",
            "parallelism.tensor and context are not compiled: set training.compile to none, or tensor and context to 1",
            ".training.compile",
        ),
        Rule(
            "self.task != 'finetune' || has(self.initialWeights)",
            "task finetune needs initialWeights: set initialWeights.path to the folder of a model",
            ".initialWeights",
        ),
        Rule(
            "self.task == 'finetune' || (!has(self.initialWeights) && self.tokenizer.kind != 'initialWeights')",
            "initialWeights, and tokenizer.kind of that name, belong to task finetune: set task to finetune, or remove them",
            ".task",
        ),
        Rule(
            "self.task != 'finetune' || self.tokenizer.kind != 'bpe'",
            "tokenizer.kind bpe makes a new vocabulary, which means nothing to trained weights: "
            "with task finetune set tokenizer.kind to initialWeights (or deepseek)",
            ".tokenizer.kind",
        ),
        Rule(
            f"self.task != 'finetune' || ({_undescribed('self.model')} && !has(self.model.path))",
            "with task finetune the architecture comes from the config.json of initialWeights: remove model",
            ".model",
        ),
    ),
    "trainer.model": (
        Rule(
            "!has(self.expertsPerToken) || !has(self.numExperts) || self.expertsPerToken <= self.numExperts",
            "expertsPerToken is more than numExperts: a token can't be sent to more experts than there are; "
            "lower expertsPerToken or raise numExperts",
            ".expertsPerToken",
        ),
        Rule(
            "!has(self.architecture) || self.preset in ['tiny', 'small']",
            "the preset is of one architecture: remove architecture, or take preset tiny or small",
            ".architecture",
        ),
        Rule(
            f"!has(self.path) || ({_undescribed('self')})",
            "path says the whole architecture: remove preset, architecture and sizes, or path",
            ".path",
        ),
        Rule(
            "!(has(self.numExperts) || has(self.expertsPerToken) || has(self.expertIntermediateSize)) || "
            "(has(self.architecture) ? self.architecture.startsWith('DeepSeek') : "
            "self.preset in ['tiny', 'small'] || self.preset.startsWith('deepseek'))",
            "the architecture has no experts: remove numExperts, expertsPerToken and expertIntermediateSize, or take architecture "
            "DeepSeekV3",
            ".architecture",
        ),
        Rule(
            "!has(self.numKeyValueHeads) || (has(self.architecture) ? self.architecture in ['Qwen2', 'Llama'] : "
            "self.preset.startsWith('r1-distill'))",
            "the heads of the architecture share nothing: remove numKeyValueHeads",
            ".numKeyValueHeads",
        ),
        Rule(
            "!has(self.multiToken) || !has(self.multiToken.depth) || self.multiToken.depth == 0 || has(self.path) || "
            "(has(self.architecture) ? self.architecture == 'DeepSeekV3' : "
            "self.preset in ['tiny', 'small', 'deepseek-v3'])",
            "the architecture predicts the next token only: set multiToken.depth to 0",
            ".multiToken.depth",
        ),
    ),
    "trainer.parallelism": (
        Rule(
            "!has(self.auto) || !self.auto || (!has(self.replicate) && !has(self.shard) && "
            "(!has(self.tensor) || self.tensor == 1) && (!has(self.expert) || self.expert == 1) && "
            "(!has(self.pipeline) || self.pipeline == 1) && (!has(self.context) || self.context == 1))",
            "auto chooses the sizes itself: remove them, or set auto to false",
            ".auto",
        ),
        Rule(
            "!has(self.shard) || !has(self.expert) || "
            "(self.shard * (has(self.context) ? self.context : 1)) % self.expert == 0",
            "expert doesn't divide shard x context, of which it is a part: change one of them",
            ".expert",
        ),
    ),
    "data.batching": (
        Rule(
            "!has(self.dealing) || self.dealing != 'ByPace' || !has(self.mode) || self.mode != 'Bucketed'",
            "dealing ByPace needs rows that cost the same: take mode Stream or Packed, or dealing Even",
            ".dealing",
        ),
    ),
    "data": (
        Rule(
            "[has(self.corpus), has(self.path), has(self.dataset)].filter(source, source).size() == 1",
            "set exactly one of corpus (a named corpus), path (files on a volume of the workers) and dataset (of the Hugging "
            "Face library)",
        ),
        Rule(
            "(has(self.mode) && self.mode == 'Dynamic') || !has(self.dynamic) || "
            "((!has(self.dynamic.stream) || !self.dynamic.stream) && "
            "(!has(self.dynamic.shardBytes) || self.dynamic.shardBytes == 1048576))",
            "dynamic belongs to mode Dynamic: set mode to Dynamic, or remove dynamic",
            ".dynamic",
        ),
        Rule(
            "!has(self.mode) || self.mode != 'Dynamic' || !has(self.batching) || !has(self.batching.mode) || "
            "self.batching.mode == 'Stream'",
            "mode Dynamic cuts shards into rows: set batching.mode to Stream, or mode to Deterministic",
            ".batching",
        ),
        Rule(
            "!has(self.mode) || self.mode != 'Dynamic' || !has(self.shuffle) || "
            "((!has(self.shuffle.blockSamples) || self.shuffle.blockSamples == 256) && "
            "(!has(self.shuffle.windowBlocks) || self.shuffle.windowBlocks == 1024) && "
            "(!has(self.shuffle.readAhead) || self.shuffle.readAhead))",
            "mode Dynamic has no windows of blocks: remove shuffle, or set mode to Deterministic",
            ".shuffle",
        ),
        Rule(
            "!has(self.dynamic) || !has(self.dynamic.stream) || !self.dynamic.stream || has(self.path)",
            "a stream is a folder: set path, or remove dynamic.stream",
            ".dynamic",
        ),
    ),
}
"""Rules across fields of the injected schemas, by their path below `spec`."""

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
    for path, rules in INJECTED_RULES.items():
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
