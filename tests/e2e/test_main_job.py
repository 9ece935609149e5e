"""The main job on real parts: helm install, kubectl apply, two nodes, a lost worker, resume, success, no remains.

One test, because it is one story: each part needs the state that the part before it left. What is asserted
comes from three places that do not know of each other: `kubectl get`, the status and the checkpoint volume.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.eventually import eventually
from support.kubectl import Kubectl
from support.runs import resumes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

STEPS = 90
EXAMPLE = Path(__file__).parents[2] / "examples" / "chitchat-pretrain.yaml"


def load_example(image: str, claim: str) -> dict[str, Any]:
    """The example as users apply it, with this cluster's image, this test's volume, and minutes instead of an hour."""
    job: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    job["spec"]["trainer"]["training"].update(steps=STEPS, globalBatchSize=16)
    job["spec"]["trainer"]["optimizer"].update(warmupSteps=10)
    job["spec"]["trainer"]["evaluation"].update(everySteps=0, batches=4)
    job["spec"]["checkpoint"]["interval"]["steps"] = 15
    job["spec"]["workers"]["image"] = image
    job["spec"]["checkpoint"]["volume"]["claimName"] = claim
    return job


def dsj(kubectl: Kubectl, command: str, *arguments: str) -> str:
    """What the command says, as users run it."""
    program = str(Path(sys.executable).with_name("dsj"))
    where = [f"--kubeconfig={kubectl.kubeconfig}", f"--namespace={kubectl.namespace}"]
    done = subprocess.run(
        [program, command, *arguments, *where], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_job_survives_the_loss_of_a_worker(
    kubectl: Kubectl, operator: None, trainer_image: str, shared_claim: tuple[str, Path]
) -> None:
    """Two workers on two nodes train over the pod network; one is deleted by force; the job ends Succeeded."""
    claim, volume = shared_claim
    job = load_example(trainer_image, claim)
    name = job["metadata"]["name"]
    kubectl.apply(job)

    def status() -> dict[str, Any]:
        found = kubectl.status(name)
        assert found.get("state") != "Failed", json.dumps(found, indent=1)
        return found

    def describe() -> str:
        pods = kubectl.run("get", "pods", "-o", "wide")
        logs = kubectl.run("logs", "-l", f"training.deepseekjob.dev/job-name={name}", "--tail=15", "--prefix")
        return f"{kubectl.run('get', 'dsj', '-o', 'wide')}\n{pods}\n{logs}"

    def wait(what: str, deadline_s: float, probe: Any) -> Any:
        return eventually(probe, deadline_s=deadline_s, interval_s=0.5, describe=describe, what=what)

    # Workers run on both nodes and talk over the pod network.
    wait("the first step", 600, lambda: (status().get("training") or {}).get("step"))
    pods = kubectl.pods(name)
    assert {p["metadata"]["name"] for p in pods} == {f"{name}-worker-0-0", f"{name}-worker-1-0"}
    assert len({p["spec"]["nodeName"] for p in pods}) == 2, "both workers are on one node"

    # People see it advance.
    first = kubectl.row(name)
    wait("a checkpoint to lose a worker after", 240, lambda: (status().get("checkpoint") or {}).get("step"))
    later = wait(
        "the loss to fall in `kubectl get dsj`",
        120,
        lambda: (row := kubectl.row(name)) and float(row["LOSS"]) < float(first["LOSS"]) and row,
    )
    print(f"\nkubectl get dsj: {first}\nkubectl get dsj: {later}")
    assert int(later["STEP"].split("/")[0]) > int(first["STEP"].split("/")[0])
    assert later["STATE"] == "Running"

    # A worker is lost; the job goes on from its checkpoint in the next generation.
    before = status()
    kubectl.run("delete", "pod", f"{name}-worker-1-0", "--force", "--grace-period=0")
    resumed = wait(
        "training in generation 2",
        180,
        lambda: (s := status())["generation"] == 2 and s["state"] == "Running" and s.get("restoredFrom") and s,
    )
    entry = resumes(volume / name)[-1]
    print(f"resumed: volume says {entry}, status says {resumed['restoredFrom']}")
    assert entry["generation"] == 2
    assert entry["attempt"] == resumed["attempt"] == 2
    assert entry["step"] == resumed["restoredFrom"]["step"] >= before["checkpoint"]["step"] > 0
    assert resumed["restarts"]["infrastructure"] == 1
    assert resumed["restarts"]["application"] == 0, "a deleted pod must not cost the user's budget"
    assert {p["metadata"]["name"] for p in kubectl.pods(name)} == {
        f"{name}-worker-0-0",
        f"{name}-worker-1-1",
    }

    # It ends well, and says so to people and to programs.
    kubectl.run("wait", "--for=condition=Complete", f"dsj/{name}", "--timeout=1500s", timeout_s=1520)
    done = status()
    training = job["spec"]["trainer"]["training"]
    assert done["state"] == "Succeeded"
    assert done["training"]["step"] == training["steps"]
    assert done["training"]["samples"] == training["steps"] * training["globalBatchSize"]
    assert float(done["training"]["validationLoss"]) < float(done["training"]["unigramEntropy"])
    print(kubectl.run("get", "dsj", name, "-o", "wide"))

    # Pods beside its volume list and verify what there is, and make a model for others of it.
    listed = json.loads(dsj(kubectl, "checkpoints", name, "--verify", "--output=json"))["checkpoints"]
    assert STEPS in [row["step"] for row in listed if row["state"] == "whole"], listed
    print(dsj(kubectl, "export", name, "exported", "--memory=1Gi"))
    exported = volume / "exported"
    assert json.loads((exported / "config.json").read_text())["model_type"] == "deepseek_v3"
    assert (exported / "tokenizer.json").exists()
    assert any(exported.glob("*.safetensors"))

    # Deleting it leaves nothing of it in the cluster; the checkpoints stay.
    uid = kubectl.json("get", "dsj", name)["metadata"]["uid"]
    kubectl.run("delete", "dsj", name)
    kinds = "pods,services,configmaps,secrets,persistentvolumeclaims,leases.coordination.k8s.io,endpointslices"
    wait(
        "no child to be left",
        60,
        lambda: (
            not [
                item
                for item in kubectl.items(kinds)
                if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))
            ]
            and not kubectl.pods()
        ),
    )
    assert any((volume / name).glob("step-*/COMMITTED"))
