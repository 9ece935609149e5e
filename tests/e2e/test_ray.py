"""A job with a Ray cluster on two real nodes loses the head and a raylet while it trains: nothing of it is noticed by the training.

What is asserted comes from `kubectl get` and, for each sample, from the records on the checkpoint volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.data.audit.proof import Verdict, prove
from native import cluster
from support.eventually import eventually
from support.faults import kill_ray, memory_mib, ray_processes, require_processes
from support.kubectl import Kubectl
from support.running import manifest
from support.runs import tiny_trainer
from support.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

STEPS = 600
"""More than are made until all was lost, on the slow network; then the rest are made on a fast one."""
HEAD_S = 300
SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1536Mi"}}
AWAIT_HEAD = """\
import socket, sys, time
while True:
    try:
        socket.create_connection((sys.argv[1], 6379), timeout=3).close()
        break
    except OSError:
        time.sleep(0.5)
"""
RAY = {"objectStore": "128Mi", "head": {"resources": SMALL}, "raylet": {"cpus": 1, "resources": SMALL}}


@pytest.mark.parametrize("slow_network", [20], indirect=True)
def test_a_job_that_loses_its_ray_trains_each_sample_once(
    site: Site,
    kubectl: Kubectl,
    operator: None,
    slow_network: None,
    trainer_image: str,
    shared_claim: tuple[str, Path],
) -> None:
    claim, volume = shared_claim
    name, space = "with-ray", kubectl.namespace
    job = manifest(
        name,
        trainer_image,
        claim,
        trainer=tiny_trainer(steps=STEPS, globalBatchSize=16, microBatchSize=8),
        data={"corpus": "chitchat", "audit": True, "ray": RAY},
    )
    # The trainer waits for the head for less than a minute, and else prepares without it, as it should.
    after_head = {"name": "after-head", "image": trainer_image, "command": ["python", "-c", AWAIT_HEAD, f"{name}-ray"]}
    job["spec"]["workers"] |= {"sharedMemory": "512Mi", "initContainers": [after_head]}
    kubectl.apply(job)

    def status() -> dict[str, Any]:
        found = kubectl.status(name)
        assert found.get("state") != "Failed", found
        return found

    def heads_lost() -> int:
        return int((status().get("ray") or {}).get("restarts") or 0)

    def ray_is_ready(lost: int = 0) -> bool:
        """And so many heads were lost, or more."""
        found = status()
        facts = {fact["type"]: fact["status"] for fact in found.get("conditions", ())}
        return facts.get("RayReady") == "True" and (found.get("ray") or {}).get("restarts", 0) >= lost

    def step() -> int:
        return int((status().get("training") or {}).get("step") or 0)

    def describe() -> str:
        logs = kubectl.run("logs", "-l", f"training.deepseekjob.dev/job-name={name}", "--all-containers", "--tail=20")
        return f"{kubectl.run('get', 'dsj', '-o', 'yaml')}\n{kubectl.run('get', 'pods', '-o', 'wide')}\n{logs}"

    def wait(what: str, deadline_s: float, probe: Any) -> Any:
        return eventually(probe, deadline_s=deadline_s, interval_s=0.5, describe=describe, what=what)

    # A head, and a raylet on each of the two nodes.
    wait("Ray is ready", 600, ray_is_ready)
    wait("the first steps", 600, lambda: step() > 5)
    pods = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in kubectl.pods()}
    assert set(pods) == {f"{name}-ray-0", f"{name}-worker-0-0", f"{name}-worker-1-0"}
    assert pods[f"{name}-worker-0-0"] != pods[f"{name}-worker-1-0"], "both workers are on one node"
    for pod in pods:
        require_processes(pod, space, ray_processes)
        print(f"{pod}: {memory_mib(ray_processes(pod, space))} MiB of Ray")

    said = kubectl.run("logs", f"{name}-worker-0-0", "-c", "worker")
    assert "prepared with ray parts=" in said, said

    # Both are lost at once; then the next head's pod, too.
    kill_ray(f"{name}-worker-1-0", space)
    kill_ray(f"{name}-ray-0", space)
    wait("the head's successor", HEAD_S, lambda: ray_is_ready(lost=1))
    lost = heads_lost()
    kubectl.run("delete", "pod", f"{name}-ray-{status()['ray']['head']}", "--force", "--grace-period=0")
    wait("the next one", HEAD_S, lambda: ray_is_ready(lost=lost + 1))
    assert step() < STEPS, "the job was over before Ray was lost: give it more steps"
    if site.native is not None:
        cluster.limit_network(site.native, None)

    # The training has not noticed.
    kubectl.run("wait", "--for=condition=Complete", f"dsj/{name}", "--timeout=900s", timeout_s=920)
    done = status()
    assert (done["generation"], done["attempt"], done["totalRestarts"]) == (1, 1, 0)
    assert (done["restarts"]["process"], done.get("failures", [])) == (0, [])
    proof = prove(volume / name)
    assert proof.verdict is Verdict.PROVEN, proof
    assert proof.to_json()["chain"] == done["training"]["chain"]
    wait("no pod of Ray to be left", 60, lambda: not [p for p in running(kubectl) if "-ray-" in p])

    # Deleting the job leaves nothing of it.
    uid = kubectl.json("get", "dsj", name)["metadata"]["uid"]
    kubectl.run("delete", "dsj", name)
    kinds = "pods,services,secrets,networkpolicies.networking.k8s.io"
    wait("no child to be left", 60, lambda: not [item for item in kubectl.items(kinds) if owned_by(item, uid)])


def running(kubectl: Kubectl) -> list[str]:
    """Names of pods that may still run."""
    return [p["metadata"]["name"] for p in kubectl.pods() if p["status"].get("phase") in ("Pending", "Running")]


def owned_by(item: dict[str, Any], uid: str) -> bool:
    return any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))
