"""Fields changed on the command line, and what is said of a name that isn't there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_client import layers, overrides, profiles
from deepseek_client.cli import app
from deepseek_client.errors import ClientError, ManifestError
from deepseek_trainer.config import ConfigError, load
from support.bad_manifests import trainer_job
from typer.testing import CliRunner


def changed(*texts: str) -> dict[str, Any]:
    found: dict[str, Any] = overrides.applied(trainer_job(), overrides.parse(texts))["spec"]
    return found


def test_values_are_yaml_and_what_is_missing_on_the_way_is_made() -> None:
    before = trainer_job()
    spec = changed(
        "spec.trainer.training.steps=7",
        "spec.trainer.training.steps=50",
        "spec.trainer.optimizer.schedule={kind: WSD}",
        "spec.trainer.evaluation.samples.prompts[0]=a = b",
        "spec.trainer.evaluation.samples.prompts[1]=",
        'spec.workers.labels."example.com/team"=speech',
        "spec.workers.env[0].value='2'",
        "spec.workers.env[1].name=NCCL_DEBUG",
        "spec.recovery=null",
        "spec.suspend=true",
    )
    assert spec["trainer"]["training"] == {"steps": 50}
    assert spec["trainer"]["optimizer"] == {"warmupSteps": 10, "schedule": {"kind": "WSD"}}
    assert spec["trainer"]["evaluation"]["samples"]["prompts"] == ["a = b", ""]
    assert spec["workers"]["labels"] == {"example.com/team": "speech"}
    assert spec["workers"]["env"] == [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "NCCL_DEBUG"}]
    assert "recovery" not in spec
    assert spec["suspend"] is True
    assert trainer_job() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spec.trainer.training.steps", "write PATH=VALUE"),
        ("=5", "write PATH=VALUE"),
        ("spec..steps=5", "write PATH=VALUE"),
        ("trainer.training.steps=5", "write spec.trainer.training.steps=5"),
        ("spec.trainer.training.steps={", "the value is not YAML"),
        ("spec.workers.env[3].name=X", "the list has 1 entries, and [3] is beyond its end"),
        ("spec.workers.env.name=X", "a list: write [0] for its first entry"),
        ("spec.backend.kind=X", "a value, which has no fields"),
        ("spec.workers[0]=X", "it has names and no numbers"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_line_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ClientError) as caught:
        changed(text)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"--set {text}: ")


def test_a_misspelt_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(trainer_job()))
    right, wrong = (layers.parse([], [f"spec.trainer.training.{name}=5"]) for name in ("steps", "setps"))
    assert profiles.complete(path, layers=right).job.spec.trainer["training"]["steps"] == 5  # type: ignore[index]
    with pytest.raises(ManifestError, match=r"spec.trainer.training.setps: unknown field; did you mean steps\?"):
        profiles.complete(path, layers=wrong)
    done = CliRunner().invoke(app, ["validate", str(path), "--set", "spec.trainer.training.steps=0"])
    assert "steps: input should be greater than or equal to 1, not 0" in str(done.exception)


@pytest.mark.parametrize(
    ("section", "field", "says"),
    [
        ("training", "stepz", "trainer.training.stepz: unknown field; did you mean steps?"),
        ("evaluation", "sample", "trainer.evaluation.sample: unknown field; did you mean samples?"),
        ("training", "guard", "trainer.training.guard.xyz: unknown field; known here: maxSkippedSteps, onNonFinite"),
    ],
)
def test_the_trainer_says_the_same_of_its_run_config(tmp_path: Path, section: str, field: str, says: str) -> None:
    value = '{"xyz": 1}' if field == "guard" else "1"
    steps = '"steps": 1, ' if section == "training" else ""
    rest = "" if section == "training" else ', "training": {"steps": 1}'
    trainer = f'{{"{section}": {{{steps}"{field}": {value}}}{rest}}}'
    path = tmp_path / "run.json"
    path.write_text(f'{{"job": "j", "trainer": {trainer}, "data": {{"corpus": "chitchat"}}, "dataCache": "/c"}}')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert says in str(caught.value)
