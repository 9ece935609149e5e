"""Ranks and pods that stand still: found, named and replaced; and what wakes in an old generation changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from native import processes
from support.eventually import eventually, now
from support.faults import end_of, frozen, processes_of, require_processes
from support.running import Running
from support.runs import resumes
from support.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

RECOVERY = {"hangFloorSeconds": 10}
"""So short that a test does not wait long, and so long that a busy machine is not taken for a hang."""
FOUND_OUT_S = 120
"""By then an agent whose generation is over has found out by itself, and ended its training processes."""
Launch = Callable[..., Running]


def test_a_frozen_rank_is_found_named_and_healed(launch: Launch, shared_claim: tuple[str, Path]) -> None:
    job = launch("stuck", recovery=RECOVERY)
    pod = "stuck-worker-1-0"
    require_processes(pod, job.kubectl.namespace)
    pods = job.pods()
    with frozen(*processes_of(pod, job.kubectl.namespace).ranks):
        job.recovers("rank 1 frozen", lambda: None)

    def recorded() -> Any:
        return next(iter(job.status()["failures"]), None)

    failure = job.wait("the hang in the status", recorded)
    print({key: failure[key] for key in ("cause", "reason", "rank", "node", "message")})
    assert (failure["cause"], failure["rank"], failure["pod"], failure["node"]) == ("Hang", 1, pod, pods[pod])
    assert (job.pods(), job.status()["generation"]) == (pods, 1), f"it was not healed in place: {job.status()}"
    stacks = {path.name: path.read_text() for path in (shared_claim[1] / "stuck" / "hangs").rglob("rank-*")}
    assert "train.py" in next(text for name, text in stacks.items() if name.startswith("rank-0")), stacks
    assert "stopped" in next(text for name, text in stacks.items() if name.startswith("rank-1")), stacks
    job.require_the_same_again()


def test_a_frozen_pod_is_replaced(launch: Launch) -> None:
    """Its agent can't say anything either: its peers and the operator notice."""
    job = launch("silent", recovery=RECOVERY)
    pod = "silent-worker-0-0"
    require_processes(pod, job.kubectl.namespace)
    with frozen(*reversed(processes_of(pod, job.kubectl.namespace).all)):
        job.recovers("pod of node rank 0 frozen", lambda: None)
    failures = job.status()["failures"]
    assert [failure for failure in failures if (failure["cause"], failure["pod"]) == ("Hang", pod)], failures
    job.require_the_same_again()


@contextmanager
def frozen_kubelet(site: Site, node: str) -> Iterator[None]:
    """The node's kubelet neither kills containers nor renews files, and nothing new is put on the node."""
    assert site.native is not None
    index = next(i for i in range(site.native.nodes) if site.native.node(i).name == node)
    kubelets = [each.pid for each in processes.strays({"kubelet"}, site.native.node(index).directory)]
    assert kubelets, f"no kubelet of {node} was found"
    with frozen(*kubelets):
        yield


def test_a_pod_that_wakes_in_an_old_generation_changes_nothing(
    site: Site, launch: Launch, shared_claim: tuple[str, Path]
) -> None:
    """It sleeps while it is deleted and replaced, and nobody is there to kill it: it finds out by itself."""
    if site.native is None:
        pytest.skip("only the native cluster's kubelets can be frozen")
    job = launch("ghost")
    pod = job.pod_of(1)
    require_processes(pod, job.kubectl.namespace)
    ghost, node = processes_of(pod, job.kubectl.namespace), job.pods()[pod]
    volume = shared_claim[1] / "ghost"
    job.kubectl.run("cordon", node)
    try:
        with frozen_kubelet(site, node):
            with frozen(*reversed(ghost.all)):
                job.recovers("pod frozen, deleted and replaced", lambda: job.delete(1))
                assert node not in {where for name, where in job.pods().items() if name != pod}
            woken = now()
            eventually(lambda: end_of(ghost.ranks), deadline_s=FOUND_OUT_S, what="the ghost to find out by itself")
            print(f"the ghost gave up {now() - woken:.1f} s after it woke")
    finally:
        job.kubectl.run("uncordon", node)
        job.await_node(node)
    job.await_steps(2, count=len(job.log.steps(job.log.starts()[-1].time)) + 50)
    assert [entry["generation"] for entry in resumes(volume)] == [1, 2]
    status = job.status()
    assert (status["generation"], status["totalRestarts"]) == (2, 1)
    job.require_the_same_again()
