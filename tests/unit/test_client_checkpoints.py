"""`dsj checkpoints` without a cluster: a folder on this machine, the pod beside the volume, and what its answer is worth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from deepseek_client.beside.pod import Errand, errand_pod
from deepseek_client.checkpoints import MODULE, Question, of_folder, parse
from deepseek_client.cli import main
from deepseek_client.errors import ClientError
from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_trainer.checkpoint import listing
from deepseek_trainer.checkpoint.__main__ import main as in_image
from deepseek_trainer.checkpoint.layout import Manifest, checkpoint_folder
from support import full_job


def commit(folder: Path, step: int, *, loss: float | None = 2.5) -> Path:
    """A checkpoint with one file."""
    checkpoint = checkpoint_folder(folder, step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "__0_0.distcp").write_bytes(b"weights")
    files = {"__0_0.distcp": {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    manifest = Manifest(
        1, "demo", step, 1, 1, 2, {"step": step, "position": step * 6}, {}, files, {}, 0.1, "2026-01-01T00:00:00Z"
    )
    said = json.dumps({**manifest.to_json(), "loss": loss, "tokens": step * 192, "of a newer trainer": 1}).encode()
    (checkpoint / "manifest.json").write_bytes(said)
    (checkpoint / "COMMITTED").write_text(hashlib.sha256(said).hexdigest())
    return checkpoint


def test_a_folder_is_listed_with_what_is_wrong_with_each(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        commit(tmp_path, step)
    (checkpoint_folder(tmp_path, 40) / "COMMITTED").unlink()
    (checkpoint_folder(tmp_path, 30) / "__0_0.distcp").write_bytes(b"cut")
    (checkpoint_folder(tmp_path, 20) / "__0_0.distcp").write_bytes(b"WEIGHTS")

    rows = of_folder(tmp_path, Question()).rows

    states = [(40, "uncommitted"), (30, "damaged"), (20, "whole"), (10, "whole")]
    assert [(row["step"], row["state"]) for row in rows] == states
    assert rows[1]["problem"] == "__0_0.distcp has 3 bytes instead of 7"
    said = {name: rows[3][name] for name in ("bytes", "worldSize", "samples", "tokens", "loss", "verified")}
    assert said == {"bytes": 7, "worldSize": 2, "samples": 60, "tokens": 1920, "loss": 2.5, "verified": False}
    (checkpoint_folder(tmp_path, 10) / "VERIFIED").write_text(
        (checkpoint_folder(tmp_path, 10) / "COMMITTED").read_text()
    )
    assert [row.get("verified") for row in of_folder(tmp_path, Question()).rows] == [None, None, False, True]
    hashed = of_folder(tmp_path, Question(verify=True)).rows
    assert [row["state"] for row in hashed] == ["uncommitted", "damaged", "damaged", "whole"]
    assert hashed[3]["verified"]


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(tmp_path, 10)
    for more in ([], ["-o", "json"]):
        with pytest.raises(SystemExit) as ended:
            main(["checkpoints", "--folder", str(tmp_path), *more])
        assert ended.value.code == 0
        assert "1920" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["checkpoints", "--folder", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_pod_s_last_words_have_the_newest_and_say_how_many_are_left_out(tmp_path: Path) -> None:
    for step in range(1, 61):
        commit(tmp_path, step, loss=None)
    words = tmp_path / "words"
    assert in_image([str(tmp_path), "--brief-to", str(words)]) == 0
    assert words.stat().st_size <= 4096
    found = parse(words.read_text())
    assert [row["step"] for row in found.rows] == list(range(60, 60 - len(found.rows), -1))
    assert len(found.rows) + found.left_out == 60
    assert len(found.rows) > 10
    assert listing.brief([]) == {"checkpoints": [], "leftOut": 0}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Traceback\nNo module named deepseek_trainer.checkpoint.__main__", "its last line: No module named"),
        ("[]", "gave no list"),
        ('{"checkpoints": 7, "leftOut": 0}', "gave no list"),
        ('{"error": "/checkpoints/demo is no folder"}', "is no folder"),
    ],
)
def test_what_is_no_answer_is_one_line(answer: str, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        parse(answer)


def test_the_pod_of_a_job_in_an_object_store_has_the_workers_credentials_and_no_volume() -> None:
    job = DeepSeekJob.model_validate(full_job.object_job())
    spec = errand_pod(job, Errand("checkpoints", MODULE, ("--verify",)), "full-1")["spec"]
    (container,) = spec["containers"]
    assert (spec["volumes"], container["volumeMounts"]) == ([], [])
    assert container["command"][3:] == [
        *("s3://bucket/runs/full", "--brief-to", "/dev/termination-log"),
        *("--verify", "--endpoint", "https://minio.storage.svc:9000"),
    ]
    assert container["envFrom"] == full_job.WORKERS["envFrom"]
    assert [entry["name"] for entry in container["env"]] == ["OMP_NUM_THREADS", "NCCL_DEBUG", "TOKEN", "MIRROR"]


def test_what_is_asked_is_said_to_the_module() -> None:
    assert MODULE == "deepseek_trainer.checkpoint"
    assert Question(verify=True, trust=40).arguments() == ("--verify", "--trust", "40")
