"""How fast jobs become pods: the operator against a bare client that does nothing but create the same pods.

Both run against the same kube-apiserver (no scheduler, no kubelet) on the same cores, in turns, in one run; the
operator runs with the settings that it ships with. What exists is seen by a watch of metadata.

    pods per second    100 jobs of 8 pods at once, from the first request to the last pod
    latency            one job at a time, from its creation to its eighth pod
    writes             requests of the operator that change something, Events included, for each job
    CPU                seconds of operator, API server and etcd for each 100 pods

Prints a table and ends with one line: `ahead …` or `behind in …`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from deepseek_operator.api.names import LABEL_JOB_NAME
from deepseek_operator.api.v1alpha1 import DeepSeekJob, Master
from deepseek_operator.cluster.client import KubeClient
from deepseek_operator.cluster.credentials import BearerToken, find_credentials, open_session
from deepseek_operator.cluster.transport import METADATA_ONLY, Transport
from deepseek_operator.decide.gang import membership_of
from deepseek_operator.ratelimit import TokenBucket
from deepseek_operator.render import worker_pod
from native import binaries, controlplane
from support.api import Api
from support.bench_table import aligned, last_line
from support.crd import install
from support.kubectl import Kubectl
from support.operators import OperatorProcess

JOBS = 100
PODS = 8
SINGLES = 20
ROUNDS = 3
CONCURRENCY = 64
"""Requests under way at once: what the operator ships with."""
DEADLINE_S = 120.0
WRITES = re.compile(r'api_requests_total\{code="2..",verb="(?:create|patch|apply|update|delete)"\} ([0-9.]+)')
TICKS = os.sysconf("SC_CLK_TCK")

MIN_SHARE = 0.70
MAX_LATENCY_MS = 20.0
MAX_WRITES = 14.0
MAX_CPU_S = 0.4


@dataclass(slots=True)
class Measured:
    """All rounds."""

    bare: list[float] = field(default_factory=list)
    """Pods per second."""
    bare_cpu: list[float] = field(default_factory=list)
    """CPU seconds of API server and etcd for each 100 pods."""
    ours: list[float] = field(default_factory=list)
    ours_cpu: list[float] = field(default_factory=list)
    operator_cpu: list[float] = field(default_factory=list)
    """The operator's own part of ours_cpu."""
    writes: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)


class PodWatch:
    """Counts pods by namespace and job as the API server announces them."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self._changed = asyncio.Condition()

    async def follow(self, session: aiohttp.ClientSession, server: str) -> None:
        """Reads the watch stream for ever. The API server ends it when we are slow: then it goes on where it was."""
        version = "0"
        while True:
            query = {"watch": "true", "resourceVersion": version}
            async with session.get(f"{server}/api/v1/pods", params=query, headers={"Accept": METADATA_ONLY}) as stream:
                buffer = b""
                async for chunk in stream.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    events = [json.loads(line) for line in lines]
                    version = events[-1]["object"]["metadata"]["resourceVersion"] if events else version
                    await self._count([e["object"]["metadata"] for e in events if e["type"] == "ADDED"])

    async def _count(self, added: list[dict[str, Any]]) -> None:
        async with self._changed:
            self.seen.update((meta["namespace"], meta["labels"][LABEL_JOB_NAME]) for meta in added)
            self._changed.notify_all()

    async def wait_for(self, namespace: str, count: int, name: str | None = None) -> float:
        """The moment (perf_counter) at which that many pods of a namespace, or of one job in it, had been seen."""

        def enough() -> bool:
            if name:
                return self.seen[namespace, name] >= count
            return sum(n for (space, _), n in self.seen.items() if space == namespace) >= count

        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(enough)
        return time.perf_counter()


class Bench:
    """One control plane, one operator, and the measurements."""

    def __init__(self, directory: Path, client: KubeClient, api: Api, watch: PodWatch) -> None:
        self._directory = directory
        self._client = client
        self._api = api
        self._watch = watch
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self.result = Measured()

    async def bare_round(self, number: int) -> None:
        """The same pods, created by requests alone."""
        namespace = self._namespace(f"bare-{number}")
        manifests = [pod for index in range(JOBS) for pod in pods_of(namespace, f"job-{index}")]
        cpu, begin = cpu_s(self._directory), time.perf_counter()
        await asyncio.gather(*(self._limited(self._client.create(manifest)) for manifest in manifests))
        self.result.bare.append(len(manifests) / (time.perf_counter() - begin))
        self.result.bare_cpu.append((cpu_s(self._directory) - cpu) * 100 / len(manifests))
        await self._watch.wait_for(namespace, len(manifests))
        self._clear(namespace)

    async def our_round(self, number: int, operator: OperatorProcess) -> None:
        """The pods of as many jobs, created by the operator."""
        namespace = self._namespace(f"ours-{number}")
        pid, port = operator.process.pid, operator.port
        await self._quiet(port)
        writes, operator_cpu = writes_of(port), cpu_s(Path("/nowhere"), pid)
        cpu, begin = cpu_s(self._directory, pid), time.perf_counter()
        await asyncio.gather(*(self._limited(self._submit(namespace, f"job-{index}")) for index in range(JOBS)))
        end = await self._watch.wait_for(namespace, JOBS * PODS)
        await self._quiet(port)
        self.result.ours.append(JOBS * PODS / (end - begin))
        self.result.ours_cpu.append((cpu_s(self._directory, pid) - cpu) / JOBS / PODS * 100)
        self.result.operator_cpu.append((cpu_s(Path("/nowhere"), pid) - operator_cpu) / JOBS / PODS * 100)
        self.result.writes.append((writes_of(port) - writes) / JOBS)
        self._clear(namespace)

    async def single_jobs(self, operator: OperatorProcess) -> None:
        """One job at a time."""
        namespace = self._namespace("single")
        for index in range(SINGLES):
            await self._quiet(operator.port)
            begin = time.perf_counter()
            await self._submit(namespace, f"job-{index}")
            end = await self._watch.wait_for(namespace, PODS, f"job-{index}")
            self.result.latency_ms.append((end - begin) * 1000)
        self._clear(namespace)

    async def _submit(self, namespace: str, name: str) -> None:
        body = job_of(namespace, name)
        await self._client._http.send(
            "create", f"/apis/training.deepseekjob.dev/v1alpha1/namespaces/{namespace}/deepseekjobs", body=body
        )

    async def _limited(self, work: Any) -> None:
        async with self._slots:
            await work

    async def _quiet(self, port: int) -> None:
        """Waits until the operator has written nothing for a while."""
        before = -1.0
        while before != (now := writes_of(port)):
            before = now
            await asyncio.sleep(1.0)

    def _clear(self, namespace: str) -> None:
        """What was measured must not take part in the next round."""
        for kind in ("deepseekjobs", "pods"):
            group = "/api/v1" if kind == "pods" else "/apis/training.deepseekjob.dev/v1alpha1"
            self._api.delete(f"{group}/namespaces/{namespace}/{kind}", grace_s=0)

    def _namespace(self, name: str) -> str:
        self._api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        return name


def job_of(namespace: str, name: str) -> dict[str, Any]:
    """A job of PODS pods that runs a script."""
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "workers": {"replicas": PODS, "image": "example.org/trainer:1"},
            "entrypoint": {"script": "/train.py"},
        },
    }


def pods_of(namespace: str, name: str) -> list[dict[str, Any]]:
    """The pods that the operator would create for it."""
    job = DeepSeekJob.model_validate(job_of(namespace, name))
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": f"uid-of-{name}"})})
    status = job.status.model_copy(
        update={
            "generation": 1,
            "attempt": 1,
            "nodes": job.status.nodes.model_copy(update={"desired": PODS}),
            "master": Master(slot=0, address=f"{name}-worker-0-0.{name}-workers.{namespace}.svc"),
        }
    )
    return [worker_pod(job, slot, 0, membership_of(job, status, slot)) for slot in range(PODS)]


def writes_of(port: int) -> float:
    """Writes of the operator so far, from its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return sum(map(float, WRITES.findall(response.read().decode())))


def cpu_s(directory: Path, *pids: int) -> float:
    """CPU seconds of the control plane in that directory, and of some processes."""
    total = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = int(process.name) in pids or str(directory).encode() in (process / "cmdline").read_bytes()
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        if ours and int(process.name) != os.getpid():
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


@asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[tuple[Bench, Path]]:
    """A control plane with the CRD, and a client of it."""
    kubectl = binaries.ensure("etcd", "kube-apiserver", "kubectl")["kubectl"]
    with controlplane.running(directory, controlplane.Settings(bound_to_parent=True)) as plane:
        install(Kubectl(kubectl, plane.kubeconfig))
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        credentials = find_credentials()
        token = BearerToken(credentials)
        watch = PodWatch()
        async with (
            open_session(credentials, token, connections=CONCURRENCY, timeout_s=60) as session,
            open_session(credentials, token) as endless,
        ):
            client = KubeClient(Transport(session, credentials.server, token, TokenBucket(1e6, 1e6, time.monotonic)))
            following = asyncio.create_task(watch.follow(endless, credentials.server))
            try:
                with Api(plane.kubeconfig) as api:
                    yield Bench(directory, client, api, watch), plane.kubeconfig
            finally:
                following.cancel()


async def measure(directory: Path) -> Measured:
    """All rounds, in turns."""
    async with bench(directory) as (runs, kubeconfig):
        with OperatorProcess(kubeconfig, directory / "operator.log", leader_election=False) as operator:
            operator.wait_for("leading", deadline_s=60)
            await runs.single_jobs(operator)
            for number in range(ROUNDS):
                await runs.bare_round(number)
                await runs.our_round(number, operator)
        return runs.result


def verdict(result: Measured) -> str:
    """Prints the table; returns the last line."""
    median = statistics.median
    share = median(result.ours) / median(result.bare)
    latency, writes, cpu = median(result.latency_ms), max(result.writes), median(result.ours_cpu)
    rows = [
        (
            "pods per second",
            f"{median(result.bare):.0f}",
            f"{median(result.ours):.0f}",
            f"{share:.2f} of bare",
            f">= {MIN_SHARE}",
            share >= MIN_SHARE,
        ),
        (
            "latency p50, ms",
            "-",
            f"{latency:.1f}",
            f"{latency / MAX_LATENCY_MS:.2f} of target",
            f"<= {MAX_LATENCY_MS:.0f}",
            latency <= MAX_LATENCY_MS,
        ),
        (
            "API writes per job",
            f"{PODS}",
            f"{writes:.1f}",
            f"{writes / PODS:.2f} of bare",
            f"<= {MAX_WRITES:.0f}",
            writes <= MAX_WRITES,
        ),
        (
            "CPU s per 100 pods",
            f"{median(result.bare_cpu):.2f}",
            f"{cpu:.2f}",
            f"{cpu / median(result.bare_cpu):.2f} of bare",
            f"<= {MAX_CPU_S}",
            cpu <= MAX_CPU_S,
        ),
    ]
    print(f"{JOBS} jobs x {PODS} pods, {ROUNDS} rounds in turns; {SINGLES} single jobs; medians")
    print(aligned([("", "bare client", "operator", "ratio", "target"), *(row[:-1] for row in rows)]))
    print(f"of the CPU, the operator itself: {median(result.operator_cpu):.2f} s per 100 pods")
    missed = [f"{name} ({ratio}, target {target})" for name, _, _, ratio, target, reached in rows if not reached]
    return last_line(missed, "all four")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        result = asyncio.run(measure(Path(directory)))
    print(verdict(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
