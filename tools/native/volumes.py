"""A ReadWriteMany volume from a folder that every node sees: what a shared file system is on a real cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

NON_ROOT = 65532
"""uid and gid of the project's images."""
SIZE = "10Gi"
Manifest = dict[str, Any]


def create_folder(folder: Path) -> None:
    """Makes the folder and gives it to the images' user; where this process may not, it is opened to everybody."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, NON_ROOT, NON_ROOT)
    else:
        folder.chmod(0o777)


def shared(namespace: str, name: str, node_path: str) -> list[Manifest]:
    """A PersistentVolume at this path of every node, and a claim `name` that is bound to it and to nothing else."""
    common: Manifest = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume_name = f"{namespace}-{name}"
    volume = {
        **common,
        "capacity": {"storage": SIZE},
        "hostPath": {"path": node_path, "type": "Directory"},
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": namespace, "name": name},
    }
    claim = {**common, "volumeName": volume_name, "resources": {"requests": {"storage": SIZE}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume_name}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": claim,
        },
    ]
