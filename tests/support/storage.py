"""A ReadWriteMany volume for tests: a folder that every node sees, as a PersistentVolume with a claim bound to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from native import volumes
from support.kubectl import Kubectl


def give(source: Path, folder: Path) -> None:
    """Puts a copy of a folder on a volume, as if the images' user had made it and the folder above it."""
    volumes.create_folder(folder.parent)
    shutil.copytree(source, folder)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            volumes.create_folder(path)
        elif os.geteuid() == 0:
            os.chown(path, volumes.NON_ROOT, volumes.NON_ROOT)


@contextmanager
def shared_claim(kubectl: Kubectl, folder: Path, name: str, *, node_path: str | None = None) -> Iterator[Path]:
    """Creates volume and claim of this name in kubectl's namespace, and deletes them at the end; files stay.

    Args:
        folder: where this process sees the volume; created, and given to the images' user.
        node_path: where the nodes see it, when that differs.
    """
    volumes.create_folder(folder)
    volume, claim = volumes.shared(kubectl.namespace, name, node_path or str(folder))
    kubectl.apply(volume, claim)
    try:
        yield folder
    finally:
        kubectl.run("delete", "pvc", name, "--ignore-not-found", "--wait=false")
        kubectl.run("delete", "pv", volume["metadata"]["name"], "--ignore-not-found", "--wait=false")
