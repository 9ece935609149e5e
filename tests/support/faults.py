"""What befalls a worker pod of a cluster on this machine: its processes are found here, and killed or frozen from outside.

Nothing in the pod helps: as on a machine whose kernel kills a process, or whose GPU hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_RAY = b"deepseek_trainer.raycluster"
"""The raylet beside a worker has the same environment."""
_ZYGOTE, _STANDS_FOR_A_FORK = b"deepseek_trainer.agent.zygote", b"agent/exec.py"


@dataclass(frozen=True, slots=True)
class PodProcesses:
    """PIDs of one worker pod as this machine has them."""

    agent: int
    ranks: tuple[int, ...]
    """The training processes themselves."""
    all: tuple[int, ...]


def processes_of(pod: str, namespace: str) -> PodProcesses:
    """The pod's processes.

    Raises:
        LookupError: no agent of this pod runs on this machine.
    """
    agents = [pid for pid in _first(pod, namespace) if _RAY not in _read(pid, "cmdline")]
    if len(agents) != 1:
        raise LookupError(f"pod {pod} has {len(agents)} agents on this machine")
    tree = _tree(agents[0])
    return PodProcesses(agents[0], tuple(pid for pid in tree[1:] if _is_rank(pid, agents[0])), tuple(tree))


def ray_processes(pod: str, namespace: str) -> tuple[int, ...]:
    """PIDs of the pod's container of Ray, its first process first.

    Raises:
        LookupError: no such container runs on this machine.
    """
    keepers = [pid for pid in _first(pod, namespace) if _RAY in _read(pid, "cmdline")]
    if not keepers:
        raise LookupError(f"pod {pod} has no container of Ray on this machine")
    return tuple(_tree(keepers[0]))


def kill_ray(pod: str, namespace: str) -> None:
    """SIGKILL to all of them: the container ends."""
    for pid in ray_processes(pod, namespace):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory_mib(pids: Sequence[int]) -> int:
    """What these processes use, pages that several share counted once."""
    lines = [line for pid in pids for line in _read(pid, "smaps_rollup").splitlines() if line.startswith(b"Pss:")]
    return sum(int(line.split()[1]) for line in lines) // 1024


def kill_rank(pod: str, namespace: str) -> None:
    """SIGKILL to the pod's first training process."""
    os.kill(_first_rank(pod, namespace), signal.SIGKILL)


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """These processes stand still for as long as the block, but for those that end before or meanwhile."""
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def end_of(pids: Sequence[int]) -> bool:
    """Whether none of these processes runs any more."""
    return all(_read(pid, "stat").rpartition(b")")[2].split()[:1] in ([], [b"Z"]) for pid in pids)


def require_processes(pod: str, namespace: str, find: Callable[[str, str], object] = processes_of) -> None:
    """Skips the test where the cluster's containers are not processes of this machine; those of the native one are."""
    try:
        find(pod, namespace)
    except LookupError as error:
        if not os.environ.get("KUBECONFIG"):
            raise
        pytest.skip(f"needs root and a cluster whose containers run on this machine: {error}")


def _first(pod: str, namespace: str) -> list[int]:
    """The first process of each of the pod's containers."""
    marks = {f"DEEPSEEKJOB_POD_NAME={pod}".encode(), f"DEEPSEEKJOB_NAMESPACE={namespace}".encode()}
    marked = [pid for pid in _pids() if marks <= set(_read(pid, "environ").split(b"\0"))]
    return [pid for pid in marked if _parent(pid) not in marked]


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents = {pid: _parent(pid) for pid in _pids()}
    tree = [root]
    for pid in tree:  # grows while it is read
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _first_rank(pod: str, namespace: str) -> int:
    ranks = processes_of(pod, namespace).ranks
    if not ranks:
        raise LookupError(f"pod {pod} has no training process")
    return ranks[0]


def _is_rank(pid: int, agent: int) -> bool:
    """Whether it is a child of the agent that is neither its zygote nor stands for a fork of that, or such a fork."""
    if _parent(pid) != agent:
        return _parent(_parent(pid)) == agent and _is_zygote(_parent(pid), agent)
    return not _is_zygote(pid, agent) and _STANDS_FOR_A_FORK not in _read(pid, "cmdline")


def _is_zygote(pid: int, agent: int) -> bool:
    """Whether a child of an agent is its fork, or a zygote that was started after the first was lost."""
    command = _read(pid, "cmdline")
    return command == _read(agent, "cmdline") or _ZYGOTE in command


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _parent(pid: int) -> int:
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"PPid:"):
            return int(line.split()[1])
    return 0
