"""A job that sets every field comes back as it was written, and several managers share it without fighting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support import full_job
from support.api import Api, Jobs
from support.bad_manifests import Manifest, changed
from support.crd import CRD_FILE
from support.kubectl import Kubectl, KubectlError
from support.yamls import document

pytestmark = pytest.mark.cluster

FULL = {
    "trainer": full_job.trainer_job(),
    "finetune": full_job.finetune_job(),
    "streaming": full_job.streaming_job(),
    "objects": full_job.object_job(),
    "script": full_job.script_job(),
    "module": full_job.module_job(),
}
ELSEWHERE = {
    "workers.volumes.hostPath": "is there to be refused with a remedy",
    "checkpoint.interval.seconds": "excludes checkpoint.interval.steps",
    "trainer.model.path": "excludes the preset and the sizes",
    "trainer.model.numKeyValueHeads": "is of other architectures than DeepSeekV3",
    **{f"data.dataset.{field}": "excludes data.corpus" for field in ("name", "config", "revision", "split")},
}
MINIMAL: Manifest = {
    "apiVersion": "training.deepseekjob.dev/v1alpha1",
    "kind": "DeepSeekJob",
    "metadata": {"name": "minimal"},
    "spec": {
        "workers": {"image": "example.com/trainer:1"},
        "trainer": {"training": {"steps": 100}},
        "data": {"corpus": "chitchat"},
    },
}
DEFAULTS: dict[str, Any] = {
    "workers": {"image": "example.com/trainer:1", "replicas": 1},
    "backend": "auto",
    "suspend": False,
    "trainer": {
        "task": "pretrain",
        "model": {
            "preset": "tiny",
            "trustRemoteCode": False,
            "attention": "SDPA",
            "norm": "Auto",
            "experts": {"biasUpdateRate": 0.001, "sequenceLoss": 0.0001},
            "multiToken": {"depth": 0, "lossWeight": 0.3},
        },
        "tokenizer": {"kind": "bpe", "vocabSize": 4096},
        "training": {
            "steps": 100,
            "globalBatchSize": 32,
            "microBatchSize": 8,
            "sequenceLength": 128,
            "precision": "fp32",
            "lossScale": {"initial": 65536, "growthSteps": 2000},
            "zLoss": 0,
            "guard": {
                "onNonFinite": "Fail",
                "onSpike": "Ignore",
                "spikeDeviations": 6,
                "windowSteps": 64,
                "maxSkippedSteps": 10,
                "rollbackSteps": 1,
            },
            "deterministic": False,
            "activationCheckpointing": "none",
            "compile": "none",
            "cpuOffload": False,
            "reduceGradients": "step",
            "seed": 0,
        },
        "parallelism": {
            "auto": False,
            "tensor": 1,
            "expert": 1,
            "context": 1,
            "pipeline": 1,
            "pipelineSchedule": "1F1B",
            "stagesPerProcess": 2,
        },
        "optimizer": {
            "kind": "AdamW",
            "learningRate": 0.003,
            "minLearningRateRatio": 0.1,
            "warmupSteps": 20,
            "weightDecay": 0.1,
            "beta1": 0.9,
            "beta2": 0.95,
            "gradientClip": 1,
            "schedule": {"kind": "Cosine", "decayShare": 0.2},
            "muon": {"momentum": 0.95, "newtonSchulzSteps": 5},
        },
        "evaluation": {"everySteps": 50, "batches": 8},
        "profile": {"steps": 3, "ranks": [0], "stacks": False},
        "logging": {"kinds": [], "everySteps": 10, "project": "deepseekjob", "offline": False},
    },
    "data": {
        "corpus": "chitchat",
        "textField": "text",
        "separator": "\n",
        "onBadRecord": "Fail",
        "maxBadRecords": 100,
        "validationFraction": 0.02,
        "shuffle": {"blockSamples": 256, "windowBlocks": 1024, "readAhead": True},
        "mode": "Deterministic",
        "dynamic": {"shardBytes": 1048576, "stream": False},
        "batching": {"mode": "Stream", "documentMask": False, "dealing": "Even"},
        "allowChange": False,
        "audit": False,
    },
    "recovery": {
        "budgets": {"application": 3, "outOfMemory": 1, "accelerator": 5, "communication": 5, "hang": 5},
        "maxProcessRestarts": 3,
        "maxRestartsWithoutProgress": 5,
        "backoff": {"initialSeconds": 5, "maxSeconds": 300},
        "hangTimeoutSeconds": 1800,
        "hangFactor": 20,
        "nodeExclusion": {"failures": 2, "cooldownSeconds": 3600},
    },
    "lifecycle": {"successPolicy": "AllWorkers"},
}


def fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every field below a schema that has no fields of its own, dotted; lists and maps add nothing to a path."""
    inner = schema.get("items") or schema.get("additionalProperties") or schema
    if not inner.get("properties"):
        yield path
    for name, field in inner.get("properties", {}).items():
        yield from fields(field, f"{path}.{name}" if path else name)


def written(value: Any, known: set[str], path: str = "") -> Iterator[str]:
    """The fields of a manifest in the same form; what is below a known field is its value."""
    if path in known:
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from written(inner, known, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from written(inner, known, path)


def spec_fields() -> set[str]:
    crd = document(CRD_FILE.read_text(encoding="utf-8"))
    return set(fields(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]))


def test_the_full_jobs_set_every_field_of_the_schema() -> None:
    known = spec_fields()
    found = {field for job in FULL.values() for field in written(job["spec"], known)}
    assert known - found == set(ELSEWHERE)


@pytest.fixture
def kubectl_here(kubectl: Kubectl, jobs: Jobs) -> Kubectl:
    """kubectl in the test's namespace."""
    return Kubectl(kubectl.binary, kubectl.kubeconfig, jobs.namespace)


def server_side(kubectl: Kubectl, manifest: Manifest, manager: str = "kubectl") -> None:
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "namespace"}
    text = json.dumps(manifest | {"metadata": metadata})
    kubectl.run("apply", "--server-side", f"--field-manager={manager}", "-f", "-", stdin=text)


@pytest.mark.parametrize("name", FULL)
def test_every_field_comes_back_as_it_was_written(kubectl_here: Kubectl, jobs: Jobs, name: str) -> None:
    server_side(kubectl_here, FULL[name])
    found = jobs.get("full")
    assert found["spec"] == FULL[name]["spec"]
    server_side(kubectl_here, FULL[name])
    assert jobs.get("full")["metadata"]["generation"] == found["metadata"]["generation"] == 1


def test_what_is_left_out_is_filled_in_with_the_documented_defaults(kubectl_here: Kubectl, jobs: Jobs) -> None:
    server_side(kubectl_here, MINIMAL)
    assert jobs.get("minimal")["spec"] == DEFAULTS


def test_the_documented_defaults_are_those_of_the_reference() -> None:
    """docs/api.md is made from the schema; nothing that it calls a default is missing above, but for what belongs to a
    section that a job may leave out."""
    crd = document(CRD_FILE.read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    def documented(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
        for name, field in schema.get("properties", {}).items():
            if "default" in field and not isinstance(field["default"], dict):
                yield f"{path}{name}", field["default"]
            if not path or "default" in field or name in schema.get("required", ()):
                yield from documented(field, f"{path}{name}.")

    def at(path: str) -> Any:
        value: Any = DEFAULTS
        for part in path.split("."):
            value = value[part]
        return value

    present = {path: value for path, value in documented(spec) if path.split(".")[0] in DEFAULTS}
    assert {path: at(path) for path in present} == present


# ---- several managers ------------------------------------------------------------------------------


def elastic_job(**workers: Any) -> Manifest:
    job = changed(MINIMAL, {"metadata/name": "shared", "spec/elastic": {"minReplicas": 1, "maxReplicas": 8}})
    job["spec"]["workers"] |= workers
    return job


def managers(job: dict[str, Any], path: str, operation: str) -> set[str]:
    """Who owns a field by this operation."""
    found = set()
    for entry in job["metadata"]["managedFields"]:
        if entry["operation"] != operation:
            continue
        node = entry.get("fieldsV1", {})
        for part in path.split("/"):
            node = node.get(f"f:{part}") if isinstance(node, dict) else None
        if node is not None:
            found.add(entry["manager"])
    return found


def test_an_autoscaler_and_a_users_apply_share_a_job(kubectl_here: Kubectl, jobs: Jobs) -> None:
    server_side(kubectl_here, elastic_job())
    kubectl_here.run("scale", "dsj/shared", "--replicas=4")
    server_side(kubectl_here, elastic_job() | {"metadata": {"name": "shared", "labels": {"team": "a"}}})
    job = jobs.get("shared")
    assert job["spec"]["workers"]["replicas"] == 4
    assert job["metadata"]["labels"] == {"team": "a"}
    # The scale subresource has an owner of its own there, the field of elastic the user who applied it.
    assert managers(job, "spec/elastic/maxReplicas", "Apply") == {"kubectl"}
    assert managers(job, "spec/workers/replicas", "Apply") == set()


def test_a_user_who_writes_the_replicas_too_is_told_of_the_autoscaler(kubectl_here: Kubectl, jobs: Jobs) -> None:
    server_side(kubectl_here, elastic_job(replicas=2))
    kubectl_here.run("scale", "dsj/shared", "--replicas=4")
    with pytest.raises(KubectlError, match=r"conflict.*\.spec\.workers\.replicas"):
        server_side(kubectl_here, elastic_job(replicas=2))
    assert jobs.get("shared")["spec"]["workers"]["replicas"] == 4


def test_a_queue_suspends_a_job_that_its_user_applies_again(kubectl_here: Kubectl, jobs: Jobs) -> None:
    server_side(kubectl_here, elastic_job())
    queue = {key: MINIMAL[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "shared"}}
    server_side(kubectl_here, queue | {"spec": {"suspend": True}}, "kueue")
    server_side(kubectl_here, elastic_job())
    job = jobs.get("shared")
    assert job["spec"]["suspend"] is True
    assert managers(job, "spec/suspend", "Apply") == {"kueue"}


def test_two_managers_add_a_variable_and_a_volume_each(kubectl_here: Kubectl, jobs: Jobs) -> None:
    def part(name: str) -> dict[str, Any]:
        return {
            "env": [{"name": name, "value": "1"}],
            "volumes": [{"name": name.lower(), "mountPath": f"/{name}", "emptyDir": {}}],
        }

    server_side(kubectl_here, elastic_job(**part("ONE")))
    platform = {key: MINIMAL[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "shared"}}
    # Variables of a running job can't change: the platform adds its own before the job exists, or while it is suspended.
    kubectl_here.run("patch", "dsj/shared", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    server_side(kubectl_here, platform | {"spec": {"workers": part("TWO")}}, "platform")
    server_side(kubectl_here, elastic_job(**part("ONE")))
    workers = jobs.get("shared")["spec"]["workers"]
    assert {entry["name"] for entry in workers["env"]} == {"ONE", "TWO"}
    assert {entry["name"] for entry in workers["volumes"]} == {"one", "two"}
    server_side(kubectl_here, platform | {"spec": {"workers": {}}}, "platform")
    assert [entry["name"] for entry in jobs.get("shared")["spec"]["workers"]["env"]] == ["ONE"]


def test_the_operators_status_is_nobody_elses(kubectl_here: Kubectl, api: Api, jobs: Jobs) -> None:
    server_side(kubectl_here, elastic_job())
    path = f"{jobs.path}/shared"
    api.merge(f"{path}/status", {"status": {"state": "Running"}})
    server_side(kubectl_here, elastic_job())
    assert jobs.status("shared") == {"state": "Running"}
    api.merge(path, {"status": {"state": "Failed"}})
    assert jobs.state("shared") == "Running"
    api.merge(f"{path}/status", {"spec": {"suspend": True}})
    assert jobs.get("shared")["spec"]["suspend"] is False


# ---- the scale subresource --------------------------------------------------------------------------


def test_the_scale_subresource_answers_what_an_autoscaler_asks(kubectl_here: Kubectl, api: Api, jobs: Jobs) -> None:
    server_side(kubectl_here, elastic_job(replicas=2))
    selector = "training.deepseekjob.dev/job-uid=abc"
    api.merge(
        f"{jobs.path}/shared/status",
        {"status": {"selector": selector, "nodes": {"ready": 1, "desired": 2}}},
    )
    scale = api.get(f"{jobs.path}/shared/scale")
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 2, "selector": selector}
    said = kubectl_here.run("scale", "dsj/shared", "--current-replicas=2", "--replicas=3")
    assert re.search(r"shared scaled", said)
