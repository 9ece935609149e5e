"""What a lease costs a rank: an `add` to the store in which the ranks have met anyway, beside a call of a Ray actor.

The rank is a process that has imported torch, as each has that trains. Over the store it becomes a client of the one that
the generation has; over Ray it becomes a driver of a cluster of a head and a node, which are there, and an actor counts.
Measured are the seconds and the memory until it could ask for its first lease, and the time of one lease.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from support.bench_table import Row
from support.ports import free_port
from support.raynodes import RayCluster

GCS = 25000
LEASES, WARM = 1000, 50
DEADLINE_S = 300.0


def rows() -> list[Row]:
    """Measures both ways."""
    store, ray = _over_store(), _over_ray()
    return [
        Row("lease", store["lease_ms"], ray["lease_ms"], "ms", better="lower", against="Ray actor"),
        Row("rank ready to lease", store["ready_s"], ray["ready_s"], "s", better="lower", against="Ray driver"),
        Row(
            "memory of a rank for it",
            store["memory_mib"],
            ray["memory_mib"],
            "MiB",
            better="lower",
            against="Ray driver",
        ),
    ]


def _over_store() -> dict[str, float]:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported by a star

    port = free_port()
    server = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    measured = _rank("store", {"STORE_PORT": str(port)})
    del server
    return measured


def _over_ray() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cluster = RayCluster(Path(folder), GCS)
        try:
            cluster.start(nodes=1)
            return _rank("ray", cluster.environment())
        finally:
            cluster.end()


def _rank(way: str, environ: Mapping[str, str]) -> dict[str, float]:
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, __file__, way],
        env={**os.environ, **environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the rank over {way} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(connect: Callable[[], Callable[[], int]]) -> dict[str, float]:
    """In the rank.

    Args:
        connect: gives what takes a lease.
    """
    before, began = _resident_mib(), time.perf_counter()
    lease = connect()
    ready_s = time.perf_counter() - began
    taken = [lease() for _ in range(WARM)]
    times = []
    for _ in range(LEASES):
        began = time.perf_counter()
        taken.append(lease())
        times.append(time.perf_counter() - began)
    if taken != list(range(1, WARM + LEASES + 1)):
        sys.exit(f"leases were not counted up: {taken[:10]}")
    return {
        "ready_s": ready_s,
        "lease_ms": statistics.median(times) * 1000,
        "memory_mib": max(0.1, _resident_mib() - before),
    }


def _to_store() -> Callable[[], int]:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported by a star

    store = TCPStore("127.0.0.1", int(os.environ["STORE_PORT"]), timeout=timedelta(seconds=60))
    return lambda: store.add("leases", 1)


def _to_ray() -> Callable[[], int]:
    from deepseek_trainer.raycluster import session

    session.connect(os.environ)
    import ray

    class Leases:
        count = 0

        def take(self) -> int:
            self.count += 1
            return self.count

    leases: Any = ray.remote(num_cpus=0)(Leases).remote()
    return lambda: int(ray.get(leases.take.remote()))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    importlib.import_module("torch.distributed")  # as a rank has
    print(json.dumps(measure({"store": _to_store, "ray": _to_ray}[sys.argv[1]])))
