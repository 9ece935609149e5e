"""Writes what is generated: the CRDs, the chart's copy of them, docs/api.md, tables in docs/lifecycle.md
and in the chart's README.

    tools/generate.py            write them (`make generate`)
    tools/generate.py --check    write nothing; fail and name each file that differs (`make verify`)

This is the one place that sees both the operator's models and the trainer's, and puts the one into the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from causes_table import with_causes
from chart_readme import with_table
from deepseek_operator.api.crd import crd, profile_crd
from deepseek_operator.api.names import GROUP, PLURAL, PROFILE_PLURAL
from deepseek_operator.api.resolve import DEFAULTS, TABLE
from deepseek_trainer.config import DataSpec, TrainerSpec
from pydantic.alias_generators import to_camel

ROOT = Path(__file__).resolve().parent.parent
CRD_FILE = f"crds/{GROUP}_{PLURAL}.yaml"
PROFILE_CRD_FILE = f"crds/{GROUP}_{PROFILE_PLURAL}.yaml"
CHART_FILE = "charts/deepseek-operator/templates/crds.yaml"
DOCS_FILE = "docs/api.md"
LIFECYCLE_FILE = "docs/lifecycle.md"
CHART = "charts/deepseek-operator"
HEADER = "generated from the models by `make generate`; do not edit"


class _Dumper(yaml.SafeDumper):
    """Repeats equal parts instead of writing anchors, which kubectl reads but people don't."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def outputs(root: Path = ROOT) -> dict[str, str]:
    """The generated files: path below the repository's root -> content."""
    readme, values = (root / CHART / name for name in ("README.md", "values.yaml"))
    job = crd(TrainerSpec.model_json_schema(by_alias=True), DataSpec.model_json_schema(by_alias=True))
    profile = profile_crd()
    return {
        CRD_FILE: f"# {HEADER}\n{_yaml(job)}",
        PROFILE_CRD_FILE: f"# {HEADER}\n{_yaml(profile)}",
        CHART_FILE: _chart_template(job, profile),
        DOCS_FILE: _reference(job, profile),
        LIFECYCLE_FILE: with_causes((root / LIFECYCLE_FILE).read_text(encoding="utf-8")),
        f"{CHART}/README.md": with_table(readme.read_text(encoding="utf-8"), values.read_text(encoding="utf-8")),
    }


def _yaml(definition: dict[str, Any]) -> str:
    return yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _chart_template(*definitions: dict[str, Any]) -> str:
    """The CRDs as a Helm template with its two switches."""
    body = "---\n".join(map(_annotated, definitions))
    return f"{{{{- /* {HEADER} */ -}}}}\n{{{{- if .Values.crds.install }}}}\n{body}{{{{- end }}}}\n"


def _annotated(definition: dict[str, Any]) -> str:
    text = _yaml(definition)
    if "{{" in text:
        raise SystemExit("a description or rule contains {{, which Helm would take for a template; reword it")
    name = f"  name: {definition['metadata']['name']}\n"
    annotated = name + (
        '  labels:\n    {{- include "deepseek-operator.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
    )
    return text.replace(name, annotated, 1)


def _reference(job: dict[str, Any], profile: dict[str, Any]) -> str:
    """docs/api.md: one table a section, and the rules that cross its fields."""
    told: dict[str, str] = {}
    lines = [
        f"<!-- {HEADER} -->",
        "# API reference",
        "",
        "The same text is in `kubectl explain dsj --recursive` and `kubectl explain dsp --recursive`.",
        "",
        "A field in **bold** is required. A field that is not named here is refused.",
        "",
        *_kind(job, ("spec", "status"), "", told),
        *_kind(profile, ("spec",), "profile ", told),
        *_merging(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _kind(definition: dict[str, Any], parts: tuple[str, ...], prefix: str, told: dict[str, str]) -> list[str]:
    names, version = definition["spec"]["names"], definition["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    lines = [
        f"# {names['kind']}",
        "",
        schema["description"],
        "",
        f"`apiVersion: {GROUP}/{version['name']}`, `kind: {names['kind']}`, short name `{names['shortNames'][0]}`, "
        f"{'in a namespace' if definition['spec']['scope'] == 'Namespaced' else 'of the whole cluster'}.",
        "",
        *_rules(schema),
    ]
    for part in parts:
        lines += _section(f"{prefix}{part}", schema["properties"][part], told)
    return lines


def _merging() -> list[str]:
    """How a job and its profile become one, from the table that does it."""
    lines = [
        "# How a job and its profile become one",
        "",
        "What is not in this table is the job's alone. A default is filled in where neither says anything, with or "
        "without a profile; where there is none, the cluster, the container runtime or NCCL has its own way.",
        "",
        "| field | the job and the profile | default |",
        "| --- | --- | --- |",
    ]
    for section, rows in TABLE.items():
        for field, merge in rows.items():
            default = DEFAULTS[section].get(field)
            shown = "" if default is None else f"`{_literal(default)}`"
            lines.append(f"| `{section}.{to_camel(field)}` | {merge.says} | {shown} |")
    return lines


def _section(path: str, schema: dict[str, Any], told: dict[str, str]) -> list[str]:
    """A table of the fields, and those of the objects in it. What was told before is referred to."""
    lines = [f"## {path}", "", schema.get("description", ""), "", "| field | type | default | description |"]
    lines.append("| --- | --- | --- | --- |")
    nested: list[tuple[str, dict[str, Any]]] = []
    for name, field in schema["properties"].items():
        shown = f"**`{name}`**" if name in schema.get("required", []) else f"`{name}`"
        default = f"`{_literal(field['default'])}`" if field.get("default", {}) != {} else ""
        child, suffix = (field["items"], "[]") if "items" in field else (field, "")
        text = _cell(field.get("description", ""))
        if "properties" in child:
            here = f"{path}.{name}{suffix}"
            same = told.setdefault(json.dumps(child["properties"], sort_keys=True), here)
            if same == here:
                nested.append((here, child))
            else:
                text += (
                    f" As [{same}](#{''.join(c for c in same.lower().replace(' ', '-') if c.isalnum() or c == '-')})."
                )
        lines.append(f"| {shown} | {_type(field)} | {default} | {text} |")
    lines += ["", *_rules(schema)]
    for child_path, child in nested:
        lines += _section(child_path, child, told)
    return lines


def _rules(schema: dict[str, Any]) -> list[str]:
    messages = [
        f"- {rule['fieldPath'].lstrip('.') + ': ' if 'fieldPath' in rule else ''}{rule['message']}"
        for rule in schema.get("x-kubernetes-validations", [])
    ]
    return ["Rules:", "", *messages, ""] if messages else []


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{_literal(value)}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "items" in field:
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    if field.get("format") == "date-time":
        return "time"
    return f"{field['type']}{_bounds(field)}"


def _bounds(field: dict[str, Any]) -> str:
    below = "<" if field.get("exclusiveMinimum") else "≤"
    above = "<" if field.get("exclusiveMaximum") else "≤"
    low, high = field.get("minimum"), field.get("maximum")
    if low is None and high is None:
        return ""
    if high is None:
        return f", {'>' if field.get('exclusiveMinimum') else '≥'} {_literal(low)}"
    return f", {_literal(low)} {below} x {above} {_literal(high)}" if low is not None else f", {above} {_literal(high)}"


def _literal(value: Any) -> str:
    return '""' if value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Exit status 0, or 1 when --check found a difference."""
    parser = argparse.ArgumentParser(description="Write the files that are generated from the models.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file would change")
    check: bool = parser.parse_args(arguments).check
    stale = []
    for path, content in outputs(root).items():
        target = root / path
        if target.exists() and target.read_text(encoding="utf-8") == content:
            continue
        stale.append(path)
        if not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
            print(f"wrote {path}")
    if check and stale:
        for path in stale:
            print(f"{path}: differs from what the models say; run `make generate` and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
