"""The object as a whole: its name, what it trains, with which data, saved where."""

from __future__ import annotations

from support.bad_manifests.case import GONE, Bad, at, script, trainer, trainer_job

BAD = [
    Bad("long-name", {"metadata/name": "j" * 46}, ("metadata.name must be at most 45",), trainer_job),
    Bad("dotted-name", {"metadata/name": "a.b"}, ("metadata.name must be at most 45",), trainer_job),
    Bad("digit-first", {"metadata/name": "1st"}, ("begin with a letter", "choose such a name"), trainer_job),
    # Fields that are not there, or are missing.
    trainer("unknown-section", {"worker": {"image": "x"}}, 'unknown field "spec.worker"'),
    trainer("misspelt-trainer-field", {"trainer/training/step": 5}, 'unknown field "spec.trainer.training.step"'),
    trainer("unknown-checkpoint-field", {"checkpoint/every": 5}, 'unknown field "spec.checkpoint.every"'),
    trainer("misspelt-suspend", {"suspended": True}, 'unknown field "spec.suspended"'),
    at("workers", "no-workers", GONE, "Required value"),
    at("trainer/training", "no-training", GONE, "Required value"),
    trainer("no-steps", {"trainer/training": {}}, "spec.trainer.training.steps", "Required value"),
    at("checkpoint/volume", "checkpoint-without-volume", GONE, "Required value"),
    trainer("steps-and-seconds", {"checkpoint/interval/seconds": 60}, "spec.checkpoint.interval", "exclude each other"),
    trainer("steps-and-auto", {"checkpoint/interval/auto": True}, "spec.checkpoint.interval", "exclude each other"),
    at("checkpoint/mode", "checkpoint-mode", "Never", '"Async", "Sync"'),
    at("checkpoint/onFailure", "checkpoint-on-failure", "Ignore", '"Continue", "Fail"'),
    at("checkpoint/maxFailures", "checkpoint-failures-0", 0, "greater than or equal to 1"),
    at("checkpoint/volume/claimName", "checkpoint-volume-without-claim", GONE, "Required value"),
    # One of several.
    trainer(
        "trainer-and-entrypoint",
        {"entrypoint": {"script": "/x.py"}},
        "spec",
        "set exactly one of trainer (the built-in trainer) and entrypoint",
    ),
    trainer("neither", {"trainer": GONE, "data": GONE}, "spec", "set exactly one of trainer"),
    script("script-and-module", {"entrypoint/module": "a.b"}, "spec.entrypoint", "exactly one of script and module"),
    script("no-script-no-module", {"entrypoint/script": GONE}, "spec.entrypoint", "exactly one of script and module"),
    script("module-as-path", {"entrypoint": {"module": "my/train.py"}}, "spec.entrypoint.module", "should match"),
    script("empty-script", {"entrypoint/script": ""}, "spec.entrypoint.script", "at least 1 chars"),
    script("args-as-text", {"entrypoint/args": "--steps 10"}, "spec.entrypoint.args", "must be of type array"),
    script(
        "a-number-as-arg", {"entrypoint/args": ["--steps", 10]}, "spec.entrypoint.args[1]", "must be of type string"
    ),
    script("data-with-entrypoint", {"data": {"corpus": "gcide"}}, "spec.data", "read your data yourself and remove"),
    trainer("trainer-without-data", {"data": GONE}, "spec.trainer", "set data.corpus to a named corpus, data.path"),
    trainer("two-data-sources", {"data/path": "/data"}, "spec.data", "set exactly one of corpus"),
    trainer("no-data-source", {"data": {"textField": "t"}}, "spec.data", "set exactly one of corpus"),
    trainer(
        "audit-without-checkpoint",
        {"data/audit": True, "checkpoint": GONE},
        "spec.data",
        "set checkpoint.volume, or remove data.audit",
    ),
    # The trainer's own part.
    at("trainer/model/preset", "bad-preset", "huge", '"tiny", "small"'),
    at("data/corpus", "bad-corpus", "wikipedia", '"chitchat"'),
    at("data/validationFraction", "validation-of-all", 1, "should be less than"),
    at("trainer/training/steps", "no-steps-at-all", 0, "equal to 1"),
    at("trainer/training/precision", "bad-precision", "fp8", '"fp32", "bf16"'),
    at("trainer/optimizer/learningRate", "learning-rate-0", 0),
    trainer(
        "warmup-above-steps",
        {"trainer/optimizer/warmupSteps": 101},
        "spec.trainer.optimizer.warmupSteps",
        "lower warmupSteps or raise steps",
    ),
    trainer(
        "more-experts-per-token-than-experts",
        {"trainer/model/expertsPerToken": 9},
        "spec.trainer.model.expertsPerToken",
        "lower expertsPerToken or raise numExperts",
    ),
    trainer(
        "by-pace-with-buckets",
        {"data/batching": {"mode": "Bucketed", "dealing": "ByPace"}},
        "spec.data.batching.dealing",
        "take mode Stream or Packed, or dealing Even",
    ),
    trainer(
        "shards-without-dynamic",
        {"data/dynamic": {"shardBytes": 4096}},
        "spec.data.dynamic",
        "set mode to Dynamic, or remove dynamic",
    ),
    trainer(
        "stream-without-dynamic",
        {"data": {"path": "/data", "dynamic": {"stream": True}}},
        "spec.data.dynamic",
        "set mode to Dynamic, or remove dynamic",
    ),
    trainer(
        "dynamic-with-buckets",
        {"data/mode": "Dynamic", "data/batching": {"mode": "Bucketed"}},
        "spec.data.batching",
        "set batching.mode to Stream, or mode to Deterministic",
    ),
    trainer(
        "dynamic-with-windows",
        {"data/mode": "Dynamic", "data/shuffle": {"windowBlocks": 64}},
        "spec.data.shuffle",
        "remove shuffle, or set mode to Deterministic",
    ),
    trainer(
        "stream-of-a-corpus",
        {"data/mode": "Dynamic", "data/dynamic": {"stream": True}},
        "spec.data.dynamic",
        "set path, or remove dynamic.stream",
    ),
    at("data/dynamic/shardBytes", "shards-of-nothing", 0, "should be greater than or equal to 1024"),
    at("data/mode", "unknown-mode", "Elastic", '"Deterministic", "Dynamic"'),
    trainer(
        "finetune-without-weights",
        {"trainer/task": "finetune", "trainer/model": GONE, "trainer/tokenizer": {"kind": "deepseek"}},
        "spec.trainer.initialWeights",
        "set initialWeights.path to the folder of a model",
    ),
    trainer(
        "weights-without-finetune",
        {"trainer/initialWeights": {"path": "/models/m"}},
        "spec.trainer.task",
        "set task to finetune, or remove them",
    ),
    trainer(
        "finetune-with-a-new-vocabulary",
        {"trainer/task": "finetune", "trainer/model": GONE, "trainer/initialWeights": {"path": "/models/m"}},
        "spec.trainer.tokenizer.kind",
        "set tokenizer.kind to initialWeights",
    ),
    trainer(
        "finetune-with-a-model",
        {
            "trainer/task": "finetune",
            "trainer/initialWeights": {"path": "/models/m"},
            "trainer/tokenizer": {"kind": "initialWeights"},
        },
        "spec.trainer.model",
        "remove model",
    ),
    at("trainer/task", "unknown-task", "serve", '"pretrain", "finetune"'),
    # Values of a wrong kind.
    at("backend", "bad-backend", "mpi", '"auto", "nccl", "gloo"'),
    at("suspend", "suspend-as-text", "yes", "must be of type boolean"),
    at("profile", "bad-profile", "GPU pool", "should match"),
    at("managedBy", "empty-manager", "", "at least 1 chars"),
    at("checkpoint/interval/steps", "interval-0", 0, "equal to 1"),
    at("checkpoint/keep", "keep-0", 0, "greater than or equal to 1"),
    at("checkpoint/keep", "keep-too-many", 1001, "less than or equal to 1000"),
    at("checkpoint/volume/claimName", "bad-claim-name", "Check Points", "should match"),
    at("checkpoint/volume/subPath", "checkpoint-path-up", "../other", "write the path out"),
    at("checkpoint/volume/subPath", "checkpoint-path-absolute", "/runs", "should match"),
]
