"""A fake kubelet: it binds pods to a node that isn't there and writes what a kubelet would write to their status.

By itself it takes every Pending pod to Running and lets pods go that are being deleted. How a pod ends is the
test's to say: `finish` with an exit status and a termination message.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import count
from typing import Any

from support.api import PODS, Api, ApiFailure

MANAGED = "?labelSelector=app.kubernetes.io/managed-by=deepseek-operator"
CONTAINER = "worker"
FULL = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}


def found_no_room(pod: Mapping[str, Any]) -> bool:
    """The pod is marked as Unschedulable. The API server adds fields of its own to the condition."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition.items() >= FULL.items() for condition in conditions)


class Kubelet:
    """A node for one namespace. As a context manager it works in a thread of its own."""

    def __init__(
        self, api: Api, namespace: str, *, node: str = "node-0", ip: str | None = None, host_ip: str | None = None
    ) -> None:
        """Args: ip: of every pod; host_ip: of the node."""
        self._api = api
        self._path = PODS.format(ns=namespace)
        self._node = node
        self._ip = ip
        self._host = {"hostIP": host_ip, "hostIPs": [{"ip": host_ip}]} if host_ip else {}
        self._ips = count(1)
        self._stop = threading.Event()
        self.room: int | None = None
        """So many pods may run at a time; the others are Unschedulable. None: all."""
        self._one_writer = threading.Lock()
        """A pod that the thread saw Pending must not be ended by the test before the thread has written Running."""
        self._thread: threading.Thread | None = None
        self.errors: list[Exception] = []

    def __enter__(self) -> Kubelet:
        self._thread = threading.Thread(target=self._loop, name=f"kubelet {self._node}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(10)

    def sync(self) -> None:
        """One look at all pods."""
        with self._one_writer:
            self._sync()

    def _sync(self) -> None:
        pods = self._api.items(self._path + MANAGED)
        running = sum(1 for pod in pods if pod.get("status", {}).get("phase") == "Running")
        for pod in pods:
            name, phase = pod["metadata"]["name"], pod.get("status", {}).get("phase", "Pending")
            try:
                if "deletionTimestamp" in pod["metadata"]:
                    self._api.delete(f"{self._path}/{name}", grace_s=0)
                elif phase == "Pending" and (self.room is None or running < self.room):
                    self.run(pod)
                    running += 1
                elif phase == "Pending" and not found_no_room(pod):
                    self._write(name, {"conditions": [FULL]})
            except ApiFailure as error:
                if error.status not in (404, 409):  # the pod is gone or was changed: look again
                    raise

    def run(self, pod: Mapping[str, Any]) -> None:
        """Binds the pod, gives it an address and starts its container."""
        name = pod["metadata"]["name"]
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": self._node}
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            self._api.create(f"{self._path}/{name}/binding", body)
        number = next(self._ips)
        address = self._ip or f"10.99.{number // 250 % 250}.{number % 250 + 1}"
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        self._write(
            name,
            {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                **self._host,
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [_container(running, ready=True)],
                "initContainerStatuses": [
                    _container(running, ready=True, name=helper["name"])
                    for helper in pod["spec"].get("initContainers", ())
                    if helper.get("restartPolicy") == "Always"
                ],
            },
        )

    def finish(self, name: str, exit_code: int = 0, message: str = "", reason: str = "") -> None:
        """Ends the pod's container."""
        with self._one_writer:
            self._finish(name, exit_code, message, reason)

    def _finish(self, name: str, exit_code: int, message: str, reason: str) -> None:
        ended = {"exitCode": exit_code, "reason": reason or ("Completed" if exit_code == 0 else "Error")}
        self._write(
            name,
            {
                "phase": "Succeeded" if exit_code == 0 else "Failed",
                "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [_container({"terminated": {**ended, "message": message}}, ready=False)],
            },
        )

    def _write(self, name: str, status: Mapping[str, Any]) -> None:
        self._api.merge(f"{self._path}/{name}/status", {"status": status})

    def _loop(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self.sync()
            except Exception as error:  # shown by the test that fails because of it
                self.errors.append(error)


def _container(state: Mapping[str, Any], *, ready: bool, name: str = CONTAINER) -> dict[str, Any]:
    return {
        "name": name,
        "image": "example.org/trainer:1",
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }
