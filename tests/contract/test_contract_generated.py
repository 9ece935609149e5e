"""Generated files are what the models say, and the check that says so works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import generate
import pytest
from deepseek_operator.api.injected import RULES
from deepseek_trainer.config import ModelSpec, OptimizerSpec
from deepseek_trainer.config.model import HOW
from support.yamls import document, documents

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    generate.CRD_FILE: "listKind",
    generate.PROFILE_CRD_FILE: "listKind",
    generate.CHART_FILE: "helm.sh/resource-policy",
    generate.DOCS_FILE: "API reference",
    generate.LIFECYCLE_FILE: "OOMKilled",
    f"{generate.CHART}/README.md": "| `replicas` |",
}
"""Generated file -> something that it says."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the generated files and what they are made of."""
    for name in (*FILES, f"{generate.CHART}/values.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_what_is_committed_is_what_would_be_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "says"), FILES.items())
def test_drift_is_named_with_the_remedy(copy: Path, name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    drifted = copy / name
    drifted.write_text(drifted.read_text().replace(says, "something else"))
    assert generate.main(["--check"], copy) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert name in said
    assert "make generate" in said


def test_a_missing_file_is_drift_and_generate_writes_it(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / generate.CRD_FILE).unlink()
    assert generate.main(["--check"], copy) == 1
    assert not (copy / generate.CRD_FILE).exists()
    assert generate.main([], copy) == 0
    assert (copy / generate.CRD_FILE).read_text() == (ROOT / generate.CRD_FILE).read_text()
    assert generate.main(["--check"], copy) == 0
    capsys.readouterr()


def test_the_charts_crds_are_the_crds() -> None:
    template = (ROOT / generate.CHART_FILE).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in template if "{{" not in line and "helm.sh/" not in line)
    plain = [crd | {"metadata": {"name": crd["metadata"]["name"]}} for crd in documents(text)]
    files = (generate.CRD_FILE, generate.PROFILE_CRD_FILE)
    assert plain == [document((ROOT / name).read_text(encoding="utf-8")) for name in files]


def test_the_reference_refers_to_sections_that_are_there() -> None:
    text = (ROOT / generate.DOCS_FILE).read_text(encoding="utf-8")
    sections = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
    named = set(re.findall(r"As \[(\S+)\]\(#", text))
    assert named
    assert named <= sections


def test_the_rule_about_warm_up_knows_the_default() -> None:
    (rule,) = [rule for rule in RULES["trainer"] if "warmupSteps" in rule.cel]
    assert f"warmupSteps <= {OptimizerSpec().warmup_steps} ||" in rule.cel


def test_the_rule_about_a_finetuned_model_knows_every_field_of_a_model() -> None:
    (rule,) = [rule for rule in RULES["trainer"] if rule.field_path == ".model"]
    assert f"self.model.preset == '{ModelSpec().preset}'" in rule.cel
    for name, field in ModelSpec.model_fields.items():
        assert name in ("preset", *HOW) or f"!has(self.model.{field.alias})" in rule.cel, name
