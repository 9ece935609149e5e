"""All-reduces in groups that come and go, each bounded in time; gloo's and NCCL's process groups, without a world.

torch's `init_process_group` keeps global counters that differ between two processes once one of their groups has
failed, and they then never meet again. A process group by itself needs only a store and a name that both know.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # exported by a star

WARM_UP_BYTES = 64 * 1024
PROBE_BYTES = 512 * 1024
MAX_BYTES = {"gloo": 64 * 1024**2, "nccl": 512 * 1024**2}
REPEATS = 3
REPEAT_S = 0.1
"""About how long one measured all-reduce takes, where there is the time."""


def measure(store: Store, name: str, *, rank: int, size: int, device: torch.device, until: float) -> float | None:
    """Megabits a second, in each direction, of all-reduces in a group; None in a group of one.

    Args:
        name: of the group; the same for all of its members and used once.
        until: monotonic seconds at which it has to be over.

    Raises:
        RuntimeError: a member did not come, went away or took too long.
    """
    group = _make(PrefixStore(name, store), rank, size, device, _left(until))
    try:
        _seconds(group, WARM_UP_BYTES, device, until)
        probe_s = _seconds(group, PROBE_BYTES, device, until)
        # All ranks must come to the same size: that of the slowest, and of the one with the least time.
        probe_s, less_left_s = _greatest(group, (probe_s, -_left(until).total_seconds()), device, until)
        wanted_s = min(REPEAT_S, -less_left_s / (4 * REPEATS))
        size_bytes = _size(probe_s, wanted_s, MAX_BYTES["nccl" if device.type == "cuda" else "gloo"])
        own_s = min(_seconds(group, size_bytes, device, until) for _ in range(REPEATS))
        (best_s,) = _greatest(group, (own_s,), device, until)
    finally:
        group.abort() if device.type == "cuda" else group.shutdown()
    return None if size == 1 else 2 * (size - 1) / size * size_bytes * 8 / best_s / 1e6


def _make(store: Store, rank: int, size: int, device: torch.device, timeout: timedelta) -> Any:
    if device.type != "cuda":
        return dist.ProcessGroupGloo(store, rank, size, timeout=timeout)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _seconds(group: Any, size_bytes: int, device: torch.device, until: float) -> float:
    """How long an all-reduce of that size takes on this rank."""
    tensor = torch.zeros(size_bytes // 4, dtype=torch.float32, device=device)
    _synchronize(device)
    began = time.perf_counter()
    _all_reduce(group, tensor, dist.ReduceOp.SUM, until)
    _synchronize(device)
    return time.perf_counter() - began


def _greatest(group: Any, values: tuple[float, ...], device: torch.device, until: float) -> list[float]:
    """The greatest of all ranks' values."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    _all_reduce(group, tensor, dist.ReduceOp.MAX, until)
    return [float(value) for value in tensor.tolist()]


def _all_reduce(group: Any, tensor: torch.Tensor, operation: Any, until: float) -> None:
    options = dist.AllreduceOptions()
    options.reduceOp = operation
    options.timeout = _left(until)
    group.allreduce([tensor], options).wait()


def _size(probe_s: float, wanted_s: float, most: int) -> int:
    """Bytes of an all-reduce that takes about as long as is wanted; a power of two times the probe's."""
    size = PROBE_BYTES
    while size < most and probe_s * (2 * size / PROBE_BYTES) <= wanted_s:
        size *= 2
    return size


def _left(until: float) -> timedelta:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise RuntimeError("no time was left for it")
    return timedelta(seconds=left_s)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
