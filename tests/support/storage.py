"""A ReadWriteMany volume for tests: a folder that every node sees, as a PersistentVolume with a claim bound to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.kubectl import Kubectl

NON_ROOT = 65532
"""uid and gid of the project's images."""


@contextmanager
def shared_claim(kubectl: Kubectl, folder: Path, name: str, *, node_path: str | None = None) -> Iterator[Path]:
    """Creates volume and claim of this name in kubectl's namespace, and deletes them at the end; files stay.

    Args:
        folder: where this process sees the volume; created, and given to the images' user.
        node_path: where the nodes see it, when that differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, NON_ROOT, NON_ROOT)
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume_name = f"{kubectl.namespace}-{name}"
    volume = {
        **common,
        "capacity": {"storage": "10Gi"},
        "hostPath": {"path": node_path or str(folder), "type": "Directory"},
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": kubectl.namespace, "name": name},
    }
    claim = {**common, "volumeName": volume_name, "resources": {"requests": {"storage": "10Gi"}}}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume_name}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim},
    )
    try:
        yield folder
    finally:
        kubectl.run("delete", "pvc", name, "--ignore-not-found", "--wait=false")
        kubectl.run("delete", "pv", volume_name, "--ignore-not-found", "--wait=false")
