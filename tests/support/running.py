"""A job that trains on a real cluster while something befalls it.

Seconds are from the fault to the first optimizer step of the processes that were started after it, by the pods' own
logs. They are printed, not asserted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from support.eventually import eventually, now
from support.kubectl import Kubectl
from support.runs import resumes, tiny_trainer
from support.steps import Step, StepLog

DEADLINE_S = 240
ENDLESS = 100_000
LOGGED_S = 60
"""By then all that a pod has said is in its log."""


class Running:
    """A job that trains, and what is done to it."""

    def __init__(self, kubectl: Kubectl, name: str, log: StepLog, folder: Path) -> None:
        self.kubectl = kubectl
        self.name = name
        self.log = log
        self.folder = folder
        """Of the job, on the checkpoint volume."""

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

        The first of a start follows the checkpoint that it resumed from, as the volume says: of the steps before it the
        log may lack the last ones, where a node was killed before its kubelet had read them.

        Args:
            relative: how much a loss may differ: where another number of ranks made the step, sums are rounded otherwise.
        """
        resumed = [(_unix(entry["time"]), entry["step"]) for entry in resumes(self.folder)]
        losses: dict[int, float] = {}
        for start, steps in self.log.by_start():
            _, saved = max(entry for entry in resumed if entry[0] <= start.time)
            assert steps[0].step == saved + 1, f"step {steps[0].step} is the first after checkpoint {saved}"
            for before, after in pairwise(steps):
                assert after.step == before.step + 1, f"step {after.step} follows {before.step}"
            for step in steps:
                loss = losses.setdefault(step.step, step.loss)
                assert abs(loss - step.loss) <= relative * loss, f"step {step.step} is another one"

    def require_no_step_lost(self) -> None:
        """Every step was made exactly once. What a pod said that went may be read later than what its successor says."""

        def made() -> list[int]:
            steps = [step.step for step in self.log.steps()]
            assert len(set(steps)) == len(steps), f"steps were made twice: {steps}"
            return steps

        made()
        self.wait("the log of every step", lambda: (steps := made()) == list(range(1, len(steps) + 1)), LOGGED_S)

    def _describe(self) -> str:
        pods = self.kubectl.run("get", "pods", "-o", "wide")
        events = self.kubectl.run("get", "events", "--sort-by=.lastTimestamp")[-3000:]
        return f"{self.kubectl.run('get', 'dsj', '-o', 'wide')}\n{pods}\n{events}\n{self.log.steps()[-3:]}"


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


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
