"""A job that trains on a real cluster while something befalls it.

Seconds are from the fault to the first optimizer step of the processes that were started after it, by the pods' own
logs. They are printed, not asserted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from support.eventually import eventually, now
from support.kubectl import Kubectl
from support.runs import tiny_trainer
from support.steps import Step, StepLog

DEADLINE_S = 240
ENDLESS = 100_000


class Running:
    """A job that trains, and what is done to it."""

    def __init__(self, kubectl: Kubectl, name: str, log: StepLog) -> None:
        self.kubectl = kubectl
        self.name = name
        self.log = log

    def status(self) -> dict[str, Any]:
        found = self.kubectl.status(self.name)
        assert found.get("state") != "Failed", yaml.safe_dump(found)
        return found

    def pods(self) -> dict[str, str]:
        """Names of the pods that are there -> their nodes."""
        found = self.kubectl.pods(self.name)
        return {p["metadata"]["name"]: p["spec"].get("nodeName", "") for p in found}

    def wait(self, what: str, probe: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
        return eventually(probe, deadline_s=deadline_s, interval_s=0.1, describe=self._describe, what=what)

    def await_steps(self, ranks: int, count: int = 20) -> Step:
        """The last of some steps of the newest processes, which are so many ranks."""

        def made() -> Step | None:
            starts = self.log.starts()
            if not starts or starts[-1].ranks != ranks:
                return None
            steps = self.log.steps(starts[-1].time)
            return steps[-1] if len(steps) >= count else None

        step: Step = self.wait(f"steps of {ranks} ranks", made)
        return step

    def recovers(self, what: str, fault: Callable[[], object], ranks: int = 2) -> float:
        """Seconds from the fault to the next step; returns when a few more are made."""
        before = now()
        fault()
        step: Step = self.wait(f"a step after {what}", lambda: self.log.next_step(before))
        print(f"{what}: {step.time - before:.1f} s to the next step ({step.step})")
        self.await_steps(ranks)
        return step.time - before

    def pod_of(self, slot: int) -> str:
        """The newest pod of a slot."""
        pods = [name for name in self.pods() if name.startswith(f"{self.name}-worker-{slot}-")]
        return max(pods, key=lambda name: int(name.rpartition("-")[2]))

    def all_ready(self, count: int) -> bool:
        """Whether so many pods are ready, and no other is there."""
        found = self.kubectl.pods(self.name)
        facts = [fact for pod in found for fact in pod["status"].get("conditions", [])]
        ready = [fact for fact in facts if fact["type"] == "Ready" and fact["status"] == "True"]
        return len(found) == len(ready) == count

    def await_node(self, node: str) -> None:
        """Waits until pods can be put on the node again."""

        def is_open() -> bool:
            found = self.kubectl.node(node)
            ready = [c["status"] for c in found["status"]["conditions"] if c["type"] == "Ready"]
            return ready == ["True"] and not found["spec"].get("taints")

        self.wait(f"{node} to be Ready, without a taint", is_open)

    def delete(self, slot: int) -> None:
        """The slot's pod goes at once, as when its node is taken away."""
        self.kubectl.run("delete", "pod", self.pod_of(slot), "--force", "--grace-period=0")

    def require_the_same_again(self, relative: float = 0.0) -> None:
        """Steps follow each other, and one that was made again after a fault has the loss that it had before.

        Args:
            relative: how much a loss may differ: where another number of ranks made the step, sums are rounded otherwise.
        """
        losses: dict[int, float] = {}
        for step in self.log.steps():
            assert step.step == 1 or step.step - 1 in losses, f"step {step.step} follows nothing"
            before = losses.setdefault(step.step, step.loss)
            assert abs(before - step.loss) <= relative * before, f"step {step.step} is another one"

    def require_no_step_lost(self) -> None:
        """Every step was made exactly once."""
        steps = [step.step for step in self.log.steps()]
        assert steps == list(range(1, len(steps) + 1)), f"steps were lost or made twice: {steps}"

    def _describe(self) -> str:
        pods = self.kubectl.run("get", "pods", "-o", "wide")
        events = self.kubectl.run("get", "events", "--sort-by=.lastTimestamp")[-3000:]
        return f"{self.kubectl.run('get', 'dsj', '-o', 'wide')}\n{pods}\n{events}\n{self.log.steps()[-3:]}"


def manifest(name: str, image: str, claim: str, **spec: Any) -> dict[str, Any]:
    """A tiny model on two workers, each on a node of its own where two have room."""
    label = {"matchLabels": {"training.deepseekjob.dev/job-name": name}}
    apart = {"weight": 100, "podAffinityTerm": {"labelSelector": label, "topologyKey": "kubernetes.io/hostname"}}
    workers = {
        "replicas": 2,
        "image": image,
        "resources": {"requests": {"cpu": "50m", "memory": "512Mi"}},
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}},
    }
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": name},
        "spec": {
            "workers": workers,
            "backend": "gloo",
            "trainer": tiny_trainer(steps=ENDLESS, globalBatchSize=16, microBatchSize=8),
            "data": {"corpus": "chitchat"},
            "checkpoint": {"volume": {"claimName": claim}, "interval": {"steps": 5}},
            **spec,
        },
    }
