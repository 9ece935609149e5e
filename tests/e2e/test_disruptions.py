"""Nodes are drained and killed, and the operator goes away: on real nodes, each with its seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from native import cluster
from support.eventually import eventually
from support.faults import kill_rank, require_processes
from support.kubectl import Kubectl
from support.running import Running
from support.site import Site
from support.steps import now

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SYSTEM, OPERATOR = "deepseek-system", "deepseek-operator"
AWAY_S = 120
Launch = Callable[..., Running]


def other_node(site: Site, job: Running) -> str:
    """A node of the job on which the operator is not."""
    system = Kubectl(site.kubectl, site.kubeconfig, SYSTEM)
    (busy,) = {p["spec"]["nodeName"] for p in system.items("pods", "-l", f"app.kubernetes.io/name={OPERATOR}")}
    nodes = set(job.pods().values())
    assert len(nodes) == 2, f"the workers are on {nodes}"
    return next(iter(nodes - {busy}))


def test_a_drained_node_costs_no_step(site: Site, launch: Launch) -> None:
    job = launch("drained", recovery={"prewarm": True})
    node = other_node(site, job)
    mine = "training.deepseekjob.dev/job-name=drained"
    drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={mine}")
    try:
        job.recovers(f"{node} drained", lambda: job.kubectl.run(*drain, timeout_s=120))
        assert node not in job.pods().values()
    finally:
        job.kubectl.run("uncordon", node)
    job.require_no_step_lost()
    assert job.status()["restarts"]["application"] == 0


def test_a_killed_node_is_replaced(site: Site, launch: Launch) -> None:
    """Its kubelet, its containers, its network: all of it at once. The other node has room."""
    if site.native is None:
        pytest.skip("only the native cluster's nodes can be killed")
    job = launch("powerless", recovery={"prewarm": True})
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
    assert job.status()["restarts"]["infrastructure"] == 1


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


def test_training_goes_on_without_the_operator(site: Site, launch: Launch) -> None:
    """A process crashes meanwhile. When the operator is back it catches up, and leaves the job alone."""
    job = launch("unattended", recovery={"prewarm": True})
    pod = "unattended-worker-1-0"
    require_processes(pod, job.kubectl.namespace)
    before = job.status()
    with operator_away(site):
        began = now()
        job.recovers("a rank killed without an operator", lambda: kill_rank(pod, job.kubectl.namespace))
        job.wait("two minutes to pass", lambda: now() - began > AWAY_S, AWAY_S + 30)
        times = [began, *(step.time for step in job.log.steps(began)), now()]
        print(f"longest time without a step: {max(later - earlier for earlier, later in pairwise(times)):.1f} s")
        made = job.log.steps()[-1].step
    job.wait("the status to catch up", lambda: job.status()["training"]["step"] >= made)
    after = job.status()
    for kept in ("generation", "attempt", "totalRestarts", "startTime"):
        assert after[kept] == before[kept], kept
    assert after["restarts"] == before["restarts"] | {"process": 1}
    job.require_the_same_again()
