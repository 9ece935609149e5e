"""A ReadWriteMany volume for tests: a folder that every node sees, as a PersistentVolume with a claim bound to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from native import volumes
from support.kubectl import Kubectl


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
