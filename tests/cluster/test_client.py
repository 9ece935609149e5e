"""The SDK and the cluster verbs of `dsj` against a real API server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_client import ClientError, DeepSeekJob, DeepSeekJobClient, ManifestError, NotFoundError, WaitTimeoutError
from deepseek_client.cli import main
from support import crd
from support.bad_manifests import changed, trainer_job
from support.kubectl import Kubectl

pytestmark = pytest.mark.cluster
NAMESPACE = "client-tests"


@pytest.fixture(scope="module", autouse=True)
def _namespace(kubectl: Kubectl) -> None:
    crd.install(kubectl)
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})


@pytest.fixture
def client(kubeconfig: Path) -> Iterator[DeepSeekJobClient]:
    with DeepSeekJobClient(kubeconfig, namespace=NAMESPACE) as made:
        yield made
        for job in made.list():
            made.delete(job.metadata.name)


def job_named(name: str) -> dict[str, Any]:
    return changed(trainer_job(), {"metadata/name": name, "metadata/namespace": NAMESPACE})


def set_status(kubectl: Kubectl, name: str, **status: Any) -> None:
    patch = json.dumps({"status": status})
    kubectl.run("patch", "dsj", name, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", patch)


def worker(job: DeepSeekJob, slot: int, incarnation: int, node_rank: int) -> dict[str, Any]:
    group = "training.deepseekjob.dev"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{job.metadata.name}-worker-{slot}-{incarnation}",
            "namespace": NAMESPACE,
            "labels": {
                f"{group}/job-name": job.metadata.name,
                f"{group}/slot": str(slot),
                f"{group}/incarnation": str(incarnation),
            },
            "annotations": {f"{group}/membership": json.dumps({"nodeRank": node_rank})},
        },
        "spec": {"containers": [{"name": "worker", "image": "none"}], "automountServiceAccountToken": False},
    }


# ---- the SDK ----------------------------------------------------------------------------------


def test_a_job_is_submitted_read_listed_and_deleted(client: DeepSeekJobClient) -> None:
    created = client.submit(job_named("one"))
    assert created.metadata.uid
    assert client.get("one").spec == created.spec
    assert [job.metadata.name for job in client.list()] == ["one"]
    assert "one" in [job.metadata.name for job in client.list(all_namespaces=True)]
    client.delete("one")
    with pytest.raises(NotFoundError, match="job one: "):
        client.get("one")


def test_a_model_can_be_submitted(client: DeepSeekJobClient) -> None:
    assert client.submit(DeepSeekJob.model_validate(job_named("model"))).metadata.namespace == NAMESPACE


def test_a_wrong_manifest_is_not_sent(client: DeepSeekJobClient) -> None:
    with pytest.raises(ManifestError, match=r"spec\.workers\.replicas: input should be greater"):
        client.submit(changed(job_named("wrong"), {"spec/workers/replicas": 0}))
    assert client.list() == []


def test_what_the_api_server_refuses_is_one_line(client: DeepSeekJobClient) -> None:
    client.submit(job_named("twice"))
    with pytest.raises(ClientError, match="already exists") as caught:
        client.submit(job_named("twice"))
    assert "\n" not in str(caught.value)


def test_wait_ends_with_the_job(client: DeepSeekJobClient, kubectl: Kubectl) -> None:
    client.submit(job_named("waited"))
    change = threading.Timer(1.0, lambda: set_status(kubectl, "waited", state="Succeeded"))
    change.start()
    try:
        assert client.wait("waited", timeout_s=60).status.state == "Succeeded"
    finally:
        change.join()


def test_wait_can_be_for_something_else(client: DeepSeekJobClient, kubectl: Kubectl) -> None:
    client.submit(job_named("steps"))
    set_status(kubectl, "steps", state="Running", training={"step": 7})
    found = client.wait("steps", timeout_s=30, until=lambda job: bool(job.status.training and job.status.training.step))
    assert found.status.training is not None
    assert found.status.training.step == 7


def test_wait_gives_up(client: DeepSeekJobClient) -> None:
    client.submit(job_named("slow"))
    with pytest.raises(WaitTimeoutError, match="job slow: still Pending after"):
        client.wait("slow", timeout_s=0.1)


def test_pods_are_the_newest_of_each_slot(client: DeepSeekJobClient, kubectl: Kubectl) -> None:
    job = client.submit(job_named("gang"))
    mine = replace(kubectl, namespace=NAMESPACE)
    mine.apply(worker(job, 0, 0, 0), worker(job, 1, 0, 1), worker(job, 1, 1, 1))
    try:
        assert [(pod.name, pod.node_rank) for pod in client.pods("gang")] == [
            ("gang-worker-0-0", 0),
            ("gang-worker-1-1", 1),
        ]
    finally:
        mine.run("delete", "pods", "--all", "--wait=false", "--grace-period=0", "--force")


# ---- the command ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What one command left."""

    returncode: int
    stdout: str
    stderr: str


Dsj = Callable[..., Said]


@pytest.fixture
def dsj(kubeconfig: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dsj:
    """The command, in this process: a new one would spend a second on imports."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args: str, config: Path = kubeconfig) -> Said:
        monkeypatch.setenv("KUBECONFIG", str(config))
        with pytest.raises(SystemExit) as end:
            main(args)
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, out, err)

    return call


def test_the_verbs(client: DeepSeekJobClient, dsj: Dsj, kubectl: Kubectl, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_named("cli")))
    submitted = dsj("submit", str(path))
    assert submitted.returncode == 0, submitted.stderr
    assert f"{NAMESPACE}/cli created" in submitted.stdout

    set_status(kubectl, "cli", state="Running", readyNodes="2/2", training={"step": 42, "totalSteps": 100})
    listed = dsj("list", "-n", NAMESPACE)
    assert listed.stdout.split()[:4] == ["NAME", "STATE", "NODES", "STEP"]
    assert listed.stdout.splitlines()[1].split()[:4] == ["cli", "Running", "2/2", "42"]
    assert json.loads(dsj("list", "-n", NAMESPACE, "-o", "json").stdout)[0]["status"]["state"] == "Running"

    shown = dsj("get", "cli", "-n", NAMESPACE)
    assert "42 of 100" in shown.stdout
    assert json.loads(dsj("get", "cli", "-n", NAMESPACE, "-o", "json").stdout)["metadata"]["name"] == "cli"

    nothing = dsj("logs", "cli", "-n", NAMESPACE)
    assert (nothing.returncode, nothing.stderr.strip()) == (2, "dsj: job cli: has no worker pods (state Running)")

    set_status(kubectl, "cli", state="Failed", reason="RestartLimitExceeded")
    watched = dsj("watch", "cli", "-n", NAMESPACE)
    assert watched.returncode == 1
    assert "cli  Failed  RestartLimitExceeded" in watched.stdout

    assert dsj("delete", "cli", "-n", NAMESPACE).returncode == 0
    gone = dsj("get", "cli", "-n", NAMESPACE)
    assert (gone.returncode, len(gone.stderr.splitlines())) == (2, 1)
    assert "not found" in gone.stderr


def test_a_job_is_suspended_scaled_and_resumed(client: DeepSeekJobClient, dsj: Dsj) -> None:
    client.submit(changed(job_named("held"), {"spec/elastic": {"minReplicas": 1, "maxReplicas": 4}}))
    for verb, says in ((["suspend", "held"], "suspended"), (["scale", "held", "3"], "scaled to 3")):
        said = dsj(*verb, "-n", NAMESPACE)
        assert (said.returncode, said.stderr) == (0, "")
        assert f"{NAMESPACE}/held {says}" in said.stdout
    spec = client.get("held").spec
    assert (spec.suspend, spec.workers.replicas) == (True, 3)
    assert dsj("resume", "held", "-n", NAMESPACE).returncode == 0
    assert client.get("held").spec.suspend is False
    refused = dsj("scale", "held", "9", "-n", NAMESPACE)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "workers.replicas is outside of elastic.minReplicas and maxReplicas" in refused.stderr
    assert "not found" in dsj("suspend", "nobody", "-n", NAMESPACE).stderr


@pytest.mark.parametrize("verb", ["list", "get"])
def test_no_cluster_is_one_line(dsj: Dsj, tmp_path: Path, verb: str) -> None:
    said = dsj(verb, *(["x"] if verb == "get" else []), config=tmp_path / "none")
    assert said.returncode == 2
    assert len(said.stderr.splitlines()) == 1
    assert "use `dsj run` without a cluster" in said.stderr


def test_an_api_server_that_is_away_is_one_line(dsj: Dsj, kubeconfig: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    for cluster in config["clusters"]:
        cluster["cluster"]["server"] = "https://127.0.0.1:9"
    path = tmp_path / "away"
    path.write_text(yaml.safe_dump(config))
    said = dsj("list", config=path)
    assert (said.returncode, len(said.stderr.splitlines())) == (2, 1)
    assert "can't reach the API server" in said.stderr
