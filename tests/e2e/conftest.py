"""Fixtures of the tests on real nodes: a cluster for the session, the operator as Helm installs it, storage."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from native import cluster
from support import kube, storage
from support import site as sites
from support.kubectl import Kubectl
from support.running import Running, manifest
from support.site import Site
from support.steps import following

CHART = Path(__file__).parents[2] / "charts" / "deepseek-operator"
RELEASE, NAMESPACE = "deepseek-operator", "deepseek-system"
CLAIM = "deepseek-checkpoints"
MBIT = 80


def pytest_collection_finish(session: pytest.Session) -> None:
    """What a test builds by itself, by `site` or kube.require_nodes, would be built within its timeout."""
    if session.config.option.collectonly:
        return
    if any("site" in getattr(item, "fixturenames", ()) for item in session.items):
        sites.prebuild(session.config)
    if any(getattr(getattr(item, "module", None), "kube", None) is kube for item in session.items):
        kube.prebuild(session.config, (*cluster.BINARIES, *cluster.TOOLS))


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The cluster."""
    with sites.site() as found:
        yield found


@pytest.fixture(scope="session")
def operator(site: Site) -> Iterator[None]:
    """The operator, installed the way users install it."""
    repository, _, tag = site.operator_image.rpartition(":")
    helm = [str(site.helm), f"--kubeconfig={site.kubeconfig}", f"--namespace={NAMESPACE}"]
    values = [f"--set=image.repository={repository}", f"--set=image.tag={tag}", "--set=rbac.ray=true"]
    install = [*helm, "install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout=120s", *values]
    done = subprocess.run(install, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode != 0:
        system = Kubectl(site.kubectl, site.kubeconfig, NAMESPACE)
        pytest.fail(f"helm install: {done.stderr}\n{system.run('describe', 'pods')}\n{_operator_log(system)}")
    yield
    subprocess.run([*helm, "uninstall", RELEASE, "--wait"], capture_output=True, timeout=180, check=True)


@pytest.fixture
def kubectl(site: Site) -> Iterator[Kubectl]:
    """kubectl as admin, in a namespace of the test's own that enforces the restricted pod security standard."""
    admin = Kubectl(site.kubectl, site.kubeconfig)
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}})
    yield Kubectl(site.kubectl, site.kubeconfig, name)
    admin.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def shared_claim(site: Site, kubectl: Kubectl) -> Iterator[tuple[str, Path]]:
    """A bound ReadWriteMany claim, and the folder of this machine where its content is."""
    here = site.shared_here / kubectl.namespace
    with storage.shared_claim(kubectl, here, CLAIM, node_path=f"{site.shared_there}/{kubectl.namespace}"):
        yield CLAIM, here


@pytest.fixture
def trainer_image(site: Site) -> str:
    """The image that worker pods run."""
    return site.trainer_image


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first job's prepared data is kept for the jobs after it: tokenizing is not what they are about."""
    return tmp_path_factory.mktemp("prepared") / "data"


@pytest.fixture
def with_data(shared_claim: tuple[str, Path], prepared: Path) -> Callable[[str], None]:
    """Gives a job of this name what another one of the tiny trainer has prepared, if one has."""

    def give(name: str) -> None:
        if prepared.exists():
            storage.give(prepared, shared_claim[1] / name / "data")

    return give


@pytest.fixture
def slow_network(site: Site, request: pytest.FixtureRequest) -> Iterator[None]:
    """A tiny model waits for such a network most of its time: no test needs the steps that it could make.

    Else each job would keep all processors busy, and what is measured would be how processes share them. Tests in
    which a job trains for minutes, whatever it does in them, take a slower one as the fixture's parameter, in Mbit/s.
    """
    if site.native is not None:
        cluster.limit_network(site.native, getattr(request, "param", MBIT))
    yield
    if site.native is not None:
        cluster.limit_network(site.native, None)


@pytest.fixture
def launch(
    operator: None,
    slow_network: None,
    kubectl: Kubectl,
    trainer_image: str,
    shared_claim: tuple[str, Path],
    prepared: Path,
    with_data: Callable[[str], None],
) -> Iterator[Callable[..., Running]]:
    """Starts a job that trains without an end; returns when it makes steps. It is deleted after the test."""
    with ExitStack() as stack:

        def start(name: str, **spec: Any) -> Running:
            with_data(name)
            kubectl.apply(manifest(name, trainer_image, shared_claim[0], **spec))
            log = stack.enter_context(following(kubectl, name))
            job = Running(kubectl, name, log, shared_claim[1] / name)
            job.await_steps(2)
            if not prepared.exists():
                shutil.copytree(shared_claim[1] / name / "data", prepared)
            return job

        yield start
        kubectl.run("delete", "dsj", "--all")


@pytest.fixture(autouse=True)
def clean_operator_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the operator's log must hold no error and no traceback."""
    yield
    if "operator" not in request.fixturenames:
        return
    site: Site = request.getfixturevalue("site")
    log = _operator_log(Kubectl(site.kubectl, site.kubeconfig, NAMESPACE))
    bad = [line for line in log.splitlines() if '"level": "error"' in line or "Traceback" in line]
    assert not bad, "the operator logged:\n" + "\n".join(bad)


def _operator_log(system: Kubectl) -> str:
    return system.run("logs", f"deployment/{RELEASE}", "--tail=-1", "--all-containers")
