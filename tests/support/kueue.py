"""Kueue on a test's API server: its CRDs, and its own scheduler and controllers as a process, built from its module.

The program is the one that Kueue measures its scheduler with: no webhooks, no integrations of job kinds. So nothing but
quota, queues, admission and eviction is at work, and they are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from native import binaries, processes
from support import kube
from support.api import Api, ApiFailure, Jobs
from support.eventually import eventually
from support.gang_crds import CRDS, leave_alone
from support.kubectl import Kubectl
from support.yamls import document

ROOT = "/apis/kueue.x-k8s.io/v1beta2"
FLAVOR_LABELS = {"pool": "reserved"}
FLAVOR_TOLERATION = {"key": "reserved", "operator": "Exists", "effect": "NoSchedule"}
QUEUE = "team"


def crd_files() -> list[Path]:
    """The CRDs that Kueue's module ships."""
    source = binaries.source_dir("kueue", "sigs.k8s.io/kueue")
    return sorted((source / "config/components/crd/bases").glob("*.yaml"))


@contextmanager
def running(api: Api, kubectl: Kubectl, kubeconfig: Path, directory: Path) -> Iterator[processes.Daemon]:
    """Kueue at work, with a flavor and no queue yet. Afterwards all of it is gone."""
    program = kube.require("kueue")["kueue"]
    files = crd_files()
    names = [document(path.read_text(encoding="utf-8"))["metadata"]["name"] for path in files]
    leave_alone(api, *names)
    daemon = None
    try:
        kubectl.run("apply", "--server-side", *[f"-f={path}" for path in files])
        for name in names:
            eventually(lambda name=name: _served(api, name), deadline_s=30, what=f"{name} is served")  # type: ignore[misc]
        argv: list[str | Path] = [program, f"--kubeconfig={kubeconfig}", "-zap-log-level=info"]
        daemon = processes.start("kueue", argv, directory, bound_to_parent=True)
        spec = {"nodeLabels": FLAVOR_LABELS, "tolerations": [FLAVOR_TOLERATION]}
        _create(api, "resourceflavors", "ResourceFlavor", "reserved", spec)
        yield daemon
    finally:
        if daemon is not None:
            processes.stop([daemon], grace_s=3)
        for kind in ("clusterqueues", "resourceflavors", "workloadpriorityclasses"):
            _empty(api, f"{ROOT}/{kind}")
        for name in names:
            api.delete(f"{CRDS}/{name}")


class Queues:
    """One ClusterQueue and the LocalQueue `team` of a test's namespace."""

    def __init__(self, jobs: Jobs, cpu: str, **spec: Any) -> None:
        self.jobs, self.api = jobs, jobs.api
        self._name = f"cq-{jobs.namespace}"
        group = {
            "coveredResources": ["cpu"],
            "flavors": [{"name": "reserved", "resources": [{"name": "cpu", "nominalQuota": cpu}]}],
        }
        _create(
            self.api,
            "clusterqueues",
            "ClusterQueue",
            self._name,
            {"namespaceSelector": {}, "resourceGroups": [group], **spec},
        )
        _create(
            self.api,
            f"namespaces/{jobs.namespace}/localqueues",
            "LocalQueue",
            QUEUE,
            {"clusterQueue": self._name},
        )

    def workload(self, job: str) -> dict[str, Any] | None:
        """The job's Workload."""
        found: dict[str, Any] | None = self.api.find(self._path(job))
        return found

    def condition(self, job: str, kind: str) -> str:
        """Status of a condition of the job's Workload; empty when there is none."""
        conditions = (self.workload(job) or {}).get("status", {}).get("conditions", [])
        return next((str(c["status"]) for c in conditions if c["type"] == kind), "")

    def set_active(self, job: str, active: bool) -> None:
        """As an administrator holds a job back, or lets it go."""
        self.api.merge(self._path(job), {"spec": {"active": active}})

    def priority(self, name: str, value: int) -> str:
        """A class of priority; answers its name."""
        full = f"{name}-{self.jobs.namespace}"
        body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass", "value": value}
        self.api.create(f"{ROOT}/workloadpriorityclasses", body | {"metadata": {"name": full}})
        return full

    def used(self) -> str:
        """CPUs that the ClusterQueue counts as reserved."""
        found = self.api.get(f"{ROOT}/clusterqueues/{self._name}").get("status", {}).get("flavorsReservation", [])
        return next((str(r["total"]) for flavor in found for r in flavor["resources"]), "0")

    def describe(self, job: str) -> str:
        """The job and its Workload, for a message about a failure."""
        return f"{self.jobs.describe(job)}\nworkload: {self.workload(job)}"

    def _path(self, job: str) -> str:
        return f"{ROOT}/namespaces/{self.jobs.namespace}/workloads/deepseekjob-{job}"


def _served(api: Api, name: str) -> bool:
    conditions = api.get(f"{CRDS}/{name}").get("status", {}).get("conditions", [])
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def _create(api: Api, where: str, kind: str, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}, "spec": spec}

    def made() -> bool:
        try:
            api.create(f"{ROOT}/{where}", body)
        except ApiFailure as error:
            if error.status != 404:  # established, and not served yet
                raise
            return False
        return True

    eventually(made, deadline_s=30, what=f"{kind} {name} is made")


def _empty(api: Api, path: str) -> None:
    """Deletes all objects of a kind, whatever finalizers Kueue has put on them: it is gone."""
    for found in api.items(path) if api.find(path) else ():
        name = found["metadata"]["name"]
        api.merge(f"{path}/{name}", {"metadata": {"finalizers": None}})
        api.delete(f"{path}/{name}")
