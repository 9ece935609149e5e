"""Fixtures of the chart's tests: helm, and a real API server for what only it can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import kube
from support.helm import Helm
from support.kubectl import Kubectl


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.items and not session.config.option.collectonly:
        kube.prebuild(session.config, (*kube.BINARIES, "helm"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster."""
    return Helm(kube.require("helm")["helm"], tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Path of an admin kubeconfig."""
    with kube.api(tmp_path_factory.mktemp("cp")) as path:
        yield path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl as admin."""
    return Kubectl(kube.require("kubectl")["kubectl"], kubeconfig)


@pytest.fixture(scope="session")
def connected_helm(helm: Helm, kubeconfig: Path) -> Helm:
    """helm against that API server."""
    return Helm(helm.binary, helm.home, kubeconfig)
