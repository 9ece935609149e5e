"""Fixtures of the tests against a real kube-apiserver: one for the session, ready in seconds, no root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import kube
from support.kubectl import Kubectl


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.items and not session.config.option.collectonly:
        kube.prebuild(session.config)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Path of an admin kubeconfig."""
    with kube.api(tmp_path_factory.mktemp("cp")) as path:
        yield path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl as admin, in the namespace default."""
    return Kubectl(kube.require("kubectl")["kubectl"], kubeconfig)
