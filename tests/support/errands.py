"""The pods that `dsj` starts beside a job's checkpoints, on an API server without a kubelet: the test is their node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from support.access import RBAC, write_token_kubeconfig
from support.api import Api, Jobs, Object
from support.eventually import eventually

POD = {"resources": ["pods"], "apiGroups": [""]}
JOB = {"resources": ["deepseekjobs"], "apiGroups": ["training.deepseekjob.dev"], "verbs": ["get"]}


def enforce_restricted(api: Api, jobs: Jobs) -> None:
    """The jobs' namespace takes only pods of the restricted standard from now on."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    api.merge(f"/api/v1/namespaces/{jobs.namespace}", {"metadata": {"labels": labels}})


def errand_pods(jobs: Jobs, purpose: str) -> list[Object]:
    """The pods that are there for it."""
    return jobs.api.items(f"{jobs.pods_path}?labelSelector=app.kubernetes.io/name=deepseekjob-{purpose}")


@contextmanager
def meanwhile(jobs: Jobs, purpose: str, act: Callable[[Object], object]) -> Iterator[list[Object]]:
    """Does something with the pod as soon as there is one; afterwards it is in the list."""
    seen: list[Object] = []

    def wait() -> None:
        what = f"the {purpose}'s pod"
        seen.append(eventually(lambda: next(iter(errand_pods(jobs, purpose)), {}), deadline_s=60, what=what))
        act(seen[0])

    thread = Thread(target=wait)
    thread.start()
    try:
        yield seen
    finally:
        thread.join()


def ends(
    jobs: Jobs, purpose: str, message: str, exit_code: int = 0, reason: str = "Completed"
) -> Callable[[Object], object]:
    """The pod's container ends with these last words."""
    terminated = {"exitCode": exit_code, "reason": reason, "message": message}
    status = {"name": purpose, "image": "i", "imageID": "", "ready": False, "restartCount": 0}

    def act(pod: Object) -> object:
        phase = "Succeeded" if exit_code == 0 else "Failed"
        body = {"phase": phase, "containerStatuses": [status | {"state": {"terminated": terminated}}]}
        return jobs.api.merge(f"{jobs.pods_path}/{pod['metadata']['name']}/status", {"status": body})

    return act


def account(jobs: Jobs, folder: Path, *rules: dict[str, Any]) -> Path:
    """A kubeconfig of an account that may do this and nothing else in the jobs' namespace."""
    home = f"/api/v1/namespaces/{jobs.namespace}/serviceaccounts"
    jobs.api.create(home, {"metadata": {"name": "auditor"}})
    jobs.api.create(
        f"{RBAC}/namespaces/{jobs.namespace}/roles", {"metadata": {"name": "auditor"}, "rules": list(rules)}
    )
    binding = {
        "metadata": {"name": "auditor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "auditor"},
        "subjects": [{"kind": "ServiceAccount", "name": "auditor", "namespace": jobs.namespace}],
    }
    jobs.api.create(f"{RBAC}/namespaces/{jobs.namespace}/rolebindings", binding)
    rule = rules[-1]
    asked = (
        f"{jobs.namespace}:auditor",
        rule["verbs"][-1],
        rule["resources"][-1],
        jobs.namespace,
        rule["apiGroups"][-1],
    )
    eventually(lambda: jobs.api.allows(*asked), deadline_s=60, what="the role is in force")
    token = jobs.api.create(f"{home}/auditor/token", {"spec": {"expirationSeconds": 3600}})
    path = folder / "auditor.kubeconfig"
    write_token_kubeconfig(path, jobs.api, token["status"]["token"])
    return path
