"""`dsj audit` without a cluster: what a pod's answer is worth, the pod itself, and folders on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deepseek_client.audit.answer import compared, parse
from deepseek_client.audit.cluster import errand
from deepseek_client.audit.folder import audit_folder
from deepseek_client.beside.pod import errand_pod
from deepseek_client.cli import main
from deepseek_client.errors import ClientError
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from support import full_job
from support.audits import Training, rewrite
from support.bad_manifests import GONE, changed, trainer_job

CHAIN = "ab" * 32
ROWS = [["verdict", "proven: every sample exactly once"], ["steps", "40 of 40 audited"]]


def job(status: dict[str, Any] | None = None, **changes: Any) -> DeepSeekJob:
    body = changed(trainer_job(), {"metadata/uid": "uid-1", "spec/data/audit": True, **changes})
    return DeepSeekJob.model_validate(body | {"status": status or {}})


def said(**facts: Any) -> str:
    return json.dumps({"verdict": "proven", "step": 40, "chain_at": [40, CHAIN], "rows": ROWS, **facts})


# ---- the answer -------------------------------------------------------------------------------

STATUS: dict[str, tuple[dict[str, Any], dict[str, Any], int, str]] = {
    "equal": ({"step": 40, "chain": CHAIN}, {}, 0, "chain of step 40: equal to the recomputed one"),
    "another": ({"step": 40, "chain": "cd" * 32}, {}, 1, "chain of step 40: DIFFERS from the recomputed one"),
    "of the checkpoint before, as mode Dynamic shows it until one is made": (
        {"step": 40, "chain": CHAIN},
        {"chain_at": [40, CHAIN, "cd" * 32]},
        0,
        "chain of step 40: equal to the recomputed one",
    ),
    "of that checkpoint itself": (
        {"step": 40, "chain": CHAIN},
        {"chain_at": [40, "cd" * 32, CHAIN]},
        0,
        "chain of step 40: equal to the recomputed one",
    ),
    "of neither": (
        {"step": 40, "chain": CHAIN},
        {"chain_at": [40, "cd" * 32, "ef" * 32]},
        1,
        "chain of step 40: DIFFERS from the recomputed one",
    ),
    "ahead of the checkpoint": (
        {"step": 47, "chain": CHAIN},
        {"chain_at": None},
        0,
        "is at step 47, which no checkpoint has",
    ),
    "no chain": ({"step": 0}, {}, 0, "has no chain yet"),
    "not recomputed": ({"step": 40, "chain": CHAIN}, {"chain_at": None}, 0, "there is no recomputed one"),
}


@pytest.mark.parametrize(("training", "facts", "exit_status", "says"), STATUS.values(), ids=STATUS)
def test_the_chain_of_the_status_is_compared(
    training: dict[str, Any], facts: dict[str, Any], exit_status: int, says: str
) -> None:
    answer = compared(parse(said(**facts)), job({"training": training}))
    assert answer.exit_status == exit_status
    assert answer.rows[-1][0] == "status"
    assert says in answer.rows[-1][1]
    assert answer.rows[0][1].startswith("proven" if exit_status == 0 else "NOT proven")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its last line: nothing"),
        ("Traceback\nNo module named deepseek_trainer.data.audit\n", "No module named deepseek_trainer.data.audit"),
        ("[]", r"its last line: \[\]"),
        ('{"verdict": "proven"}', "gave no answer"),
        ('{"verdict": "perfect", "rows": []}', "verdict 'perfect' is unknown to this client"),
        ('{"verdict": "proven", "rows": [["verdict"]]}', "gave no answer"),
    ],
)
def test_what_is_no_answer_is_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ClientError, match=says) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


# ---- the pod ----------------------------------------------------------------------------------


def audit_pod(audited: DeepSeekJob, *, memory: str = "1Gi", timeout_s: float = 60) -> dict[str, Any]:
    return errand_pod(audited, errand(audited, memory=memory, timeout_s=timeout_s), "right-audit-1")


def test_the_pod_reads_the_jobs_claim_and_can_do_nothing_else() -> None:
    pod = audit_pod(job({"training": {"step": 40, "chain": CHAIN}}), memory="2Gi", timeout_s=300)
    spec = pod["spec"]
    [container], [volume], [mount] = spec["containers"], spec["volumes"], spec["containers"][0]["volumeMounts"]
    assert container["image"] == "example.com/trainer:1"
    assert container["command"] == [
        *("python", "-m", "deepseek_trainer.data.audit", "/checkpoints/right"),
        *("--brief-to", "/dev/termination-log", "--at", "40"),
    ]
    assert volume["persistentVolumeClaim"] == {"claimName": "checkpoints"}
    assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], "/checkpoints", True)
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] == 360
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert not [label for label in pod["metadata"]["labels"] if "deepseekjob.dev" in label or "managed-by" in label]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_the_pod_goes_where_the_workers_can() -> None:
    """Their profile's image, pull secrets, account and nodes; the folder that the job names."""
    profile = {"name": "gpu-pool", "spec": {"workers": {"image": "example.com/pool:2", "nodeSelector": {"pool": "a"}}}}
    manifest = changed(full_job.trainer_job(), {"spec/workers/image": GONE})
    of_pool = DeepSeekJob.model_validate(manifest | {"status": {"generation": 1, "profile": profile}})
    spec = audit_pod(of_pool)["spec"]
    assert spec["containers"][0]["image"] == "example.com/pool:2"
    assert spec["containers"][0]["command"][3] == "/checkpoints/runs/full"
    assert spec["nodeSelector"] == {"gpu": "h100", "pool": "a"}
    assert spec["tolerations"] == full_job.WORKERS["tolerations"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "trainer"


def test_with_an_object_store_the_pod_has_the_workers_credentials_and_a_disk_of_its_own() -> None:
    changes: dict[str, Any] = {
        "spec/checkpoint": {"objectStore": {"url": "s3://bucket/runs", "endpointUrl": "http://minio:9000"}},
        "spec/workers/envFrom": [{"secretRef": {"name": "s3"}}],
    }
    spec = audit_pod(job(**changes))["spec"]
    [container] = spec["containers"]
    assert container["command"][2:4] == ["deepseek_trainer.data.audit", "s3://bucket/runs/right"]
    assert container["command"][-2:] == ["--endpoint", "http://minio:9000"]
    assert [entry["secretRef"]["name"] for entry in container["envFrom"]] == ["s3"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spec/data/audit": False}, "job right: keeps no audit; apply it anew with data.audit: true"),
        ({"spec/data": GONE, "spec/trainer": GONE, "spec/entrypoint": {"module": "m"}}, "keeps no audit"),
        ({"spec/workers/image": GONE, "spec/profile": "p"}, "has not started yet"),
    ],
)
def test_a_job_without_an_audit_gets_no_pod(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientError, match=says):
        audit_pod(job(**changes))


# ---- folders ----------------------------------------------------------------------------------


def work_folder(root: Path) -> tuple[Training, Path]:
    """As `dsj run` leaves it."""
    training = Training(root / "claims" / "checkpoints" / "right").steps(8).save()
    status = {"training": {"step": 8, "chain": training.ledger.chain}}
    (root / "job.json").write_text(job(status).model_dump_json(by_alias=True, exclude_none=True))
    return training, root


def test_a_checkpoint_folder_is_audited(tmp_path: Path) -> None:
    training = Training(tmp_path).steps(8).save()
    assert audit_folder(tmp_path).exit_status == 0
    training.file().unlink()
    assert audit_folder(tmp_path).exit_status == 2


def test_a_work_folder_is_audited_and_compared_with_its_status(tmp_path: Path) -> None:
    training, root = work_folder(tmp_path)
    assert ("status", "chain of step 8: equal to the recomputed one") in audit_folder(root).rows
    rewrite(training.file(), lambda records: [*records[:-1], replace(records[0], step=8)])
    assert audit_folder(root).exit_status == 1


def test_a_work_folder_whose_claim_is_elsewhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(job().model_dump_json(by_alias=True, exclude_none=True))
    with pytest.raises(ClientError, match=r"if claim checkpoints was another one \(--volume\), give that"):
        audit_folder(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "exit_status", "says"),
    [
        (["audit"], 2, "give the name of a job, or --folder"),
        (["audit", "job", "--folder", "x"], 2, "give the name of a job, or --folder"),
        (["audit", "--folder", "/nowhere"], 2, "/nowhere is no folder"),
    ],
)
def test_the_commands_errors_are_one_line(
    arguments: list[str], exit_status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == exit_status
    assert says in (out + err).replace("\n", " ")


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    work_folder(tmp_path)
    for more, says in ([], "48 trained, 0 lost, 0 repeated"), (["-o", "json"], '"verdict": "proven"'):
        with pytest.raises(SystemExit) as end:
            main(["audit", "--folder", str(tmp_path), *more])
        assert end.value.code == 0
        assert says in capsys.readouterr().out
