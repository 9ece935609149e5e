"""A Kubernetes API for tests: $KUBECONFIG when it is set, else a control plane of our own on loopback.

tests/cluster take `kubeconfig` and `kubectl` from here by way of their conftest.py. Our control plane has no
controllers, kubelet or scheduler: pods stay as the test writes them, and no service account is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from native import binaries, cluster, controlplane, packages
from native.errors import Unavailable
from support.kubectl import Kubectl

BINARIES = ("etcd", "kube-apiserver", "kubectl")
FEATURES = ("--feature-gates=ImageVolume=true",)
"""On by default from Kubernetes 1.35 on."""


def prebuild(config: pytest.Config, names: Sequence[str] = BINARIES) -> None:
    """Builds what is missing outside of any test's timeout. Without Go nothing is built: the fixture skips."""
    if os.environ.get("KUBECONFIG") or not (missing := binaries.missing(*names)):
        return
    config.get_terminal_writer().line(f"building {', '.join(missing)} from source (minutes, once)")
    try:
        binaries.ensure(*names)
    except Unavailable as error:
        config.get_terminal_writer().line(f"not built: {error}")


@contextmanager
def api(directory: Path) -> Iterator[Path]:
    """The admin kubeconfig of $KUBECONFIG's cluster, or of a control plane that lives as long as the block."""
    if given := os.environ.get("KUBECONFIG"):
        yield Path(given)
        return
    require(*BINARIES)
    with controlplane.running(directory, controlplane.Settings(bound_to_parent=True, extra=FEATURES)) as plane:
        yield plane.kubeconfig


def require(*names: str) -> dict[str, Path]:
    """The binaries, or a visible skip when this machine has no way to make them."""
    try:
        return binaries.ensure(*names)
    except Unavailable as error:
        pytest.skip(str(error))


def require_nodes() -> None:
    """A visible skip where no cluster with nodes can be made: without root, or without Go."""
    try:
        packages.require_root("a cluster with nodes")
        packages.ensure(packages.NODE)
    except Unavailable as error:
        pytest.skip(str(error))
    require(*cluster.BINARIES, *cluster.TOOLS)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Path of an admin kubeconfig. A conftest.py that imports this fixture has an API server of its own."""
    with api(tmp_path_factory.mktemp("cp")) as path:
        yield path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl as admin, in the namespace default."""
    return Kubectl(require("kubectl")["kubectl"], kubeconfig)
