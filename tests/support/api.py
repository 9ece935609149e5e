"""The Kubernetes API as the tests' own eyes and hands: plain HTTPS as admin, sharing no code with the operator."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
import yaml
from support.eventually import eventually
from support.kstatus import kstatus
from urllib3.exceptions import ProtocolError

Object = dict[str, Any]
JOBS = "/apis/training.deepseekjob.dev/v1alpha1/namespaces/{ns}/deepseekjobs"
PODS = "/api/v1/namespaces/{ns}/pods"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
MERGE = "application/merge-patch+json"


class ApiFailure(AssertionError):
    """The API server answered with an error; the message has all of it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """One cluster, as the user of a kubeconfig with client certificates (or a token)."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = str(cluster["server"])
        self._files = tempfile.TemporaryDirectory(prefix="api-")
        self.ca = self._file("ca", cluster, "certificate-authority")
        self.cert = self._file("cert", user, "client-certificate")
        self.key = self._file("key", user, "client-key")
        self._pool = urllib3.PoolManager(
            ca_certs=self.ca, cert_file=self.cert, key_file=self.key, maxsize=8, timeout=30, retries=False
        )

    def close(self) -> None:
        self._pool.clear()
        self._files.cleanup()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """The parsed answer.

        Raises:
            ApiFailure: a status of 400 or more.
        """
        data = None if body is None else json.dumps(body).encode()
        ask = partial(self._pool.request, method, self.server + path, body=data, headers={"Content-Type": content_type})
        try:
            answer = ask()
        except ProtocolError:
            # The API server closes a connection that was idle for 90 s, maybe at the moment at which it is used again.
            answer = ask()
        if answer.status >= 400:
            raise ApiFailure(answer.status, f"{method} {path}: {answer.status} {answer.data.decode()[:2000]}")
        return json.loads(answer.data) if answer.data else None

    def get(self, path: str) -> Any:
        return self.send("GET", path)

    def find(self, path: str) -> Any:
        """The object, or None where there is none."""
        try:
            return self.send("GET", path)
        except ApiFailure as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str) -> list[Object]:
        found: list[Object] = self.send("GET", path)["items"]
        return found

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.send("POST", path, body)

    def merge(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.send("PATCH", path, body, MERGE)

    def allows(self, account: str, verb: str, resource: str, namespace: str, group: str = "") -> bool:
        """Whether a service account ("namespace:name") may do that. Roles and bindings are in force a moment after they are made."""
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        user = {"user": f"system:serviceaccount:{account}", "groups": ["system:serviceaccounts"]}
        answer = self.create(REVIEWS, {"spec": {**user, "resourceAttributes": attributes}})
        allowed: bool = answer["status"]["allowed"]
        return allowed

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Deletes; an object that is gone already is as good."""
        query = "" if grace_s is None else f"{'&' if '?' in path else '?'}gracePeriodSeconds={grace_s}"
        try:
            self.send("DELETE", path + query)
        except ApiFailure as error:
            if error.status != 404:
                raise

    def _file(self, name: str, holder: Mapping[str, str], key: str) -> str | None:
        if f"{key}-data" in holder:
            path = Path(self._files.name) / name
            path.write_bytes(base64.b64decode(holder[f"{key}-data"]))
            return str(path)
        return holder.get(key)


class Jobs:
    """The DeepSeekJobs of one namespace and their pods."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.path = JOBS.format(ns=namespace)
        self.pods_path = PODS.format(ns=namespace)

    def submit(self, name: str, replicas: int = 2, **spec: Any) -> Object:
        """Creates a small job that runs a script of the user's."""
        body = {
            "apiVersion": "training.deepseekjob.dev/v1alpha1",
            "kind": "DeepSeekJob",
            "metadata": {"name": name},
            "spec": {
                "workers": {"replicas": replicas, "image": "example.org/trainer:1"},
                "entrypoint": {"script": "/train.py"},
                **spec,
            },
        }
        created: Object = self.api.create(self.path, body)
        return created

    def get(self, name: str) -> Object:
        found: Object = self.api.get(f"{self.path}/{name}")
        return found

    def status(self, name: str) -> Object:
        found: Object = self.get(name).get("status", {})
        return found

    def state(self, name: str) -> str | None:
        return self.status(name).get("state")

    def launched(self) -> int:
        """How many jobs have all pods of their first generation made."""
        return sum(1 for job in self.api.items(self.path) if job.get("status", {}).get("launchedGeneration") == 1)

    def edit(self, name: str, **spec: Any) -> None:
        """Changes these fields of the spec."""
        self.api.merge(f"{self.path}/{name}", {"spec": spec})

    def reaches(self, name: str, state: str) -> Object:
        """The status once the job is in that state and the API server has the last word about it."""
        eventually(
            lambda: self.state(name) == state and kstatus(self.get(name)) != "InProgress",
            deadline_s=60,
            what=f"{name} is {state}",
            describe=lambda: self.describe(name),
        )
        return self.status(name)

    def pods(self, name: str) -> list[Object]:
        """The job's pods, by name."""
        selector = f"?labelSelector=training.deepseekjob.dev/job-name={name}"
        return sorted(self.api.items(self.pods_path + selector), key=lambda pod: str(pod["metadata"]["name"]))

    def live(self, name: str) -> list[str]:
        """Names of the job's pods that may still run."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(name)
            if pod["status"].get("phase") in ("Pending", "Running") and "deletionTimestamp" not in pod["metadata"]
        ]

    def delete_pod(self, name: str, grace_s: int = 0) -> None:
        self.api.delete(f"{self.pods_path}/{name}", grace_s)

    def describe(self, name: str) -> str:
        """The job and its pods, for a message about a failure."""
        job = self.api.find(f"{self.path}/{name}")
        lines = [f"status: {json.dumps((job or {}).get('status'), indent=1)}"]
        lines += [
            f"pod {p['metadata']['name']}: {p['status'].get('phase')} {p['metadata'].get('deletionTimestamp', '')}"
            for p in self.pods(name)
        ]
        return "\n".join(lines)
