"""Reads and validates a manifest without a cluster: one line for each wrong field, with its remedy.

The rules are those of the API server: the pydantic models of the operator's API, and for `spec.trainer` and
`spec.data` the trainer's own config. An unknown field is named together with the nearest valid name.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from deepseek_operator.api.names import API_VERSION, KIND, MAX_JOB_NAME
from deepseek_operator.api.v1alpha1 import DeepSeekJob, JobName
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deepseek_client.errors import ManifestError

Location = tuple[int | str, ...]


class _JobName(BaseModel):
    """metadata.name: the API server checks it for every object, so the model of the API leaves it open."""

    name: JobName


def documents(path: str | Path) -> list[Any]:
    """Reads the YAML (or JSON) documents of a file.

    Raises:
        ManifestError: the file can't be read, or is not YAML.
    """
    try:
        return [d for d in yaml.safe_load_all(Path(path).read_text(encoding="utf-8")) if d is not None]
    except OSError as error:
        raise ManifestError(str(path), [f"{error.strerror or error}; give the path of a manifest"]) from error
    except UnicodeDecodeError as error:
        raise ManifestError(str(path), ["not a text file in UTF-8; give the path of a YAML manifest"]) from error
    except yaml.YAMLError as error:
        raise ManifestError(str(path), [f"not YAML: {' '.join(str(error).split())}"]) from error


def load(path: str | Path) -> dict[str, Any]:
    """Reads the one document of a file.

    Raises:
        ManifestError: the file can't be read, is not YAML, or holds something else than one object.
    """
    found = documents(path)
    if len(found) != 1 or not isinstance(found[0], dict):
        raise ManifestError(str(path), [f"expected one {KIND} object, found {len(found)} documents"])
    return found[0]


def parse(manifest: dict[str, Any], source: str = "manifest") -> DeepSeekJob:
    """Validates a manifest as the API server would.

    Raises:
        ManifestError: with one line for each wrong field.
    """
    problems = [*identity(manifest, KIND), *_name(manifest), *_api(manifest), *_twice(manifest), *_trainer(manifest)]
    if problems:
        raise ManifestError(source, list(dict.fromkeys(problems)))
    return DeepSeekJob.model_validate(manifest)


def read(path: str | Path) -> DeepSeekJob:
    """`load` and `parse` in one."""
    return parse(load(path), str(path))


def identity(manifest: dict[str, Any], kind: str) -> Iterator[str]:
    """What is wrong about apiVersion and kind."""
    for key, want in (("apiVersion", API_VERSION), ("kind", kind)):
        if manifest.get(key) != want:
            yield f"{key}: must be {want}, not {manifest.get(key)!r}"


def _name(manifest: dict[str, Any]) -> Iterator[str]:
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None:
        yield "metadata.name: required; give the job a name"
        return
    try:
        _JobName(name=name)
    except ValidationError:
        yield f"metadata.name: {name!r} is not a DNS label that begins with a letter; use lower-case letters, digits and '-'"
    if len(str(name)) > MAX_JOB_NAME:
        yield f"metadata.name: longer than {MAX_JOB_NAME} characters; pods are named after it, choose a shorter one"


def _api(manifest: dict[str, Any]) -> Iterator[str]:
    own = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "status")}
    metadata = own.get("metadata")
    if isinstance(metadata, dict):
        own["metadata"] = {k: v for k, v in metadata.items() if k != "name"}
    try:
        DeepSeekJob.model_validate(own)
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"] != ("metadata",) or metadata is not None:
                yield from describe(problem, DeepSeekJob)


def _twice(manifest: dict[str, Any]) -> Iterator[str]:
    """Lists that the API server keeps as maps: a name may be there once."""
    spec = manifest.get("spec")
    workers = spec.get("workers") if isinstance(spec, dict) else None
    for key in ("env", "volumes"):
        items = workers.get(key) if isinstance(workers, dict) else None
        names = [item.get("name") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        for index, name in enumerate(names):
            if name in names[:index]:
                yield f"spec.workers.{key}[{index}].name: {name!r} is there already; keep one"


def _trainer(manifest: dict[str, Any]) -> Iterator[str]:
    """The trainer's own part; left to the API server where the trainer isn't installed."""
    spec = manifest.get("spec")
    if not isinstance(spec, dict) or importlib.util.find_spec("deepseek_trainer") is None:
        return
    from deepseek_trainer.config import DataSpec, TrainerSpec

    models: tuple[tuple[str, type[BaseModel]], ...] = (("trainer", TrainerSpec), ("data", DataSpec))
    for key, model in models:
        part = spec.get(key)
        if not isinstance(part, dict):
            continue  # absent, or of a wrong type: said by the API's model
        part = {name: value for name, value in part.items() if (key, name) != ("data", "ray")}  # the operator's own
        try:
            model.model_validate(part)
        except ValidationError as error:
            for problem in error.errors():
                yield from describe(problem, model, prefix=("spec", key))


def describe(problem: ErrorDetails, model: type[BaseModel], prefix: Location = ()) -> Iterator[str]:
    """The lines that tell a person what is wrong in one place, and what to do."""
    where = _dotted((*prefix, *problem["loc"]))
    if problem["type"] == "extra_forbidden":
        yield f"{where}: unknown field{_suggestion(model, problem['loc'])}"
    elif problem["type"] == "missing":
        yield f"{where}: required; {_purpose(model, problem['loc'])}"
    elif problem["type"] == "value_error":
        yield f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    else:
        message = problem["msg"]
        yield f"{where}: {message[0].lower()}{message[1:]}, not {_short(problem['input'])}"


def _suggestion(model: type[BaseModel], location: Location) -> str:
    owner = _model_at(model, location[:-1])
    if owner is None:
        return ""
    names = [field.alias or name for name, field in owner.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(names))}"


def _purpose(model: type[BaseModel], location: Location) -> str:
    owner = _model_at(model, location[:-1])
    for name, field in owner.model_fields.items() if owner else ():
        if location[-1] in (name, field.alias) and field.description:
            text = field.description.rstrip(".")
            return text[0].lower() + text[1:]
    return "set it"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model that holds the fields at a location; None where it is not a model."""
    here: Any = model
    for part in location:
        here = _unwrap(here)
        if isinstance(part, int):
            here = next(iter(get_args(here)), None)
        elif isinstance(here, type) and issubclass(here, BaseModel):
            named = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
            here = named.get(part)
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return None
    here = _unwrap(here)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _unwrap(annotation: Any) -> Any:
    """Takes Annotated and Optional away."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        arguments = [a for a in get_args(annotation) if a is not NoneType]
        annotation = arguments[0]
    return annotation


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "manifest"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
