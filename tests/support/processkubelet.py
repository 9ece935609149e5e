"""Nodes whose pods are processes: on a real API server they start the real agents that the real operator asks for.

What a kubelet does is done here with the local mode's parts: each pod has a loopback address of its own, its volumes are
folders, its downward-API files follow its annotations. The scheduler is played as well (the emptiest node that is up; it
knows no affinity). Agents and their processes are forks of one zygote: two cores would otherwise import torch all day.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_client.local.addresses import AddressBook
from deepseek_client.local.folders import Folders
from deepseek_client.local.launch import translate
from deepseek_client.local.readiness import Readiness
from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP
from support import paced
from support.api import PODS, Api, ApiFailure, Object
from support.kubelet import CONTAINER, MANAGED
from support.playednodes import PlayedNodes
from support.podprocess import PodProcess
from support.ports import free_port
from support.zygote import Zygote

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", paced.STEP_S: "0.1"}
_POLL_S = 0.3


class ProcessKubelet:
    """The nodes of one namespace, at work while it is entered. `errors` has what went wrong in its thread."""

    def __init__(self, api: Api, namespace: str, root: Path, zygote: Zygote, *, nodes: int = 2) -> None:
        self._api = api
        self._path = PODS.format(ns=namespace)
        self._folders = Folders(root)
        self._book = AddressBook()
        self._port = free_port()
        self._zygote = zygote
        self._readiness = Readiness()
        self._pods: dict[str, PodProcess] = {}
        self._written: dict[str, tuple[int | None, bool]] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="kubelet", daemon=True)
        self._nodes = PlayedNodes(api, [f"{namespace}-node-{number}" for number in range(nodes)])
        self.errors: list[Exception] = []

    def __enter__(self) -> ProcessKubelet:
        self._nodes.create()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        for pod in self._pods.values():
            pod.kill()
        self._book.close()
        self._readiness.close()
        self._nodes.delete()

    # -- to be looked at, and broken -----------------------------------------------------------------------

    def claim(self, name: str) -> Path:
        """The folder that stands for a PersistentVolumeClaim."""
        return self._folders.claim(name)

    def up(self) -> tuple[str, ...]:
        """The nodes that are up."""
        return self._nodes.up()

    def running(self) -> dict[str, PodProcess]:
        """Pods whose container runs, by name."""
        with self._lock:
            return {pod.name: pod for pod in self._pods.values() if pod.exit_code() is None}

    def logs(self, prefix: str = "") -> dict[str, str]:
        """What all pods have printed whose names begin so, those that are gone as well."""
        found = (self._folders.root / "logs").glob(f"{prefix}*.log")
        return {path.stem: path.read_text(errors="replace") for path in sorted(found)}

    def kill_process(self, name: str, rank: int) -> None:
        """SIGKILL for one training process."""
        if pod := self.running().get(name):
            pod.signal_process(rank, signal.SIGKILL)

    def freeze(self, name: str, rank: int | None = None) -> None:
        """SIGSTOP for one training process, or for all that runs in the pod."""
        pod = self.running().get(name)
        if pod and rank is not None:
            pod.signal_process(rank, signal.SIGSTOP)
        elif pod:
            pod.signal_all(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """All of the pod's processes go on."""
        if pod := self.running().get(name):
            pod.signal_all(signal.SIGCONT)

    def node_kill(self, node: str) -> None:
        """The node loses power."""
        with self._lock:
            self._nodes.silence(node)
            for uid, pod in list(self._pods.items()):
                if pod.node == node:
                    self._forget(uid)

    def node_start(self, node: str) -> None:
        """The node is back, without the pods that it had."""
        with self._lock:
            self._nodes.revive(node)

    # -- the kubelets --------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                with self._lock:
                    self._sync()
            except Exception as error:  # shown by the test that fails because of it
                self.errors.append(error)

    def _sync(self) -> None:
        """One look at all pods of the namespace."""
        found = {pod["metadata"]["uid"]: pod for pod in self._api.items(self._path + MANAGED)}
        for uid in set(self._pods) - set(found):  # deleted by force
            self._forget(uid)
        self._nodes.control(self._path, found.values())
        for raw in found.values():
            self._book.address(raw["metadata"]["name"])  # all names resolve before the first pod asks
        ready = self._readiness.look({pod.name: pod.ip for pod in self._pods.values() if pod.exit_code() is None})
        for uid, raw in found.items():
            try:
                self._serve(uid, raw, ready)
            except ApiFailure as error:
                if error.status not in (404, 409):  # the pod is gone or was changed: look again
                    raise

    def _serve(self, uid: str, raw: Object, ready: Mapping[str, bool]) -> None:
        node, pod = raw["spec"].get("nodeName"), self._pods.get(uid)
        if node is None:
            self._bind(raw)
        elif node not in self._nodes.up():
            return
        elif pod is None:
            self._start_or_end(uid, raw, node)
        else:
            if "deletionTimestamp" in raw["metadata"]:
                self._delete(uid, pod)
            elif pod.exit_code() is None:
                self._follow(pod, raw)
            self._write(pod, ready=ready.get(pod.name, False))

    def _bind(self, raw: Object) -> None:
        up = self.up()
        if up:
            name = raw["metadata"]["name"]
            node = min(up, key=lambda each: sum(pod.node == each for pod in self._pods.values()))
            body = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            }
            self._api.create(f"{self._path}/{name}/binding", body)
            raw["spec"]["nodeName"] = node
            self._start_or_end(raw["metadata"]["uid"], raw, node)

    def _start_or_end(self, uid: str, raw: Object, node: str) -> None:
        """A pod without processes: one that is new, or one that had them when its node went down."""
        name, phase = raw["metadata"]["name"], raw["status"].get("phase", "Pending")
        if "deletionTimestamp" in raw["metadata"]:
            self._remove(name, uid)
        elif phase == "Pending" and self._resolves(raw["metadata"].get("annotations", {}).get(ANNOTATION_MEMBERSHIP)):
            ip = self._book.address(name)
            launch = translate(raw, self._folders, ip, node, ENVIRONMENT)
            annotations = dict(raw["metadata"].get("annotations", {}))
            launch.prepare(annotations, self._resolve)
            log = self._folders.log(name)
            self._pods[uid] = PodProcess(uid, node, ip, launch, annotations, log, self._zygote)
            self._write(self._pods[uid], ready=False)
        elif phase == "Running":
            ended = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}
            self._patch(name, {"phase": "Failed", **_conditions(False), **_containers(ended, ready=False)})

    def _follow(self, pod: PodProcess, raw: Object) -> None:
        annotations = dict(raw["metadata"].get("annotations", {}))
        if annotations != pod.annotations:
            pod.annotations = annotations
            files = {file.annotation: annotations.get(file.annotation, "") for file in pod.launch.files}
            pod.launch.rewrite(files, self._resolve)

    def _delete(self, uid: str, pod: PodProcess) -> None:
        """SIGTERM; SIGKILL when the grace is over; then the object goes."""
        now = time.monotonic()
        pod.terminate(now)
        if pod.exit_code() is None and pod.overdue(now):
            pod.kill()
        if pod.exit_code() is not None:
            self._write(pod, ready=False)
            self._remove(pod.name, uid)
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        pod = self._pods.pop(uid)
        self._written.pop(uid, None)
        pod.kill()
        self._book.release(pod.name)

    def _write(self, pod: PodProcess, *, ready: bool) -> None:
        """The pod's status, when it has changed."""
        code = pod.exit_code()
        if self._written.get(pod.uid) != (code, ready) and pod.uid in self._pods:
            address = {"podIP": pod.ip, "podIPs": [{"ip": pod.ip}]}
            phase = "Running" if code is None else "Failed" if code else "Succeeded"
            ready = ready and code is None
            status = {"phase": phase, **address, **_conditions(ready), **_containers(pod.state(), ready=ready)}
            self._patch(pod.name, status)
            self._written[pod.uid] = (code, ready)

    def _resolves(self, text: str | None) -> bool:
        """Whether the store's host has an address; its pod may be made a moment after one that will ask for it."""
        master = json.loads(text)["master"] if text else ""
        return not master.endswith(".svc") or self._book.known(master.split(".", 1)[0]) is not None

    def _resolve(self, text: str) -> str:
        """The cluster's DNS; and a port for the stores that nobody else on this machine has."""
        if not text:
            return text
        membership = json.loads(text)
        membership["master"] = self._book.known(membership["master"].split(".", 1)[0]) or membership["master"]
        return json.dumps(membership | {"port": self._port})

    # -- writing -------------------------------------------------------------------------------------------

    def _patch(self, name: str, status: Mapping[str, Any]) -> None:
        self._api.merge(f"{self._path}/{name}/status", {"status": status})

    def _remove(self, name: str, uid: str) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        self._api.send("DELETE", f"{self._path}/{name}", body)


def _conditions(ready: bool) -> Object:
    return {"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]}


def _containers(state: Object, *, ready: bool) -> Object:
    container = {
        "name": CONTAINER,
        "image": "trainer",
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }
    return {"containerStatuses": [container]}
