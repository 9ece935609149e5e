"""A soak's world on this machine: a real API server and operator, and pods that are processes of the built-in trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek_client.local import http
from deepseek_operator.decide.report import parse_report
from support.api import Jobs
from support.chaos import PodView, View
from support.eventually import eventually
from support.operators import OperatorProcess
from support.processkubelet import ProcessKubelet
from support.runs import tiny_trainer

CLAIM = "checkpoints"
LEAST, WORKERS, MOST = 1, 2, 3
OFTEN = 100_000
"""A budget that a soak doesn't spend: what is counted is the data, not the restarts."""


def job_spec(steps: int) -> dict[str, Any]:
    """An elastic job of the tiny model that answers every fault as fast as the API lets it."""
    return {
        "workers": {"replicas": WORKERS, "image": "example.org/trainer:1", "procPerNode": 1},
        "backend": "gloo",
        "trainer": tiny_trainer(steps=steps, globalBatchSize=12),
        "data": {"corpus": "chitchat", "audit": True},
        "checkpoint": {"volume": {"claimName": CLAIM}, "interval": {"steps": 10}, "keep": 3},
        "elastic": {"minReplicas": LEAST, "maxReplicas": MOST, "shrinkAfterSeconds": 30},
        "recovery": {
            "hangTimeoutSeconds": 20,
            "maxProcessRestarts": 1000,
            "maxRestartsWithoutProgress": 1000,
            "backoff": {"initialSeconds": 0, "maxSeconds": 1},
            "budgets": dict.fromkeys(("application", "outOfMemory", "accelerator", "communication", "hang"), OFTEN),
            "nodeExclusion": {"failures": 100},
        },
    }


class ProcessTarget:
    """See `support.soak.Target`. Only operators that it started itself are killed."""

    def __init__(
        self,
        jobs: Jobs,
        kubelet: ProcessKubelet,
        start_operator: Callable[[], OperatorProcess],
        *,
        steps: int,
        stores: Path,
        check: Callable[[str, dict[str, Any]], None],
    ) -> None:
        """Args: stores: prepared data. check: gets a job's name and status when it has succeeded; raises AssertionError."""
        self._jobs = jobs
        self._kubelet = kubelet
        self._start_operator = start_operator
        self._operator: OperatorProcess | None = None
        self._steps = steps
        self._stores = stores
        self._check = check
        self._name = ""

    def view(self) -> View:
        job = self._jobs.get(self._name)
        status = job.get("status", {})
        pods = [pod for pod in self._kubelet.running().values() if pod.name.startswith(f"{self._name}-worker-")]
        reports = {
            pod.name: report
            for pod in pods
            if (body := http.get(pod.ip, "/progress")) and (report := parse_report(body))
        }
        members = {name for name, report in reports.items() if report.generation == status.get("generation")}
        return View(
            state=status.get("state", ""),
            step=max((report.step or 0 for report in reports.values()), default=0),
            pods=tuple(PodView(pod.name, pod.node) for pod in pods if pod.name in members),
            workers=job["spec"]["workers"]["replicas"],
            least=LEAST,
            most=MOST,
            nodes=self._kubelet.up(),
        )

    def describe(self) -> str:
        logs = [f"--- {name}\n{log[-2500:]}" for name, log in self._kubelet.logs(f"{self._name}-").items()][-4:]
        operator = self._operator.tail() if self._operator else "no operator"
        return "\n".join([self._jobs.describe(self._name), *logs, f"--- operator\n{operator}"])

    def start_job(self, number: int) -> None:
        self._name = f"soak-{number}"
        if self._operator is None:
            self.operator_start()
        data = self._kubelet.claim(CLAIM) / self._name / "data"
        data.parent.mkdir(parents=True)
        data.symlink_to(self._stores)  # the tokenizer is trained once a machine, not once a job
        body = {
            "apiVersion": "training.deepseekjob.dev/v1alpha1",
            "kind": "DeepSeekJob",
            "metadata": {"name": self._name},
            "spec": job_spec(self._steps),
        }
        self._jobs.api.create(self._jobs.path, body)

    def finish_job(self) -> None:
        status = self._jobs.status(self._name)
        assert status["state"] == "Succeeded", self.describe()
        assert not self._kubelet.errors, self._kubelet.errors
        self._check(self._name, status)
        self._jobs.api.delete(f"{self._jobs.path}/{self._name}?propagationPolicy=Background")
        for pod in self._jobs.pods(self._name):  # there is no garbage collector here
            self._jobs.delete_pod(pod["metadata"]["name"])
        eventually(lambda: not self._jobs.pods(self._name), deadline_s=60, what="no pods are left")

    def kill_process(self, pod: str, rank: int) -> None:
        self._kubelet.kill_process(pod, rank)

    def kill_pod(self, pod: str) -> None:
        self._jobs.delete_pod(pod)

    def delete_pod(self, pod: str) -> None:
        self._jobs.api.delete(f"{self._jobs.pods_path}/{pod}")

    def freeze(self, pod: str, rank: int | None) -> None:
        self._kubelet.freeze(pod, rank)

    def thaw(self, pod: str) -> None:
        self._kubelet.thaw(pod)

    def scale(self, workers: int) -> None:
        self._edit({"workers": {"replicas": workers}})

    def suspend(self, wanted: bool) -> None:
        self._edit({"suspend": wanted})

    def operator_kill(self) -> None:
        assert self._operator is not None
        self._operator.kill()
        self._operator = None

    def operator_start(self) -> None:
        self._operator = self._start_operator()

    def node_kill(self, node: str) -> None:
        self._kubelet.node_kill(node)

    def node_start(self, node: str) -> None:
        self._kubelet.node_start(node)

    def _edit(self, spec: dict[str, Any]) -> None:
        self._jobs.api.merge(f"{self._jobs.path}/{self._name}", {"spec": spec})
