"""The examples are valid without a cluster too, belong together, and their script reports in the agreed form."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml
from deepseek_client.manifest import read
from deepseek_client.profiles import complete
from deepseek_trainer.contract import Env, Report

ROOT = Path(__file__).resolve().parents[2]
JOBS = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "kind: DeepSeekJob" in path.read_text()]
SCRIPT = ROOT / "examples" / "scripts" / "next_byte.py"


@pytest.mark.parametrize("path", JOBS, ids=[path.name for path in JOBS])
def test_an_example_is_valid_without_a_cluster(path: Path) -> None:
    assert read(path).metadata.name == path.stem


def test_the_profile_example_lets_the_job_that_names_it_start() -> None:
    whole = complete(ROOT / "examples" / "with-profile.yaml", ROOT / "examples" / "profile.yaml")
    assert whole.profile is not None
    assert whole.job.spec.workers.image == whole.profile.spec["workers"]["image"]
    assert [variable.value for variable in whole.job.spec.workers.env] == ["2"]


@pytest.mark.parametrize("path", JOBS, ids=[path.name for path in JOBS])
def test_an_example_keeps_its_checkpoints_on_the_volume_of_storage_yaml_or_on_its_own_or_says_where_its_credentials_come_from(
    path: Path,
) -> None:
    claim = yaml.safe_load((ROOT / "examples" / "storage.yaml").read_text(encoding="utf-8"))
    checkpoint = read(path).spec.checkpoint
    assert checkpoint is not None
    if checkpoint.volume is not None:
        assert checkpoint.volume.template or checkpoint.volume.claim_name == claim["metadata"]["name"]
        return
    (source,) = read(path).spec.workers.env_from
    assert source.secret_ref is not None
    assert f"kubectl create secret generic {source.secret_ref.name} " in path.read_text(encoding="utf-8")


def test_the_user_script_example_mounts_the_script_that_is_there() -> None:
    job = read(ROOT / "examples" / "user-script.yaml")
    assert job.spec.entrypoint is not None
    (volume,) = job.spec.workers.volumes
    assert job.spec.entrypoint.script == f"{volume.mount_path}/{SCRIPT.name}"
    assert f"--from-file={SCRIPT.relative_to(ROOT)}" in (ROOT / "examples" / "user-script.yaml").read_text()


@pytest.mark.training
def test_the_script_reports_in_the_agreed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(Env.PROGRESS_FILE, str(tmp_path / "progress.json"))
    runpy.run_path(str(SCRIPT))["report"](140, 200, 2.5, 100)
    report = Report.model_validate_json((tmp_path / "progress.json").read_bytes())
    assert report == Report(phase="training", step=140, total_steps=200, loss=2.5, resumed_step=100)
