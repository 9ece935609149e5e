"""The SDK: DeepSeekJobs of a cluster as typed objects, over the official Kubernetes client.

client = DeepSeekJobClient()
job = client.submit("job.yaml")
job = client.wait(job.metadata.name)
print(job.status.training)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_operator.api.names import (
    ANNOTATION_MEMBERSHIP,
    CONTAINER,
    GROUP,
    LABEL_INCARNATION,
    LABEL_JOB_NAME,
    LABEL_SLOT,
    PLURAL,
    VERSION,
    State,
)
from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client import manifest
from deepseek_client.errors import ClientError, NotFoundError, WaitTimeoutError

TERMINAL = (State.SUCCEEDED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Pod:
    """A worker pod of a job."""

    name: str
    slot: int
    incarnation: int
    node_rank: int | None
    """Its rank in the present generation; None when it has none."""


Jobs = list[DeepSeekJob]
Pods = list[Pod]


class DeepSeekJobClient:
    """Submits, reads, waits for, changes and deletes DeepSeekJobs.

    Args:
        kubeconfig: path of a kubeconfig; None: $KUBECONFIG, ~/.kube/config, or the pod's service account.
        context: context of the kubeconfig; None: its current one.
        namespace: default namespace; None: the context's, else `default`.

    Attributes:
        core: the official client's API of pods and claims, with the same connections.
    """

    def __init__(
        self, kubeconfig: str | Path | None = None, context: str | None = None, namespace: str | None = None
    ) -> None:
        from kubernetes import client

        api, found = _connect(str(kubeconfig) if kubeconfig else None, context)
        self.namespace = namespace or found or "default"
        self._api = api
        self._objects = client.CustomObjectsApi(api)
        self.core = client.CoreV1Api(api)

    def __enter__(self) -> DeepSeekJobClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()

    def submit(self, job: DeepSeekJob | dict[str, Any] | str | Path, namespace: str | None = None) -> DeepSeekJob:
        """Creates a job from a model, a manifest or a manifest's path; answers it as the API server has it.

        Raises:
            ManifestError: it is wrong; nothing was sent.
            ClientError: the API server refused it.
        """
        body = _body(job)
        where = namespace or (body.get("metadata") or {}).get("namespace") or self.namespace
        with api_errors(f"job {body['metadata']['name']}"):
            return _job(self._objects.create_namespaced_custom_object(GROUP, VERSION, where, PLURAL, body))

    def get(self, name: str, namespace: str | None = None) -> DeepSeekJob:
        """One job.

        Raises:
            NotFoundError: there is none of this name.
        """
        with api_errors(f"job {name}"):
            return _job(
                self._objects.get_namespaced_custom_object(GROUP, VERSION, namespace or self.namespace, PLURAL, name)
            )

    def list(self, namespace: str | None = None, all_namespaces: bool = False) -> Jobs:
        """All jobs of a namespace, or of all; sorted by namespace and name."""
        with api_errors("jobs"):
            if all_namespaces:
                answer = self._objects.list_cluster_custom_object(GROUP, VERSION, PLURAL)
            else:
                answer = self._objects.list_namespaced_custom_object(
                    GROUP, VERSION, namespace or self.namespace, PLURAL
                )
        return sorted(map(_job, answer["items"]), key=lambda job: (job.metadata.namespace, job.metadata.name))

    def watch(
        self, name: str, namespace: str | None = None, interval_s: float = 1.0, timeout_s: float | None = None
    ) -> Iterator[DeepSeekJob]:
        """The job each time that it changed, until it ended. Reads it each interval_s: no change can be missed for good.

        Raises:
            NotFoundError: it is not there, or was deleted meanwhile.
            WaitTimeoutError: it did not end within timeout_s.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        version = ""
        while True:
            job = self.get(name, namespace)
            if job.metadata.resource_version != version:
                version = job.metadata.resource_version
                yield job
            if job.status.state in TERMINAL:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeoutError(f"job {name}: still {job.status.state} after {timeout_s:g} s")
            time.sleep(interval_s)

    def wait(
        self,
        name: str,
        namespace: str | None = None,
        timeout_s: float | None = None,
        until: Callable[[DeepSeekJob], bool] | None = None,
    ) -> DeepSeekJob:
        """Waits until the job ended, or until `until` says so; answers it as it is then.

        Raises:
            NotFoundError: it is not there, or was deleted meanwhile.
            WaitTimeoutError: not within timeout_s.
        """
        job = None
        for job in self.watch(name, namespace, timeout_s=timeout_s):
            if until is not None and until(job):
                return job
        if job is None or (until is not None and not until(job)):
            raise ClientError(f"job {name}: ended without what was waited for; look at its conditions")
        return job

    def delete(self, name: str, namespace: str | None = None) -> None:
        """Deletes a job; Kubernetes collects its pods.

        Raises:
            NotFoundError: there is none of this name.
        """
        with api_errors(f"job {name}"):
            self._objects.delete_namespaced_custom_object(
                GROUP, VERSION, namespace or self.namespace, PLURAL, name, propagation_policy="Background"
            )

    def suspend(self, name: str, namespace: str | None = None) -> DeepSeekJob:
        """Stops a job: its pods save and go. `resume` goes on from its last checkpoint.

        Raises:
            NotFoundError: there is none of this name.
        """
        return self._patch(name, namespace, {"suspend": True})

    def resume(self, name: str, namespace: str | None = None) -> DeepSeekJob:
        """Lets a suspended job go on.

        Raises:
            NotFoundError: there is none of this name.
        """
        return self._patch(name, namespace, {"suspend": False})

    def scale(self, name: str, replicas: int, namespace: str | None = None) -> DeepSeekJob:
        """Gives a job that is elastic or suspended another number of workers.

        Raises:
            NotFoundError: there is none of this name.
            ClientError: the API server refused it: the job is neither, or the number is out of its bounds.
        """
        return self._patch(name, namespace, {"workers": {"replicas": replicas}})

    def _patch(self, name: str, namespace: str | None, spec: dict[str, Any]) -> DeepSeekJob:
        with api_errors(f"job {name}"):
            return _job(
                self._objects.patch_namespaced_custom_object(
                    GROUP, VERSION, namespace or self.namespace, PLURAL, name, {"spec": spec}
                )
            )

    def pods(self, name: str, namespace: str | None = None) -> Pods:
        """The newest worker pod of every slot, by slot."""
        with api_errors(f"pods of job {name}"):
            answer = self.core.list_namespaced_pod(
                namespace or self.namespace, label_selector=f"{LABEL_JOB_NAME}={name}"
            )
        newest: dict[int, Pod] = {}
        for item in answer.items:
            pod = _pod(item)
            if pod.slot not in newest or newest[pod.slot].incarnation < pod.incarnation:
                newest[pod.slot] = pod
        return [newest[slot] for slot in sorted(newest)]

    def logs(self, pod: str, namespace: str | None = None, follow: bool = False) -> Iterator[str]:
        """Lines of a worker pod's output.

        Raises:
            NotFoundError: there is no such pod.
            ClientError: it has no output yet.
        """
        with api_errors(f"pod {pod}"):
            stream = self.core.read_namespaced_pod_log(
                pod, namespace or self.namespace, container=CONTAINER, follow=follow, _preload_content=False
            )
        try:
            rest = b""
            for chunk in stream.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")
        finally:
            stream.release_conn()


def _pod(item: Any) -> Pod:
    labels = item.metadata.labels
    try:
        node_rank = int(json.loads(item.metadata.annotations[ANNOTATION_MEMBERSHIP])["nodeRank"])
    except (TypeError, ValueError, KeyError):
        node_rank = None
    return Pod(item.metadata.name, int(labels[LABEL_SLOT]), int(labels[LABEL_INCARNATION]), node_rank)


def _body(job: DeepSeekJob | dict[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(job, DeepSeekJob):
        body = job.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)
        body |= {"apiVersion": job.api_version, "kind": job.kind}
        source = f"job {job.metadata.name}"
    else:
        body = dict(job) if isinstance(job, dict) else manifest.load(job)
        source = "manifest" if isinstance(job, dict) else str(job)
    manifest.parse(body, source)
    body.pop("status", None)
    return body


def _job(answer: dict[str, Any]) -> DeepSeekJob:
    """A newer API server's object may be more than this client knows; then it says so in one line."""
    try:
        return DeepSeekJob.model_validate(answer)
    except ValueError as error:
        name = (answer.get("metadata") or {}).get("name")
        raise ClientError(f"job {name}: has fields that this client doesn't know; upgrade deepseek-client") from error


def _connect(kubeconfig: str | None, context: str | None) -> tuple[Any, str | None]:
    from kubernetes import client, config

    path = kubeconfig or os.environ.get("KUBECONFIG")  # the library would take what it was when it was imported
    try:
        api = config.new_client_from_config(config_file=path, context=context)
        contexts, current = config.list_kube_config_contexts(config_file=path)
    except (config.ConfigException, OSError) as error:
        if kubeconfig is not None or context is not None:
            raise ClientError(f"kubeconfig: {error}; check --kubeconfig and --context") from error
        try:
            config.load_incluster_config()
        except config.ConfigException:
            raise ClientError(
                f"no cluster: {str(error).rstrip('.')}; set KUBECONFIG, or use `dsj run` without a cluster"
            ) from error
        return client.ApiClient(), None
    chosen = next((c for c in contexts if c["name"] == context), current) if context else current
    return api, (chosen or {}).get("context", {}).get("namespace")


@contextmanager
def api_errors(subject: str) -> Iterator[None]:
    """The Kubernetes client's exceptions as one line each."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        message = _reason(error)
        if error.status == 404:
            raise NotFoundError(f"{subject}: {message}") from error
        raise ClientError(f"{subject}: {message}") from error
    except HTTPError as error:
        raise ClientError(f"{subject}: can't reach the API server: {' '.join(str(error).split())}") from error


def _reason(error: Any) -> str:
    """The API server's own sentence, in one line."""
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = str(error.reason)
    return " ".join(message.split()) or f"HTTP {error.status}"
