"""The chart and the operator agree: settings, port, metrics, leases, versions."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_readme import values
from deepseek_operator.api.names import GROUP, PLURAL
from deepseek_operator.metrics import Metrics
from deepseek_operator.settings import ENV_PREFIX, Settings
from prometheus_client import CollectorRegistry
from pydantic.alias_generators import to_camel

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "deepseek-operator"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
ELSEWHERE = {"namespaces": "watchNamespaces"}
"""Settings whose value is not under `settings`."""
FROM_THE_POD = {"identity", "lease_namespace"}
"""Settings that the Deployment takes from the pod itself."""


def test_every_setting_is_a_value_and_every_value_a_setting() -> None:
    fields = set(Settings.model_fields) - FROM_THE_POD - set(ELSEWHERE)
    assert set(VALUES["settings"]) == {to_camel(field) for field in fields}
    assert set(ELSEWHERE.values()) <= set(VALUES)


def test_defaults_of_values_are_the_operators_own() -> None:
    own = {to_camel(name): field.default for name, field in Settings.model_fields.items()}
    assert {key: own[key] for key in VALUES["settings"]} == VALUES["settings"]


def test_the_deployment_names_the_rest_by_the_operators_prefix() -> None:
    deployment = (CHART / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    named = set(re.findall(rf"name: {ENV_PREFIX}([A-Z_]+)$", deployment, flags=re.MULTILINE))
    assert named == {name.upper() for name in (*FROM_THE_POD, *ELSEWHERE)}


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in {*FROM_THE_POD, *ELSEWHERE}])
def test_what_the_schema_accepts_at_its_bounds_the_operator_accepts(name: str) -> None:
    bounds = SCHEMA["properties"]["settings"]["properties"][to_camel(name)]
    for edge in (bounds.get("minimum"), bounds.get("maximum"), *bounds.get("enum", [])):
        if edge is not None:
            Settings(**{name: edge})


def _keys(tree: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[str]:
    """Values that the schema doesn't know, or knows and values.yaml lacks."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return []
    different = [f"{path}{key}" for key in set(tree) ^ set(properties) if f"{path}{key}" != "global"]
    for key in set(tree) & set(properties):
        if isinstance(tree[key], dict):
            different += _keys(tree[key], properties[key], f"{path}{key}.")
    return different


def test_the_values_schema_knows_every_value_and_no_other() -> None:
    assert _keys(VALUES, SCHEMA) == []


def test_every_value_has_a_comment() -> None:
    rows = values((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert len(rows) > 30
    assert all(row.description for row in rows)


def test_a_value_without_comment_is_named() -> None:
    with pytest.raises(ValueError, match=r"a\.b has no comment"):
        values("# a part\nc: 1\na:\n  b: 2\n")


def test_alerts_use_metrics_that_exist() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    known = {sample for family in registry.collect() for sample in _sample_names(family.name, family.type)}
    rules = (CHART / "templates" / "prometheusrule.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"deepseekjob_operator_\w+", rules))
    assert used
    assert used <= known


def _sample_names(name: str, kind: str) -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("_count", "_sum", "_bucket")}
    return {name + suffix for suffix in suffixes.get(kind, ("",))}


def test_the_roles_are_about_our_group() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    assert f"apiGroups: [{GROUP}]" in helpers
    assert f"resources: [{PLURAL}]" in helpers


def _versions() -> dict[str, str]:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    found = {"Chart.yaml version": chart["version"], "Chart.yaml appVersion": chart["appVersion"]}
    for project in ("operator", "trainer", "client"):
        pyproject = tomllib.loads((ROOT / project / "pyproject.toml").read_text(encoding="utf-8"))
        found[f"{project}/pyproject.toml"] = pyproject["project"]["version"]
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        for tag in re.findall(r"image: ghcr\.io/deepseekjob/[\w-]+:(\S+)", path.read_text(encoding="utf-8")):
            found[f"examples/{path.name}"] = tag
    return found


def test_there_is_one_version() -> None:
    version = (ROOT / "VERSION").read_text(encoding="utf-8").strip()
    assert {name: found for name, found in _versions().items() if found != version} == {}
