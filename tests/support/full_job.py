"""A DeepSeekJob that sets every field of the API: what reaches the API server, comes back, and reaches the pod.

tests/cluster/test_round_trip.py proves against the CRD's schema that no field is missing here. Where fields exclude
each other (trainer and entrypoint, say), the second job has the other one.
"""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

RESOURCES = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
NODES = {
    "matchExpressions": [
        {"key": "example.com/pool", "operator": "In", "values": ["training", "shared"]},
        {"key": "example.com/gpus", "operator": "Gt", "values": ["1"]},
        {"key": "example.com/broken", "operator": "DoesNotExist"},
    ]
}
PODS = {
    "labelSelector": {
        "matchLabels": {"app": "cache"},
        "matchExpressions": [{"key": "noise", "operator": "NotIn", "values": ["none", "low"]}],
    },
    "topologyKey": "topology.kubernetes.io/zone",
    "namespaces": ["caches"],
}
NEAR = {REQUIRED: [PODS], PREFERRED: [{"weight": 5, "podAffinityTerm": PODS}]}
AFFINITY: Manifest = {
    "nodeAffinity": {
        REQUIRED: {"nodeSelectorTerms": [NODES]},
        PREFERRED: [{"weight": 10, "preference": NODES}],
    },
    "podAffinity": NEAR,
    "podAntiAffinity": NEAR,
}

VOLUMES: list[Manifest] = [
    {"name": "corpus", "mountPath": "/data", "readOnly": True, "persistentVolumeClaim": {"claimName": "corpus"}},
    {
        "name": "scratch",
        "mountPath": "/scratch",
        "readOnly": False,
        "emptyDir": {"medium": "Memory", "sizeLimit": "10Gi"},
    },
    {"name": "conf", "mountPath": "/conf", "readOnly": True, "subPath": "a", "configMap": {"name": "conf"}},
    {"name": "keys", "mountPath": "/keys", "readOnly": True, "secret": {"name": "keys"}},
    {
        "name": "both",
        "mountPath": "/both",
        "readOnly": True,
        "projected": {"sources": [{"configMap": {"name": "conf"}}, {"secret": {"name": "keys"}}]},
    },
    {
        "name": "tokenizer",
        "mountPath": "/opt/tokenizer",
        "readOnly": True,
        "image": {"reference": "example.com/tokenizer:1", "pullPolicy": "Always"},
    },
]

HELPER: Manifest = {
    "imagePullPolicy": "Always",
    "command": ["copy"],
    "args": ["--every", "60"],
    "env": [
        {"name": "BUCKET", "value": "runs"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "bucket.token"}}},
        {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "region"}}},
    ],
    "resources": RESOURCES,
    "mounts": [
        {"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp", "subPath": "helper", "readOnly": False},
    ],
}
FETCHER: Manifest = {"name": "fetch", "image": "example.com/fetch:1", **HELPER}
SIDECAR: Manifest = {"name": "uploader", "image": "example.com/uploader:1", **HELPER}

WORKERS: Manifest = {
    "replicas": 3,
    "procPerNode": "auto",
    "image": "ghcr.io/example/trainer:1.0",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"nvidia.com/gpu": "2"}},
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "MIRROR", "valueFrom": {"configMapKeyRef": {"name": "hub", "key": "mirror"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "common"}}, {"prefix": "S3_", "secretRef": {"name": "s3"}}],
    "nodeSelector": {"gpu": "h100"},
    "affinity": AFFINITY,
    "tolerations": [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {
            "key": "example.com/drain",
            "operator": "Equal",
            "value": "soon",
            "effect": "NoExecute",
            "tolerationSeconds": 60,
        },
    ],
    "priorityClassName": "research",
    "runtimeClassName": "nvidia",
    "serviceAccountName": "trainer",
    "labels": {"team": "speech", "example.com/cost-centre": "42"},
    "annotations": {"example.com/owner": "Ada & Co"},
    "sharedMemory": "8Gi",
    "volumes": VOLUMES,
    "initContainers": [FETCHER],
    "sidecars": [SIDECAR],
    "terminationGracePeriodSeconds": 120,
}

CLAIM: Manifest = {
    "storageClassName": "shared",
    "accessModes": ["ReadWriteMany"],
    "size": "500Gi",
    "onDelete": "Delete",
}
COMMUNICATION: Manifest = {
    "interface": "eth0",
    "infiniband": False,
    "ibHca": "mlx5_0:1,mlx5_1:1",
    "ibGidIndex": 3,
    "ibTimeout": 20,
    "debug": "TRACE",
    "timeoutSeconds": 300,
}


TRAINER: Manifest = {
    "task": "pretrain",
    "model": {
        "preset": "small",
        "hiddenSize": 512,
        "numLayers": 6,
        "numAttentionHeads": 8,
        "architecture": "DeepSeekV3",
        "intermediateSize": 1024,
        "numExperts": 16,
        "expertsPerToken": 4,
        "expertIntermediateSize": 256,
        "trustRemoteCode": False,
        "attention": "Flash",
        "norm": "Fused",
        "experts": {"biasUpdateRate": 0.01, "sequenceLoss": 0.001, "capacityFactor": 1.5},
        "multiToken": {"depth": 1, "lossWeight": 0.1},
    },
    "tokenizer": {"kind": "deepseek", "vocabSize": 8192},
    "training": {
        "steps": 1000,
        "globalBatchSize": 64,
        "microBatchSize": 4,
        "sequenceLength": 256,
        "precision": "bf16",
        "lossScale": {"initial": 1024, "growthSteps": 500},
        "zLoss": 0.0001,
        "guard": {
            "onNonFinite": "SkipStep",
            "onSpike": "SkipStep",
            "spikeDeviations": 8,
            "windowSteps": 32,
            "maxSkippedSteps": 3,
            "rollbackSteps": 2,
        },
        "deterministic": True,
        "seed": 7,
        "activationCheckpointing": "selective",
        "compile": "layers",
        "reduceGradients": "microBatch",
        "cpuOffload": True,
    },
    "parallelism": {
        "auto": False,
        "replicate": 3,
        "shard": 4,
        "tensor": 1,
        "expert": 1,
        "context": 1,
        "pipeline": 1,
        "pipelineSchedule": "Interleaved1F1B",
        "stagesPerProcess": 4,
    },
    "optimizer": {
        "kind": "Muon",
        "learningRate": 0.001,
        "minLearningRateRatio": 0.2,
        "warmupSteps": 50,
        "schedule": {"kind": "WSD", "decayShare": 0.3},
        "weightDecay": 0.2,
        "beta1": 0.8,
        "beta2": 0.9,
        "gradientClip": 0.5,
        "muon": {"momentum": 0.9, "newtonSchulzSteps": 6},
        "ema": {"decay": 0.99, "evaluate": False},
        "spectralCap": {"weights": ["*.self_attn.o_proj.weight"], "limit": 4},
    },
    "evaluation": {
        "everySteps": 100,
        "batches": 4,
        "samples": {"prompts": ["Good morning"], "newTokens": 32, "temperature": 0.7},
    },
    "profile": {"fromStep": 10, "steps": 5, "ranks": [0, 8], "stacks": True, "directory": "/checkpoints/profiles"},
    "logging": {
        "kinds": ["JSONL", "MLflow"],
        "directory": "/checkpoints/logs",
        "everySteps": 5,
        "project": "speech",
        "trackingUri": "https://mlflow.example.com",
        "offline": True,
        "peakTflops": 989,
    },
}


RAY: Manifest = {
    "head": {"resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}},
    "raylet": {"cpus": 4, "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}}},
    "objectStore": "2Gi",
    "image": "ghcr.io/example/ray:2.60",
    "networkPolicy": False,
}


def trainer_job() -> Manifest:
    """Every field that a job of the built-in trainer can have."""
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": "full", "namespace": "default"},
        "spec": {
            "profile": "gpu-pool",
            "workers": WORKERS,
            "backend": "nccl",
            "trainer": TRAINER,
            "data": {
                "corpus": "chitchat",
                "textField": "line",
                "textFields": ["question", "answer"],
                "separator": " ",
                "chat": {"messagesField": "talk", "template": "DeepSeek", "loss": "All"},
                "onBadRecord": "Quarantine",
                "maxBadRecords": 7,
                "validationFraction": 0.1,
                "mode": "Deterministic",
                "dynamic": {"shardBytes": 1048576, "stream": False},
                "batching": {"mode": "Bucketed", "documentMask": True, "tokensPerMicroBatch": 4096, "dealing": "Even"},
                "shuffle": {"blockSamples": 64, "windowBlocks": 512, "readAhead": False},
                "allowChange": True,
                "audit": True,
                "ray": RAY,
            },
            "checkpoint": {
                "volume": {"claimName": "checkpoints", "subPath": "runs/full"},
                "interval": {"steps": 20, "auto": False},
                "keep": 5,
                "keepSeconds": 86400,
                "keepEverySteps": 1000,
                "mode": "Sync",
                "onFailure": "Fail",
                "maxFailures": 4,
                "memory": {"size": "12Gi", "peer": False},
                "resumeFrom": {"claimName": "earlier", "subPath": "runs/earlier", "step": 400, "optimizer": True},
            },
            "communication": COMMUNICATION,
            "elastic": {"minReplicas": 2, "maxReplicas": 8, "shrinkAfterSeconds": 300, "growPolicy": "OnRestart"},
            "recovery": {
                "budgets": {
                    "application": 2,
                    "outOfMemory": 2,
                    "accelerator": 7,
                    "communication": 7,
                    "hang": 4,
                    "infrastructure": 100,
                },
                "maxProcessRestarts": 1,
                "prewarm": True,
                "maxRestartsWithoutProgress": 6,
                "backoff": {"initialSeconds": 10, "maxSeconds": 600},
                "hangTimeoutSeconds": 900,
                "hangFactor": 10,
                "hangFloorSeconds": 30,
                "nodeExclusion": {"failures": 3, "cooldownSeconds": 7200},
            },
            "scheduling": {
                "gang": "Volcano",
                "queue": "research",
                "priorityClassName": "urgent",
                "schedulerName": "volcano",
                "spares": 1,
                "topology": {"key": "topology.kubernetes.io/zone", "mode": "Required"},
            },
            "lifecycle": {
                "activeDeadlineSeconds": 86400,
                "startDeadlineSeconds": 3600,
                "ttlSecondsAfterFinished": 600,
                "cleanPodPolicy": "All",
                "successPolicy": "RankZero",
                "maxUnavailable": 1,
            },
            "preflight": {"timeoutSeconds": 60, "minBandwidthMbps": 5000},
            "suspend": True,
            "managedBy": "kueue.x-k8s.io/multikueue",
        },
    }


HOW_IT_IS_TRAINED = ("trustRemoteCode", "attention", "norm", "experts", "multiToken")
"""Fields of the model that are no part of its architecture."""


def finetune_job() -> Manifest:
    """The same with the built-in trainer's other task, which takes its architecture from the weights, and a claim of its own."""
    job = trainer_job()
    trainer = TRAINER | {
        "task": "finetune",
        "initialWeights": {"path": "/data/model"},
        "model": {"preset": "tiny", **{name: TRAINER["model"][name] for name in HOW_IT_IS_TRAINED}},
        "tokenizer": {"kind": "initialWeights", "vocabSize": 4096},
    }
    checkpoint = job["spec"]["checkpoint"] | {"volume": {"template": CLAIM, "subPath": "runs/full"}}
    return job | {"spec": job["spec"] | {"trainer": trainer, "checkpoint": checkpoint}}


def streaming_job() -> Manifest:
    """The same that leases shards of a folder to which files are added."""
    job = trainer_job()
    data = {key: value for key, value in job["spec"]["data"].items() if key != "corpus"}
    dynamic = {
        "path": "/data/arriving",
        "mode": "Dynamic",
        "dynamic": {"shardBytes": 65536, "stream": True},
        "batching": {"mode": "Stream", "documentMask": True, "dealing": "ByPace"},
        "shuffle": {"blockSamples": 256, "windowBlocks": 1024, "readAhead": True},
    }
    return job | {"spec": job["spec"] | {"data": data | dynamic}}


def object_job() -> Manifest:
    """The same with its checkpoints in an object store, which no container mounts."""
    job = trainer_job()
    helper = HELPER | {"mounts": [mount for mount in HELPER["mounts"] if mount["name"] != "checkpoints"]}
    workers = WORKERS | {"initContainers": [FETCHER | helper], "sidecars": [SIDECAR | helper]}
    checkpoint = {name: value for name, value in job["spec"]["checkpoint"].items() if name != "volume"}
    checkpoint["resumeFrom"] = {"subPath": "earlier", "step": 400, "optimizer": True}
    store = {"url": "s3://bucket/runs", "endpointUrl": "https://minio.storage.svc:9000", "subPath": "full"}
    return job | {"spec": job["spec"] | {"workers": workers, "checkpoint": checkpoint | {"objectStore": store}}}


def script_job() -> Manifest:
    """The same with a script of the user's."""
    job = trainer_job()
    spec = {key: value for key, value in job["spec"].items() if key not in ("trainer", "data")}
    del spec["checkpoint"]["resumeFrom"], spec["checkpoint"]["memory"]
    return job | {"spec": spec | {"entrypoint": {"script": "/app/train.py", "args": ["--epochs", "2"]}}}


def module_job() -> Manifest:
    """The same with a module of the user's."""
    job = script_job()
    return job | {"spec": job["spec"] | {"entrypoint": {"module": "my.train"}}}
