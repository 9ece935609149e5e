"""The local adapter: this machine seen as a cluster. Reads become an Observation, a Plan becomes processes.

It keeps what an API server keeps (the job, its pods and their annotations) in memory and in the work folder,
and follows the same order as the operator's apply: status first, then create, patch, delete, then Events.
Deterministic names make "already exists" a success here too. Profiles, queues, gangs, topologies and Ray are a cluster's: a job
that asks for one starts here without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from deepseek_operator.api.names import ANNOTATION_MEMBERSHIP
from deepseek_operator.api.resolve import resolve
from deepseek_operator.api.v1alpha1 import AppliedProfile, Communication, DeepSeekJob, Scheduling, Spec, Status
from deepseek_operator.decide.report import parse_report
from deepseek_operator.decide.types import DeletePod, Event, Manifest, Observation, PatchPod, Plan, Progress
from deepseek_operator.render.membership import Announced, read_announced

from deepseek_client.local import http
from deepseek_client.local.addresses import AddressBook, free_port
from deepseek_client.local.folders import Folders, write_atomically
from deepseek_client.local.launch import translate
from deepseek_client.local.pods import LocalPod
from deepseek_client.local.readiness import Readiness
from deepseek_client.local.scheduler import PodScheduler

Clock = Callable[[], float]
"""Monotonic seconds."""


class LocalWorld:
    """One job and its pods on this machine. Use as a context manager: leaving it leaves no process behind."""

    def __init__(
        self,
        job: DeepSeekJob,
        folders: Folders,
        clock: Clock = time.monotonic,
        *,
        profile: AppliedProfile | None = None,
    ) -> None:
        uid = str(uuid.uuid4())
        now = _rfc3339(datetime.now(UTC))
        metadata = job.metadata.model_copy(update={"uid": uid, "generation": 1, "creation_timestamp": now})
        spec = resolve(_of_one_machine(job.spec), None)
        self.job = job.model_copy(update={"metadata": metadata, "spec": spec, "status": Status()})
        self.profile = profile
        self.folders = folders
        self.pods: dict[str, LocalPod] = {}
        self.logs: list[str] = []
        """Names of all pods that ever ran, in order."""
        self._clock = clock
        self._service_exists = False
        self._addresses = AddressBook()
        self._ports: dict[int, int] = {}
        self._scheduler = PodScheduler(job.metadata.name)
        self._readiness = Readiness()

    def __enter__(self) -> LocalWorld:
        self._save()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- observe ------------------------------------------------------------------------------
    def observe(self) -> Observation:
        """Reads the processes, their health and node rank 0's report, once."""
        self._collect_deleted()
        for pod in self.pods.values():
            pod.sweep()
        ready = self._readiness.look({pod.name: pod.ip for pod in self.pods.values() if pod.exit_code() is None})
        for pod in self.pods.values():
            pod.ready = ready.get(pod.name, False)
        return Observation(
            now=datetime.now(UTC),
            job=self.job,
            pods=tuple(pod.observed() for pod in self.pods.values()),
            service_exists=self._service_exists,
            progress=self._progress(),
            profile=self.profile,
        )

    def _progress(self) -> Progress | None:
        pod = self._node_rank_0()
        if pod is None:
            return None
        body = http.get(pod.ip, "/progress") if pod.exit_code() is None else pod.observed().message
        return parse_report(body) if body else None

    def _node_rank_0(self) -> LocalPod | None:
        for pod in self.pods.values():
            announced = read_announced(pod.annotations.get(ANNOTATION_MEMBERSHIP))
            if announced == Announced(self.job.status.generation, node_rank=0):
                return pod
        return None

    # ---- apply --------------------------------------------------------------------------------
    def apply(self, plan: Plan) -> tuple[Event, ...]:
        """Makes a plan true, and answers its Events.

        Raises:
            ClientError: a pod can't be started here.
        """
        if plan.status != self.job.status:
            self.job = self.job.model_copy(update={"status": plan.status})
            self._save()
        for manifest in plan.create:
            if manifest["kind"] == "Service":
                self._service_exists = True
        pods = [manifest for manifest in plan.create if manifest["kind"] == "Pod"]
        for manifest in pods:
            self._addresses.address(manifest["metadata"]["name"])  # all names resolve before the first pod asks
        for manifest in pods:
            self._create(manifest)
        for patch in plan.patch:
            self._patch(patch)
        for deletion in plan.delete:
            self._delete(deletion)
        return plan.events

    def _create(self, manifest: Manifest) -> None:
        name = manifest["metadata"]["name"]
        if name in self.pods:
            return
        ip = self._addresses.address(name)
        launch = translate(manifest, self.folders, ip, f"local-{ip}", self._defaults())
        annotations = dict(manifest["metadata"].get("annotations", {}))
        launch.prepare(annotations, self._resolve)
        running = self._scheduler.start(name, list(launch.command), launch.env, self.folders.torchx_logs)
        self.pods[name] = LocalPod(manifest, str(uuid.uuid4()), ip, launch, running, annotations)
        self.logs.append(name)
        link = self.folders.log(name)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(running.log, link.parent))

    def _defaults(self) -> dict[str, str]:
        """What a pod of its own would bring: its share of the cores, and an interface of its own."""
        workers = self.job.spec.workers
        threads = max(1, (os.cpu_count() or 1) // (workers.replicas * workers.processes()))
        wanted = {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        return {name: value for name, value in wanted.items() if name not in os.environ}

    def _patch(self, patch: PatchPod) -> None:
        pod = self.pods.get(patch.name)
        if pod is None or pod.uid != patch.uid:
            return  # gone or replaced meanwhile: the next pass sees it
        pod.annotations |= patch.annotations
        changed = {name: pod.annotations[name] for name in patch.annotations}
        pod.launch.rewrite(changed, self._resolve)

    def _delete(self, deletion: DeletePod) -> None:
        pod = self.pods.get(deletion.name)
        if pod is not None and pod.uid == deletion.uid:
            pod.terminate(self._clock())

    def _collect_deleted(self) -> None:
        now = self._clock()
        for pod in list(self.pods.values()):
            if pod.delete_deadline is not None and (pod.exit_code() is not None or pod.overdue(now)):
                self.vanish(pod.name)

    def vanish(self, name: str) -> None:
        """Takes a pod away with everything that runs in it, without a word: what a lost machine looks like."""
        pod = self.pods.pop(name)
        pod.kill(self._scheduler)
        self._addresses.release(name)

    def log_files(self) -> list[Path]:
        """The output of every pod that ever ran, in the order of their starts."""
        return [self.folders.log(name) for name in self.logs]

    # ---- names --------------------------------------------------------------------------------
    def _resolve(self, text: str) -> str:
        """The cluster's DNS, and a store's port of its own for each generation.

        On one machine an ending generation's store and the next one's would want the same port: a listener of
        torch takes it on every address.
        """
        if not text:
            return text
        membership = json.loads(text)
        host = str(membership.get("master", "")).split(".", 1)[0]
        named = self._addresses.known(host)
        if named is not None:
            membership["master"] = named
        generation = int(membership.get("generation", 0))
        if generation not in self._ports:
            self._ports[generation] = free_port()
        membership["port"] = self._ports[generation]
        return json.dumps(membership, separators=(",", ":"))

    # ---- end ----------------------------------------------------------------------------------
    def terminate(self) -> None:
        """Deletes every pod: SIGTERM now, SIGKILL when its grace period is over."""
        for pod in self.pods.values():
            pod.terminate(self._clock())

    def gone(self) -> bool:
        """Whether every deleted pod is gone; collects those that are."""
        self._collect_deleted()
        return not any(pod.exit_code() is None for pod in self.pods.values())

    def close(self) -> None:
        """Kills what still runs, at once, and as much of it as can be. Safe to call again."""
        with contextlib.ExitStack() as ending:
            for part in (self._readiness, self._scheduler, self._addresses):
                ending.callback(part.close)
            for name in list(self.pods):
                ending.callback(self.vanish, name)

    def _save(self) -> None:
        write_atomically(
            self.folders.job_file, self.job.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
        )


def _of_one_machine(spec: Spec) -> Spec:
    """Without what is the cluster's: its queues and topologies, its interfaces and adapters, Ray over its nodes."""
    wanted = spec.communication
    network = Communication(debug=wanted.debug, timeout_seconds=wanted.timeout_seconds)
    data = spec.data.model_copy(update={"ray": None}) if spec.data is not None else None
    return spec.model_copy(update={"scheduling": Scheduling(), "communication": network, "data": data})


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
