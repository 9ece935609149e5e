"""The worker container's command: `python -m deepseek_trainer.agent [options] (-m MODULE | SCRIPT) [ARGS…]`.

Reads its settings, imports torch, leaves a fork behind that starts from there (`zygote`), then answers over HTTP and
supervises the training processes. Its exit status is the contract's (`deepseek_trainer.contract.ExitCode`); its last
words go to the termination log.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from deepseek_trainer import imports
from deepseek_trainer.agent import lastwords, log, settings
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.prewarm import Prewarm
from deepseek_trainer.agent.server import AgentServer
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.status import Status
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import ExitCode

STOPPED_BY = (signal.SIGTERM, signal.SIGINT)
TORCH_LEVEL = "TORCH_CPP_LOG_LEVEL"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the agent and ends the process."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread may be blocked for ever in a store whose host is frozen, and nothing is left to do.
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """The agent from its settings to its last words; answers the exit status."""
    stop = threading.Event()
    for number in STOPPED_BY:
        signal.signal(number, _setter(stop))
    try:
        agent_settings = settings.load(arguments, os.environ)
    except ConfigError as error:
        log.configure()
        EventLog().error("wrong settings", reason=error)
        return ExitCode.CONFIG_ERROR
    status = Status(agent_settings)
    events = EventLog(status.context)
    prewarm = Prewarm(agent_settings, os.environ, events)
    with imports.lasting():
        import torch.distributed  # noqa: F401
    # Before anything else is done: a fork of a process that has only imported has nothing to put away.
    if prewarm.fork():
        for number in STOPPED_BY:
            signal.signal(number, signal.SIG_DFL)
        prewarm.serve()
    log.configure()
    status.ready_when(prewarm.is_warm)
    try:
        return _supervised(agent_settings, status, events, stop, prewarm)
    finally:
        prewarm.stop()


def _supervised(
    agent_settings: Settings, status: Status, events: EventLog, stop: threading.Event, prewarm: Prewarm
) -> int:
    """What the agent itself does, from its first answer over HTTP on."""
    environment = quieten_torch()
    try:
        _prepare(agent_settings)
        AgentServer(agent_settings.pod_ip, agent_settings.agent_port, status).start()
    except OSError as error:
        events.error("agent can't start", reason=error, port=agent_settings.agent_port)
        return ExitCode.UNAVAILABLE
    events.info("agent started", port=agent_settings.agent_port, command=" ".join(agent_settings.command))
    with imports.lasting():
        from deepseek_trainer.agent.running import supervise

    code = supervise(agent_settings, status, events, stop, environment, prewarm)
    lastwords.write(agent_settings.termination_log, status.progress(), events)
    events.info("agent ends", exit_code=int(code))
    return code


def quieten_torch() -> dict[str, str]:
    """Has torch log errors only in this process; what its training processes are to be told instead.

    It prints a page of C++ frames for every connection that breaks; the agent logs a line.
    """
    level = os.environ.get(TORCH_LEVEL)
    os.environ[TORCH_LEVEL] = level or "ERROR"
    library = Path(str(sys.modules["torch"].__file__)).parent / "lib" / "libc10.so"
    with contextlib.suppress(OSError, AttributeError):  # another build of torch keeps the level of its import
        ctypes.CDLL(str(library))._ZN3c1011initLoggingEv()  # c10::initLogging()
    return {TORCH_LEVEL: level or "WARNING"}


def _prepare(agent_settings: Settings) -> None:
    for folder in (agent_settings.run_dir, agent_settings.checkpoint_dir):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)


def _setter(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def set_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    return set_stop


if __name__ == "__main__":
    main()
