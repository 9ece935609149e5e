"""Any process, pod and rank 0 may go, and the world grows and shrinks: on real nodes, each with its seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from support.eventually import now
from support.faults import kill_rank, require_processes
from support.running import Running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]

Launch = Callable[..., Running]


def test_processes_and_pods_are_lost(launch: Launch) -> None:
    job = launch("losses", recovery={"maxProcessRestarts": 10})  # one loss may be two: a peer ends with it
    require_processes("losses-worker-0-0", job.kubectl.namespace)
    pods = job.pods()

    def kill(rank: int) -> float:
        return job.recovers(f"rank {rank} killed", lambda: kill_rank(f"losses-worker-{rank}-0", job.kubectl.namespace))

    def delete(slot: int) -> float:
        return job.recovers(f"pod of node rank {slot} deleted", lambda: job.delete(slot))

    print(f"process killed: median {statistics.median([kill(rank) for rank in (1, 0, 1)]):.1f} s")
    assert job.pods() == pods
    assert job.status()["generation"] == 1
    print(f"pod deleted: median {statistics.median([delete(slot) for slot in (0, 1, 0)]):.1f} s")
    assert job.status()["restarts"]["infrastructure"] == 3
    job.require_the_same_again()


@pytest.mark.parametrize(
    "spec",
    [{"elastic": {"minReplicas": 1, "maxReplicas": 2, "shrinkAfterSeconds": 0}}, {"scheduling": {"spares": 1}}],
    ids=["elastic", "spare"],
)
def test_nobody_waits_for_a_new_pod(launch: Launch, spec: dict[str, Any]) -> None:
    """An elastic job goes on with whom it has, and one with a spare takes that; both are whole again soon."""
    job = launch("warm", **spec)
    for slot in (0, 1):
        job.wait("all pods, the spare among them", lambda: job.all_ready(3 if "scheduling" in spec else 2))
        job.recovers(f"pod of slot {slot} deleted, {spec}", partial(job.delete, slot))
    job.require_the_same_again(relative=1e-4 if "elastic" in spec else 0.0)


def is_resized(job: Running, before: int, size: int) -> bool:
    found = job.status()
    return bool(found["generation"] > before and found["readyNodes"] == f"{size}/{size}")


def test_resizing_by_kubectl_scale_costs_no_step(launch: Launch) -> None:
    """2 -> 4 -> 3 -> 1 -> 2 workers while it trains; every step is made exactly once.

    One generation each; where two pods come, and one of them much later, it may be another one for that.
    """
    job = launch("scaled", elastic={"minReplicas": 1, "maxReplicas": 4})
    for earlier, size in pairwise((2, 4, 3, 1, 2)):
        generation, began = job.status()["generation"], now()
        job.kubectl.run("scale", "dsj/scaled", f"--replicas={size}")
        job.await_steps(size)
        start = job.log.starts()[-1]
        last = [s for s in job.log.steps() if s.time < start.time][-1]
        first = job.log.steps(start.time)[0]
        print(
            f"{size} workers: {start.time - began:.1f} s until they start, {first.time - last.time:.1f} s between steps"
        )
        job.wait("the status", partial(is_resized, job, generation, size))
        assert job.status()["generation"] - generation <= max(1, size - earlier)
    job.require_no_step_lost()
    assert {cause for cause, count in job.status()["restarts"].items() if count} == {"resize"}
