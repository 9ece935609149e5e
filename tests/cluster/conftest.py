"""Fixtures of the tests against a real kube-apiserver: one for the session, ready in seconds, no root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from support import kube
from support.access import apply_access, write_token_kubeconfig
from support.api import Api, Jobs
from support.crd import install
from support.helm import NAMESPACE, Helm
from support.kube import kubeconfig, kubectl
from support.kubectl import Kubectl
from support.kubelet import Kubelet
from support.operators import OperatorProcess
from support.profiles import Profiles

__all__ = ["kubeconfig", "kubectl"]
"""Fixtures that pytest finds here."""


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.items and not session.config.option.collectonly:
        with_kueue = any(item.path.name == "test_kueue.py" for item in session.items)
        kube.prebuild(session.config, (*kube.BINARIES, "kueue") if with_kueue else kube.BINARIES)


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Iterator[Api]:
    """Plain requests as admin."""
    with Api(kubeconfig) as client:
        yield client


@pytest.fixture(scope="session")
def crd(kubectl: Kubectl) -> None:
    """The CRD is installed and served."""
    install(kubectl)


@pytest.fixture
def jobs(api: Api, crd: None) -> Iterator[Jobs]:
    """A namespace of the test's own, and the jobs in it."""
    name = f"test-{uuid4().hex[:8]}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    found = Jobs(api, name)
    yield found
    # There may be no controller that empties a namespace, and what stays is a job for the next test's operator.
    for path in (found.path, found.pods_path):
        api.delete(f"{path}?propagationPolicy=Background", grace_s=0)
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def profiles(api: Api, crd: None) -> Iterator[Profiles]:
    """A profile of the test's own."""
    found = Profiles(api)
    yield found
    found.delete()


@pytest.fixture
def kubelet(api: Api, jobs: Jobs) -> Iterator[Kubelet]:
    """A node at work in the test's namespace."""
    with Kubelet(api, jobs.namespace) as node:
        yield node
    assert not node.errors


Start = Callable[..., OperatorProcess]


@pytest.fixture(scope="module")
def operator(kubeconfig: Path, crd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """One operator for all namespaces and all tests of a module, leading."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    # It has the Lease from module to module under the same name; on a slow machine it must not lose it.
    settings = {"lease_namespace": "default", "lease_duration_s": 120, "resync_interval_s": 5}
    with OperatorProcess(kubeconfig, log, **settings) as process:
        process.wait_for("leading", deadline_s=60)
        yield process
        complaints = process.complaints()
    assert complaints == []


@pytest.fixture
def start_operator(kubeconfig: Path, jobs: Jobs, tmp_path: Path) -> Iterator[Start]:
    """Starts an operator for the test's namespace; keyword arguments are settings. All are killed at the end.

    Not for a module whose tests use `operator`: that one serves all namespaces, this test's as well.
    """
    started: list[OperatorProcess] = []

    def start(kubeconfig: Path = kubeconfig, **settings: object) -> OperatorProcess:
        served = {"namespaces": jobs.namespace, "lease_namespace": jobs.namespace, "resync_interval_s": 5}
        log = tmp_path / f"operator-{len(started)}.log"
        operator = OperatorProcess(kubeconfig, log, **{**served, **settings})
        started.append(operator)
        return operator

    yield start
    for operator in started:
        operator.kill()


@pytest.fixture
def chart_values() -> tuple[str, ...]:
    """Values of the chart that `operator_of_the_chart` is installed with; a test module may have its own."""
    return ()


@pytest.fixture
def operator_of_the_chart(
    api: Api, jobs: Jobs, tmp_path: Path, start_operator: Start, chart_values: tuple[str, ...]
) -> Start:
    """Starts an operator as the chart's service account, with the chart's roles and no other."""
    helm = Helm(kube.require("helm")["helm"], tmp_path / "helm")
    objects = helm.template(*chart_values)
    home = f"/api/v1/namespaces/{NAMESPACE}"
    if api.find(home) is None:
        api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    account = apply_access(api, objects)
    token = api.create(f"{home}/serviceaccounts/{account}/token", {"spec": {"expirationSeconds": 3600}})
    path = tmp_path / "account.kubeconfig"
    write_token_kubeconfig(path, api, token["status"]["token"])
    return partial(start_operator, path, namespaces="", lease_namespace=NAMESPACE)
