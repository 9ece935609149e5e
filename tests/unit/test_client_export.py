"""`dsj export` without a cluster: what the pod is told and may do, what its answer is worth, and what a user gets wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deepseek_client.beside.pod import Errand, errand_pod
from deepseek_client.cli import main
from deepseek_client.errors import ClientError, NotExportedError
from deepseek_client.export import MODULE, Wanted, arguments, parse
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from support.bad_manifests import trainer_job

FULL = Wanted("models/mine", step=40, dtype="bfloat16", tokenizer="vocabularies/tokenizer.json", ema=True)


def pod(**more: Any) -> dict[str, Any]:
    job = DeepSeekJob.model_validate(trainer_job())
    return errand_pod(job, Errand("export", MODULE, arguments(FULL, "/checkpoints"), scratch=True, **more), "p")


def test_all_that_is_wanted_is_told_as_paths_in_the_pod() -> None:
    assert pod()["spec"]["containers"][0]["command"] == [
        *("python", "-m", "deepseek_trainer.checkpoint.export", "/checkpoints/right"),
        *("--brief-to", "/dev/termination-log", "/checkpoints/models/mine", "--step", "40", "--dtype", "bfloat16"),
        *("--tokenizer", "/checkpoints/vocabularies/tokenizer.json", "--ema"),
    ]
    assert arguments(Wanted("a/b"), "/target") == ("/target/a/b",)


@pytest.mark.parametrize(
    ("more", "mounts"),
    [
        ({"writes": True}, {"/checkpoints": ("checkpoints", False)}),
        ({"target": "models"}, {"/checkpoints": ("checkpoints", True), "/target": ("models", False)}),
        ({"writes": True, "target": "checkpoints"}, {"/checkpoints": ("checkpoints", False)}),
    ],
    ids=str,
)
def test_only_the_claim_of_the_target_is_written_to(more: dict[str, Any], mounts: dict[str, Any]) -> None:
    spec = pod(**more)["spec"]
    claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "emptyDir" not in v}
    found = {
        mount["mountPath"]: (claims[mount["name"]], mount.get("readOnly", False))
        for mount in spec["containers"][0]["volumeMounts"]
        if mount["name"] in claims
    }
    assert found == mounts
    assert {"name": "HOME", "value": "/tmp"} in spec["containers"][0]["env"]
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


@pytest.mark.parametrize("path", ["/models/mine", "../mine", "a/../../b", ".", ""])
def test_a_path_that_leads_out_of_the_volume_is_refused(path: str) -> None:
    for wanted in (Wanted(path), Wanted("a", tokenizer=path)):
        with pytest.raises(ClientError, match="write a path from the root of the volume"):
            arguments(wanted, "/checkpoints")


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ('{"error": "/checkpoints/a is there already"}', NotExportedError, "is there already"),
        ("Traceback\nNo module named deepseek_trainer.checkpoint.export", ClientError, "last line: No module named"),
        ("{}", ClientError, "exported nothing that it tells of"),
        ("[]", ClientError, "exported nothing"),
    ],
)
def test_what_is_no_good_answer_is_one_line(answer: str, error: type[ClientError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        parse(answer)
    assert type(caught.value) is error
    assert parse('{"done": "step 40 is in /checkpoints/a"}') == "step 40 is in /checkpoints/a"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["job"], "give JOB and TARGET"),
        (["job", "target", "more"], "give JOB and TARGET"),
        (["job", "target", "--folder", "x"], "or --folder and TARGET"),
        (["target", "--folder", "x", "--claim", "c"], "--claim is for a job on the cluster"),
    ],
    ids=str,
)
def test_the_commands_errors_are_one_line(more: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["export", *more])
    assert (end.value.code, says in capsys.readouterr().err) == (2, True)


@pytest.mark.training
def test_a_folder_without_checkpoints_exports_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, status in ((tmp_path, 1), (tmp_path / "none", 1)):
        with pytest.raises(SystemExit) as end:
            main(["export", str(tmp_path / "target"), "--folder", str(folder)])
        assert end.value.code == status
        assert "dsj: " in capsys.readouterr().err
    assert not (tmp_path / "target").exists()
