"""Fixtures of the chart's tests: helm, and a real API server for what only it can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import kube
from support.helm import Helm
from support.kube import kubeconfig, kubectl

__all__ = ["kubeconfig", "kubectl"]
"""Fixtures that pytest finds here."""


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.items and not session.config.option.collectonly:
        kube.prebuild(session.config, (*kube.BINARIES, "helm"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster."""
    return Helm(kube.require("helm")["helm"], tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def connected_helm(helm: Helm, kubeconfig: Path) -> Helm:
    """helm against that API server."""
    return Helm(helm.binary, helm.home, kubeconfig)
