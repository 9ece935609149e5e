"""What crosses the fields of `spec.trainer` and `spec.data`, whose schemas are the trainer's: here, as CEL is Kubernetes' own."""

from __future__ import annotations

from deepseek_operator.api.fields import Rule

_ARCHITECTURE = (
    *("architecture", "hiddenSize", "numLayers", "numAttentionHeads", "numKeyValueHeads", "intermediateSize"),
    *("numExperts", "expertsPerToken", "expertIntermediateSize"),
)
"""Optional fields of a model that say, beside its preset, what it is like."""


def _undescribed(model: str) -> str:
    """CEL: the job says nothing of what the model is like."""
    return " && ".join((f"{model}.preset == 'tiny'", *(f"!has({model}.{field})" for field in _ARCHITECTURE)))


RULES: dict[str, tuple[Rule, ...]] = {
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
"""By the path of the object whose fields they cross, below `spec`."""
