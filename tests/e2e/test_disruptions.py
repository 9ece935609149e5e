"""Nodes are drained and killed, and the operator goes away: on real nodes, each with its seconds."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from native import cluster
from support.eventually import eventually, now
from support.faults import kill_rank, require_processes
from support.kubectl import Kubectl
from support.running import Running
from support.site import Site

SYSTEM, OPERATOR = "deepseek-system", "deepseek-operator"
AWAY_S = 120
SIGTERMS = int(os.environ.get("DEEPSEEKJOB_SIGTERMS", "2"))
"""How often pods are asked to go, one after the other; fifty take ten minutes."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900 + 30 * SIGTERMS)]

Launch = Callable[..., Running]


def other_node(site: Site, job: Running) -> str:
    """A node of the job on which the operator is not."""
    system = Kubectl(site.kubectl, site.kubeconfig, SYSTEM)
    (busy,) = {p["spec"]["nodeName"] for p in system.items("pods", "-l", f"app.kubernetes.io/name={OPERATOR}")}
    nodes = set(job.pods().values())
    assert len(nodes) == 2, f"the workers are on {nodes}"
    return next(iter(nodes - {busy}))


def test_drains_and_evictions_cost_no_step(site: Site, launch: Launch) -> None:
    """All ranks save together at the step in which SIGTERM came to one of them, and the next start is there."""
    job = launch("drained")
    node = other_node(site, job)
    mine = "training.deepseekjob.dev/job-name=drained"
    drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={mine}")
    try:
        job.recovers(f"{node} drained", lambda: job.kubectl.run(*drain, timeout_s=120))
        assert node not in job.pods().values()
    finally:
        job.kubectl.run("uncordon", node)
    job.require_no_step_lost()
    for number in range(1, SIGTERMS):
        job.wait("both pods", lambda: job.all_ready(2))
        pod = job.pod_of(number % 2)
        job.recovers(f"{pod} evicted", partial(job.kubectl.run, "delete", "pod", pod, "--wait=false"))
        job.require_no_step_lost()
    assert len(job.log.starts()) == 1 + SIGTERMS
    print(f"{SIGTERMS} of {SIGTERMS} SIGTERMs saved the last step")
    assert job.status()["restarts"]["application"] == 0


def test_a_killed_node_is_replaced(site: Site, launch: Launch) -> None:
    """Its kubelet, its containers, its network: all of it at once. The other node has room."""
    if site.native is None:
        pytest.skip("only the native cluster's nodes can be killed")
    job = launch("powerless")
    node = other_node(site, job)
    index = next(i for i in range(site.native.nodes) if site.native.node(i).name == node)
    native = site.native
    try:
        job.recovers(f"{node} killed", lambda: cluster.stop_node(native, index))
        assert {name for name, where in job.pods().items() if where == node} <= {
            "powerless-worker-0-0",
            "powerless-worker-1-0",
        }
    finally:
        cluster.start_node(native, index)
        job.await_node(node)
    job.require_the_same_again()
    found = job.status()
    assert found["restarts"]["infrastructure"] == 1, found["failures"]


@contextmanager
def operator_away(site: Site) -> Iterator[None]:
    """No operator for as long as the block; it is back and ready after it."""
    system = Kubectl(site.kubectl, site.kubeconfig, SYSTEM)
    deployment = f"deployment/{OPERATOR}"
    system.run("scale", deployment, "--replicas=0")
    eventually(lambda: not system.items("pods"), deadline_s=90, what="the operator to go")
    try:
        yield
    finally:
        system.run("scale", deployment, "--replicas=1")
        system.run("rollout", "status", deployment, "--timeout=120s", timeout_s=130)


SCRIPT = Path(__file__).parents[1] / "support" / "tiny_training.py"


def script_job(name: str, image: str, claim: str) -> list[dict[str, Any]]:
    """A user's script on two workers, a step each 50 ms, with its checkpoint on the volume; not prewarmed."""
    workers = {
        "replicas": 2,
        "image": image,
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
        "volumes": [{"name": "script", "mountPath": "/workspace", "configMap": {"name": "script"}}],
    }
    spec = {
        "workers": workers,
        "backend": "gloo",
        "entrypoint": {"script": "/workspace/train.py", "args": [f"/checkpoints/{name}", "1000000"]},
        "checkpoint": {"volume": {"claimName": claim}},
        "recovery": {"maxProcessRestarts": 10},
    }
    job = {"apiVersion": "training.deepseekjob.dev/v1alpha1", "kind": "DeepSeekJob"}
    script = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "script"}}
    return [script | {"data": {"train.py": SCRIPT.read_text()}}, job | {"metadata": {"name": name}, "spec": spec}]


def test_training_goes_on_without_the_operator(
    site: Site, operator: None, kubectl: Kubectl, trainer_image: str, shared_claim: tuple[str, Path]
) -> None:
    """Processes crash meanwhile. When the operator is back it catches up, and leaves the job alone."""
    name, (claim, volume) = "unattended", shared_claim
    kubectl.apply(*script_job(name, trainer_image, claim))

    def steps(since: float = 0.0) -> list[dict[str, Any]]:
        lines = (volume / name / "log.jsonl").read_text().splitlines(keepends=True)
        whole = (line for line in lines if line.endswith("\n"))  # the last one may be half written
        return [step for step in map(json.loads, whole) if step["time"] > since]

    def status() -> dict[str, Any]:
        return kubectl.status(name)

    def wait(what: str, probe: Callable[[], Any], deadline_s: float = 240) -> Any:
        return eventually(probe, deadline_s=deadline_s, what=what, describe=lambda: kubectl.run("get", "dsj,pods"))

    wait("steps in the status", lambda: status()["training"]["step"] > 10)
    require_processes(f"{name}-worker-0-0", kubectl.namespace)
    before = status()
    seconds = []
    with operator_away(site):
        began = now()
        for rank in (1, 0, 1):
            fault = now()
            kill_rank(f"{name}-worker-{rank}-0", kubectl.namespace)
            after = partial(lambda since: next((s for s in steps(since) if s["began"] > since), None), fault)
            seconds.append(wait(f"a step after rank {rank} was killed", after)["time"] - fault)
            print(f"rank {rank} killed, no operator: {seconds[-1]:.1f} s to the next step")
            wait("some steps more", partial(lambda since: len(steps(since)) > 20, now()))
        wait("two minutes to pass", lambda: now() - began > AWAY_S, AWAY_S + 30)
        times = [began, *(step["time"] for step in steps(began)), now()]
        longest = max(later - earlier for earlier, later in pairwise(times))
        print(f"a script's process: median {statistics.median(seconds):.1f} s; longest without a step {longest:.1f} s")
        made = steps()[-1]["step"]
    wait("the status to catch up", lambda: status()["training"]["step"] >= made)
    after_all = status()
    for kept in ("generation", "attempt", "totalRestarts", "startTime"):
        assert after_all[kept] == before[kept], kept
    restarts = after_all["restarts"]
    assert restarts | {"process": 0} == before["restarts"] | {"process": 0}
    assert 3 <= restarts["process"] <= 6, "a peer's process may end by itself before it is told to"
    kubectl.run("delete", "dsj", name)
