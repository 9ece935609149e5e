"""What a pod manifest means on this machine: a command, an environment, files and folders. Pure but for `prepare`.

Every part of the manifest is either translated or refused with a remedy; nothing is dropped that the worker
would miss. What only a cluster has (image, resources, scheduling, probes) has no meaning here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP, Paths
from deepseek_operator.decide.types import Manifest

from deepseek_client.errors import ClientError
from deepseek_client.local.folders import Folders, write_atomically

_PYTHONS = ("python", "python3", "/usr/bin/python3", "/usr/local/bin/python", "/usr/local/bin/python3")

_OF_THE_MACHINE = ("/tmp", "/dev/shm")  # noqa: S108  # scratch of a container, which a machine has already


@dataclass(frozen=True, slots=True)
class Mounts:
    """Container path -> local folder, longest path first."""

    paths: tuple[tuple[str, Path], ...]

    def local(self, text: str) -> str:
        """The text, with its leading container path replaced; unchanged when it is no path of a mount."""
        for inside, outside in self.paths:
            if text == inside or text.startswith(inside.rstrip("/") + "/"):
                return str(outside) + text[len(inside.rstrip("/")) :]
        return text

    def deep(self, value: Any) -> Any:
        """The same for every string in a JSON value."""
        if isinstance(value, str):
            return self.local(value)
        if isinstance(value, list):
            return [self.deep(item) for item in value]
        if isinstance(value, dict):
            return {key: self.deep(item) for key, item in value.items()}
        return value


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """A file that shows one annotation, as the downward API does."""

    annotation: str
    path: Path


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that is needed to start one pod as a process."""

    pod: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    mounts: Mounts
    files: tuple[AnnotationFile, ...]
    folders: tuple[Path, ...]
    grace_s: float

    def prepare(self, annotations: Mapping[str, str], resolve: Callable[[str], str]) -> None:
        """Makes the folders and writes the downward-API files.

        Args:
            annotations: the pod's annotations as they are in its metadata.
            resolve: membership JSON -> membership JSON with addresses of this machine.
        """
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.rewrite({file.annotation: annotations.get(file.annotation, "") for file in self.files}, resolve)

    def rewrite(self, annotations: Mapping[str, str], resolve: Callable[[str], str]) -> None:
        """Writes the files of these annotations anew, as the kubelet does when they change."""
        for file in self.files:
            if file.annotation in annotations:
                text = self._localise(file.annotation, annotations[file.annotation], resolve)
                write_atomically(file.path, text)

    def _localise(self, annotation: str, text: str, resolve: Callable[[str], str]) -> str:
        if annotation == ANNOTATION_MEMBERSHIP:
            return resolve(text)
        return json.dumps(self.mounts.deep(json.loads(text))) if text else text


def translate(manifest: Manifest, folders: Folders, ip: str, node: str, defaults: Mapping[str, str]) -> Launch:
    """One worker pod's manifest, as the operator renders it, for this machine.

    Args:
        defaults: environment that the manifest may override.

    Raises:
        ClientError: the pod needs something that only a cluster has; the message says what to do instead.
    """
    pod = manifest["metadata"]["name"]
    container = manifest["spec"]["containers"][0]
    _refuse_what_is_missed(manifest, container)
    mounts, files, made = _volumes(manifest, container, folders)
    fields = _Fields(manifest, ip, node)
    env = dict(defaults) | {item["name"]: mounts.local(_value(item, fields)) for item in container.get("env", [])}
    if env.get("HOME") in _OF_THE_MACHINE:
        del env["HOME"]  # caches (corpora, tokenizers) are the user's own here
    command = [mounts.local(part) for part in [*container.get("command", []), *container.get("args", [])]]
    if not command:
        command = ["python", "-m", "deepseek_trainer.agent"]
    if command[0] in _PYTHONS:
        command[0] = sys.executable
    return Launch(
        pod=pod,
        command=tuple(command),
        env=env,
        mounts=mounts,
        files=files,
        folders=(*made, Path(mounts.local(Paths.RUN_DIR)), folders.log(pod).parent),
        grace_s=float(manifest["spec"].get("terminationGracePeriodSeconds", 30)),
    )


def _refuse_what_is_missed(manifest: Manifest, container: Mapping[str, Any]) -> None:
    """Containers beside the worker need their images, and ConfigMaps and Secrets need a cluster."""
    for helper in manifest["spec"].get("initContainers", []):
        sidecar = helper.get("restartPolicy") == "Always"
        field, instead = (
            ("sidecars", "run what it does beside dsj")
            if sidecar
            else ("initContainers", "do by hand what it prepares")
        )
        raise ClientError(
            f"workers.{field}: {helper['name']} is an image of its own, which needs a cluster; for a local run remove "
            f"it and {instead}"
        )
    for source in container.get("envFrom", []):
        kind = "configMapRef" if "configMapRef" in source else "secretRef"
        raise ClientError(
            f"workers.envFrom: {source[kind]['name']} is in a cluster; for a local run write its variables in workers.env"
        )


def _volumes(
    manifest: Manifest, container: Mapping[str, Any], folders: Folders
) -> tuple[Mounts, tuple[AnnotationFile, ...], tuple[Path, ...]]:
    pod = manifest["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in manifest["spec"].get("volumes", [])}
    paths: dict[str, Path] = {Paths.RUN_DIR: folders.run_dir(pod), Paths.TERMINATION_LOG: folders.termination_log(pod)}
    files: list[AnnotationFile] = []
    made: list[Path] = []
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        if mount["mountPath"] in _OF_THE_MACHINE:
            continue
        folder = _folder(volume, pod, folders)
        if "downwardAPI" in volume:
            files += [
                AnnotationFile(_annotation(item), folder / item["path"]) for item in volume["downwardAPI"]["items"]
            ]
        folder = folder / mount.get("subPath", "")
        paths[mount["mountPath"]] = folder
        made.append(folder)
    ordered = sorted(paths.items(), key=lambda item: len(item[0]), reverse=True)
    return Mounts(tuple(ordered)), tuple(files), tuple(made)


def _folder(volume: Mapping[str, Any], pod: str, folders: Folders) -> Path:
    name = volume["name"]
    if "persistentVolumeClaim" in volume:
        return folders.claim(str(volume["persistentVolumeClaim"]["claimName"]))
    if "downwardAPI" in volume:
        return folders.pod(pod) / "config"
    if "emptyDir" in volume:
        return folders.pod(pod) / "volumes" / str(name)
    return _given(volume, folders)


def _given(volume: Mapping[str, Any], folders: Folders) -> Path:
    """The folder that stands for what only a cluster has: a ConfigMap or a Secret, by its name; else by the volume's."""
    kind = next((key for key in volume if key != "name"), "unknown")
    name = str(volume[kind].get("name") or volume[kind].get("secretName") or volume["name"])
    if name not in folders.given:
        what = f"the {kind} {name} is" if kind in ("configMap", "secret") else f"its {kind} source is"
        raise ClientError(
            f"volume {volume['name']}: {what} in a cluster; for a local run give a folder with its files: "
            f"--volume {name}=FOLDER"
        )
    return folders.given[name]


def _annotation(item: Mapping[str, Any]) -> str:
    path = str(item.get("fieldRef", {}).get("fieldPath", ""))
    name = _subscript(path, "metadata.annotations")
    if name is None:
        raise ClientError(f"downward-API file {item.get('path')}: field {path!r} isn't known to local mode")
    return name


def _subscript(path: str, owner: str) -> str | None:
    prefix, suffix = f"{owner}['", "']"
    return path[len(prefix) : -len(suffix)] if path.startswith(prefix) and path.endswith(suffix) else None


class _Fields:
    """The downward API's fields of one pod."""

    def __init__(self, manifest: Manifest, ip: str, node: str) -> None:
        self._metadata = manifest["metadata"]
        self._plain = {
            "metadata.name": self._metadata["name"],
            "metadata.namespace": self._metadata.get("namespace", "default"),
            "metadata.uid": self._metadata.get("uid", ""),
            "status.podIP": ip,
            "status.podIPs": ip,
            "status.hostIP": ip,
            "spec.nodeName": node,
        }

    def value(self, path: str) -> str:
        if path in self._plain:
            return str(self._plain[path])
        for owner in ("labels", "annotations"):
            name = _subscript(path, f"metadata.{owner}")
            if name is not None:
                return str(self._metadata.get(owner, {}).get(name, ""))
        raise ClientError(f"environment field {path!r} isn't known to local mode")


def _value(item: Mapping[str, Any], fields: _Fields) -> str:
    source = item.get("valueFrom")
    if source is None:
        return str(item.get("value", ""))
    if "fieldRef" in source:
        return fields.value(source["fieldRef"]["fieldPath"])
    raise ClientError(
        f"environment variable {item['name']}: its value comes from a ConfigMap or Secret, which needs a cluster; "
        "for a local run give it a literal value"
    )
