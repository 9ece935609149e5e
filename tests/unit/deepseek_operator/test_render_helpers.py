"""Init containers, sidecars and volumes of a worker pod."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render import Membership, worker_pod
from support.full_job import SIDECAR, VOLUMES
from support.make import make_job

MEMBERSHIP = Membership(generation=1, attempt=1, node_rank=0, nodes=1, master="m", host=True)
TMP = {"name": "deepseekjob-tmp", "mountPath": "/tmp"}


def pod(job: DeepSeekJob) -> dict[str, Any]:
    return worker_pod(job, 0, 0, MEMBERSHIP)


def helper(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": f"example.com/{name}:1", **fields}


def test_init_containers_come_before_sidecars_and_only_these_are_restarted() -> None:
    workers = {
        "initContainers": [helper("first"), helper("second")],
        "sidecars": [helper("log"), helper("sync")],
    }
    found = pod(make_job(workers=workers))["spec"]
    assert [(c["name"], c.get("restartPolicy")) for c in found["initContainers"]] == [
        ("first", None),
        ("second", None),
        ("log", "Always"),
        ("sync", "Always"),
    ]
    # So that the worker alone decides when the pod has ended.
    assert [container["name"] for container in found["containers"]] == ["worker"]
    assert found["restartPolicy"] == "Never"


def test_a_helper_is_what_was_written() -> None:
    (found,) = pod(make_job(workers={"volumes": VOLUMES, "sidecars": [SIDECAR]}))["spec"]["initContainers"]
    same = ("name", "image", "imagePullPolicy", "command", "args", "resources")
    assert {key: found[key] for key in same} == {key: SIDECAR[key] for key in same}
    assert found["env"][-3:] == SIDECAR["env"]


def test_a_plain_helper_runs_what_its_image_says() -> None:
    (found,) = pod(make_job(workers={"initContainers": [helper("fetch")]}))["spec"]["initContainers"]
    assert not {"command", "args", "restartPolicy"} & found.keys()
    assert found["imagePullPolicy"] == "IfNotPresent"
    assert found["volumeMounts"] == [TMP]


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([], [TMP]),
        (
            [{"name": "scratch", "mountPath": "/out", "subPath": "a", "readOnly": True}],
            [TMP, {"name": "scratch", "mountPath": "/out", "subPath": "a", "readOnly": True}],
        ),
        (
            [{"name": "checkpoints", "mountPath": "/ck", "readOnly": True}],
            [TMP, {"name": "deepseekjob-checkpoints", "mountPath": "/ck", "readOnly": True}],
        ),
        ([{"name": "scratch", "mountPath": "/tmp"}], [{"name": "scratch", "mountPath": "/tmp"}]),
        ([{"name": "scratch", "mountPath": "/tmp/"}], [{"name": "scratch", "mountPath": "/tmp/"}]),
    ],
)
def test_mounts_of_a_helper(mounts: list[Any], expected: list[Any]) -> None:
    job = make_job(workers={"volumes": VOLUMES, "initContainers": [helper("fetch", mounts=mounts)]})
    (found,) = pod(job)["spec"]["initContainers"]
    assert found["volumeMounts"] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"persistentVolumeClaim": {"claimName": "c"}}, {"persistentVolumeClaim": {"claimName": "c"}}),
        ({"configMap": {"name": "c"}}, {"configMap": {"name": "c"}}),
        ({"secret": {"name": "s"}}, {"secret": {"secretName": "s"}}),
        ({"emptyDir": {}}, {"emptyDir": {}}),
        ({"emptyDir": {"medium": "", "sizeLimit": "1Gi"}}, {"emptyDir": {"sizeLimit": "1Gi"}}),
        ({"emptyDir": {"medium": "Memory"}}, {"emptyDir": {"medium": "Memory"}}),
        (
            {"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}},
            {"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}},
        ),
        ({"image": {"reference": "e.com/t:1"}}, {"image": {"reference": "e.com/t:1", "pullPolicy": "IfNotPresent"}}),
    ],
)
def test_every_kind_of_volume(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = pod(make_job(workers={"volumes": [{"name": "v", "mountPath": "/v", **given}]}))
    assert found["spec"]["volumes"][-1] == {"name": "v", **expected}
    assert found["spec"]["containers"][0]["volumeMounts"][-1] == {"name": "v", "mountPath": "/v"}


def test_ours_win_among_labels_and_annotations() -> None:
    """The API refuses such keys; an object that was stored before it did must not confuse the operator."""
    job = make_job(workers={"labels": {"team": "a"}, "annotations": {"note": "b"}})
    workers = job.spec.workers.model_copy(
        update={
            "labels": {"team": "a", "training.deepseekjob.dev/slot": "7"},
            "annotations": {"note": "b", "training.deepseekjob.dev/membership": "{}"},
        }
    )
    forged = job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})
    assert pod(forged)["metadata"] == pod(job)["metadata"]
    assert pod(job)["metadata"]["labels"]["team"] == "a"
    assert pod(job)["metadata"]["annotations"]["note"] == "b"


@pytest.mark.parametrize("account", [None, "trainer"])
def test_no_pod_carries_a_token(account: str | None) -> None:
    spec = pod(make_job(workers={"serviceAccountName": account} if account else {}))["spec"]
    assert spec.get("serviceAccountName") == account
    assert spec["automountServiceAccountToken"] is False
