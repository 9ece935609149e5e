"""Presets below a manifest: what counts where several speak, and that those that are shipped are jobs that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_client import layers, profiles
from deepseek_client import plan as planning
from deepseek_client.cli import app
from deepseek_client.errors import ClientError, ManifestError
from deepseek_trainer.config import ModelSpec
from deepseek_trainer.model.presets import shape
from typer.testing import CliRunner

LEAST: dict[str, Any] = {
    "apiVersion": "training.deepseekjob.dev/v1alpha1",
    "kind": "DeepSeekJob",
    "metadata": {"name": "layered"},
    "spec": {"workers": {"image": "x/y:1"}},
}
DATA = {"path": "/data", "textField": "text"}
WEIGHTS = {"initialWeights": {"path": "/models/qwen"}}
NEEDED: dict[str, dict[str, Any]] = {
    "deepseek-v3-debug": {},
    "deepseek-v3-pretrain": {"data": DATA},
    "r1-distill-qwen-7b": {"data": DATA, "trainer": WEIGHTS},
}
"""What the manifest has to say beside a name and an image."""


def written(folder: Path, name: str, document: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump(document))
    return str(folder / name)


@pytest.mark.parametrize(
    ("below", "above", "whole"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": 1}, {"a": 1}),
        ({"a": {"b": 1}, "c": 2}, {"a": {"b": None}}, {"a": {}, "c": 2}),
        ({}, {"a": None, "b": {"c": None}}, {"a": None, "b": {"c": None}}),
    ],
)
def test_sections_are_merged_and_null_takes_out_what_is_below(
    below: dict[str, Any], above: dict[str, Any], whole: dict[str, Any]
) -> None:
    assert layers.merged(below, above) == whole


def test_a_preset_is_below_the_manifest_and_set_is_above_it(tmp_path: Path) -> None:
    def training(**fields: int) -> dict[str, Any]:
        return {"spec": {"trainer": {"training": fields}}}

    job = layers.merged(LEAST, training(steps=3, seed=3))
    path = written(tmp_path, "job.yaml", job)
    own = written(tmp_path, "own.yaml", training(globalBatchSize=16, steps=2, seed=2))
    around = layers.parse(["deepseek-v3-debug", own], ["spec.trainer.training.seed=4"])
    spec = profiles.complete(Path(path), layers=around).job.spec
    assert spec.trainer is not None
    assert spec.trainer["training"] == {
        "microBatchSize": 2,  # the first preset's
        "sequenceLength": 64,
        "globalBatchSize": 16,  # the second one's
        "steps": 3,  # the manifest's
        "seed": 4,
    }
    assert (spec.workers.image, spec.workers.replicas) == ("x/y:1", 2)
    done = CliRunner().invoke(app, ["validate", path, "--preset", "deepseek-v3-debug", "--preset", own])
    assert "DeepSeekJob layered is valid" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"spce": {}}, r"own.yaml: spce: a preset has apiVersion, .*; did you mean spec\?"),
        (
            {"spec": {"trainer": {"training": {"setps": 5}}}},
            r"job.yaml \(with preset .*own.yaml\): .*did you mean steps\?",
        ),
        ({"spec": {"trainr": {}}}, r"job.yaml \(with preset .*own.yaml\): spec.trainr: .*did you mean trainer\?"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest_and_the_preset(
    document: dict[str, Any], says: str, tmp_path: Path
) -> None:
    job, own = written(tmp_path, "job.yaml", LEAST), written(tmp_path, "own.yaml", document)
    with pytest.raises(ManifestError, match=says):
        profiles.complete(Path(job), layers=layers.parse(["deepseek-v3-debug", own], []))


def test_a_preset_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ClientError, match=r"preset deepseek-v3-debg: not known; did you mean deepseek-v3-debug\?"):
        layers.preset("deepseek-v3-debg")
    with pytest.raises(ClientError, match=r"preset x: not known; known are deepseek-v3-debug, .*; .*as ./x.yaml"):
        layers.preset("x")
    with pytest.raises(ManifestError, match=r"nowhere/own.yaml: No such file"):
        layers.preset("nowhere/own.yaml")


def test_the_presets_are_listed_and_printed() -> None:
    listed = CliRunner().invoke(app, ["presets"]).output.splitlines()
    assert [line.partition(":")[0] for line in listed] == list(layers.shipped()) == list(NEEDED)
    assert all(len(line.partition(": ")[2]) > 40 for line in listed)
    docs = (Path(__file__).parents[2] / "docs" / "local.md").read_text()
    for name, text in layers.shipped().items():
        assert f"| `{name}` |" in docs
        assert CliRunner().invoke(app, ["presets", name]).output == text


@pytest.mark.parametrize("name", layers.shipped())
def test_a_shipped_preset_is_a_job_that_fits_its_gpus(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, "job.yaml", layers.merged(LEAST, {"spec": NEEDED[name]}))
    whole = profiles.complete(Path(path), layers=layers.parse([name], []))
    config = None
    if "distill" in name:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(vars(shape(ModelSpec.model_validate({"preset": name}))) | {"vocab_size": 152_064}))
    lines = planning.told(whole.job, None, config)
    assert any(line.startswith("memory of") and line.endswith(": fits") for line in lines), lines
