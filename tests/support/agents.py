"""Real agents as processes: each is a pod on a loopback address of its own, with files where a pod has volumes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from deepseek_trainer.agent import exec
from support.eventually import eventually
from support.ports import free_port
from support.zygote import Forked, Zygote, fork_of

DEADLINE_S = 240.0
"""On a busy machine torch alone takes half a minute to import, in the agent and then in its processes."""

SCRIPT = Path(__file__).with_name("tiny_training.py")
PLAIN = {exec.ZYGOTE: ""}
"""Variables of a pod that is no fork, and whose processes are none."""
_HOSTS = iter(range(2, 250))


class AgentProcess:
    """An agent as a process, in a folder of its own, and its training processes.

    With a zygote the agent is a fork of it, and so are its processes; without, every one of them imports torch.
    """

    def __init__(
        self, folder: Path, name: str, command: list[str], environ: dict[str, str], zygote: Zygote | None = None
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self._log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | Forked
        if zygote is not None:
            self.process = zygote.start(command, environ=os.environ | zygote.environ | environ, log=self._log)
            return
        # Agents die with the test run, however that ends, as training processes die with their agent.
        bound = [sys.executable, "-S", exec.__file__, str(os.getpid())]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*bound, *command],
                env=os.environ | environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def children(self) -> list[int]:
        """PIDs of the training processes; of a prewarmed one, of the process that stands for it."""
        return [pid for pid in _children(self.process.pid) if not _is_zygote(pid, self.process.pid)]

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """The whole pod at once, as when its node loses power. Its training processes die with the agent."""
        self.process.kill()
        self.process.wait()

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Exit status of the agent."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {deadline_s:g} s:\n{self.log()}") from None


class Pod(AgentProcess):
    """One agent of ours. `command` is what follows the agent's own name."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *command: str,
        ip: str = "127.0.0.2",
        zygote: Zygote | None = None,
        **environ: str,
    ) -> None:
        self.ip = ip
        self.port = free_port()
        self.membership = folder / name / "membership.json"
        self.termination_log = folder / name / "termination-log"
        pod_environ = {
            "DEEPSEEKJOB_NAME": "job",
            "DEEPSEEKJOB_UID": "uid-1",
            "DEEPSEEKJOB_POD_NAME": name,
            "DEEPSEEKJOB_POD_IP": self.ip,
            "DEEPSEEKJOB_AGENT_PORT": str(self.port),
            "DEEPSEEKJOB_MEMBERSHIP_FILE": str(self.membership),
            "DEEPSEEKJOB_RUN_DIR": str(folder / name / "run"),
            "DEEPSEEKJOB_TERMINATION_LOG": str(self.termination_log),
        }
        agent = [sys.executable, "-m", "deepseek_trainer.agent", *command]
        super().__init__(folder, name, agent, pod_environ | environ, zygote)

    def write_membership(self, text: str) -> None:
        """As kubelet does: the file changes as a whole."""
        staged = self.membership.with_suffix(".staged")
        staged.write_text(text)
        staged.replace(self.membership)

    def trainers(self) -> list[int]:
        """PIDs of the training processes themselves, forked or not."""
        return [fork_of(pid) or pid for pid in self.children()]

    def zygotes(self) -> list[int]:
        """PIDs of the processes from which training processes are forked."""
        return [pid for pid in _children(self.process.pid) if _is_zygote(pid, self.process.pid)]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.ip}:{self.port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def progress(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/progress")))

    def step(self) -> int:
        """Optimizer steps done, as the pod's progress has them."""
        return int(self.progress().get("step") or 0)

    def last_words(self) -> dict[str, Any]:
        return dict(json.loads(self.termination_log.read_bytes()))

    def freeze(self) -> list[int]:
        """Stops all processes of the pod; answers their PIDs, for `thaw`."""
        pids = family(self.process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def training_processes(agent: int) -> list[int]:
    """PIDs of the processes that train under an agent: forks of its own or another zygote, or its children."""
    children = _children(agent)
    forks = [fork for pid in children if _is_zygote(pid, agent) for fork in _children(pid)]
    return forks or [fork_of(pid) or pid for pid in children if not _is_zygote(pid, agent)]


def family(agent: int) -> list[int]:
    """PIDs of an agent and of all that it has started."""
    return list(dict.fromkeys([agent, *_children(agent), *training_processes(agent)]))


def _is_zygote(pid: int, agent: int) -> bool:
    """Whether a child of an agent is its fork, or stands for a zygote that was started after the first was lost."""
    command = _command(pid)
    return command == _command(agent) or b"deepseek_trainer.agent.zygote" in command


def _command(pid: int) -> bytes:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def thaw(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(pid, signal.SIGCONT)


class World:
    """The pods of one job, and the operator's word to them; with a zygote, pods are forked from it."""

    def __init__(self, folder: Path, steps: int = 100_000, zygote: Zygote | None = None) -> None:
        self.folder = folder
        self.zygote = zygote
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.steps = steps
        self.port = free_port()
        self.pods: list[Pod] = []

    def start(self, name: str, *command: str, **environ: str) -> Pod:
        command = command or (str(SCRIPT), str(self.shared), str(self.steps))
        zygote = self.zygote if PLAIN.items() - environ.items() else None
        pod = Pod(self.folder, name, *command, ip=f"127.0.0.{next(_HOSTS)}", zygote=zygote, **environ)
        self.pods.append(pod)
        return pod

    def start_trainer(self, name: str, config: dict[str, Any], **environ: str) -> Pod:
        """A pod of the built-in trainer, over gloo."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(config))
        own = {"DEEPSEEKJOB_RUN_CONFIG_FILE": str(file), "DEEPSEEKJOB_BACKEND": "gloo"}
        if self.zygote is None:
            own["DEEPSEEKJOB_PREWARM"] = "1"
        return self.start(name, "-m", "deepseek_trainer", **(own | environ))

    def announce(
        self, generation: int, *members: Pod, host: int = 0, attempt: int | None = None, planned: bool = False
    ) -> None:
        """Writes the members' files; all of them use one port, generation after generation."""
        for rank, pod in enumerate(members):
            content = {
                "generation": generation,
                "attempt": attempt or generation,
                "nodeRank": rank,
                "nodes": len(members),
                "master": members[host].ip,
                "port": self.port,
                "host": rank == host,
                "planned": planned,
            }
            pod.write_membership(json.dumps(content))

    def log(self) -> list[dict[str, Any]]:
        """The steps that were trained, oldest first."""
        path = self.shared / "log.jsonl"
        steps: list[dict[str, Any]] = []
        for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):  # torn by a kill
                steps += [json.loads(line)] if line.endswith("\n") else []
        return steps

    def await_step(self, *, after: int = 0, deadline_s: float = DEADLINE_S, **wanted: object) -> dict[str, Any]:
        """The newest step beyond `after` whose line has these values."""

        def probe() -> dict[str, Any]:
            found = [line for line in self.log() if line["step"] > after and wanted.items() <= line.items()]
            return found[-1] if found else {}

        what = f"a step after {after} with {wanted}"
        return eventually(probe, deadline_s=deadline_s, what=what, describe=self.describe)

    def await_log(self, pod: Pod, text: str) -> None:
        """Returns when the pod's log has that text."""
        eventually(lambda: text in pod.log(), deadline_s=DEADLINE_S, what=f"{pod.name}: {text}", describe=self.describe)

    def order(self, text: str, what: str) -> None:
        """Tells the training script what to do: `what` is fail-<rank>, exit-<rank>, sleep-<rank> or gate."""
        staged = self.shared / f"{what}.staged"
        staged.write_text(text)
        staged.replace(self.shared / what)

    def describe(self) -> str:
        tails = [
            f"--- {pod.name} ({pod.process.poll()})\n" + "\n".join(pod.log().splitlines()[-25:]) for pod in self.pods
        ]
        return "\n".join([str(self.log()[-3:]), *tails])

    def close(self) -> None:
        for pod in self.pods:
            for pid in [pod.process.pid, *_children(pod.process.pid)] if pod.process.poll() is None else []:
                with contextlib.suppress(ProcessLookupError):  # it ends by itself
                    os.kill(pid, signal.SIGKILL)
            pod.process.wait()


def timed(what: str, began: float, line: dict[str, Any], pod: Pod) -> None:
    """Prints the seconds from a fault to the next step, and how many of them the agent of `pod` took of it."""
    agents_s = started_at(pod) - began
    print(
        f"{what}: {line['time'] - began:.1f} s to step {line['step']} of {line['world']}, the agents' part {agents_s:.1f} s"
    )


def started_at(pod: Pod) -> float:
    """Unix seconds at which the pod's training processes were started last."""
    lines = [line for line in pod.log().splitlines() if 'event="training processes started"' in line]
    return datetime.fromisoformat(lines[-1].split()[0].removeprefix("time=")).timestamp()
