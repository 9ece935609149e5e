"""Puts the parts together once torch may be imported, and turns every ending into an exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

from deepseek_trainer.agent.failure import MESSAGE_MAX_BYTES, shorten
from deepseek_trainer.agent.fence import GenerationOverError
from deepseek_trainer.agent.handler import MembershipRendezvous
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.membership import MembershipFile
from deepseek_trainer.agent.network import collectives_environment
from deepseek_trainer.agent.output import Output
from deepseek_trainer.agent.preflight import PreflightFailed
from deepseek_trainer.agent.prewarm import Prewarm
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.status import Status
from deepseek_trainer.agent.supervise import Supervisor, exit_code_after_signal, exit_code_of
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import ExitCode, Failure

MAX_NODES = 16
"""That a failed preflight names in the last words; the log has all."""


def supervise(
    settings: Settings,
    status: Status,
    log: EventLog,
    stop: threading.Event,
    environment: dict[str, str],
    prewarm: Prewarm,
) -> int:
    """Runs the training processes to their end; answers the exit status.

    Args:
        stop: set by the signal handlers; the processes then get SIGTERM and the grace to save.
        environment: variables for the training processes, beside those made here.
    """
    # torch installs handlers that raise wherever the code happens to be; ours set `stop`. SIGQUIT stays torch's.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # Every pod runs the same number of processes (checked in the rendezvous), so ranks follow from node ranks.
    os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
    pause = _pause(stop, status)
    file = MembershipFile(settings.membership_file, log)
    output = Output(settings.run_dir / "output", sys.stdout.buffer, sys.stderr.buffer)
    environment |= collectives_environment(settings.pod_ip, settings.backend, settings.proc_per_node, os.environ)
    handler = MembershipRendezvous(
        settings,
        file,
        log,
        run_id=settings.run_id,
        environment=lambda: environment | prewarm.environment(),
        pause=pause,
        on_silence=lambda silence: status.heard(silence.told()),
    )
    supervisor = Supervisor(settings, handler, output, status, log, prewarm, pause=pause, environment=environment)
    try:
        return _run(supervisor, status, log)
    finally:
        handler.shutdown()


def _run(supervisor: Supervisor, status: Status, log: EventLog) -> int:
    """The supervisor's run; a failure that it has seen becomes part of the last words, however the run ends."""
    try:
        return _ending(supervisor, status, log)
    finally:
        if supervisor.first_failure is not None:
            status.failed(supervisor.first_failure)


def _ending(supervisor: Supervisor, status: Status, log: EventLog) -> int:
    try:
        result = supervisor.run()
    except SignalException as error:
        code = ExitCode.SUCCESS if supervisor.has_succeeded else exit_code_after_signal(supervisor.exit_codes(), error)
        log.info("stopped by signal", signal=error.sigval.name, saved=code == ExitCode.PREEMPTED)
        status.stopped(fault=False)
        return code
    except RendezvousTimeoutError as error:
        log.error("rendezvous timed out", reason=error)
        if isinstance(error, GenerationOverError):
            supervisor.first_failure = None  # its processes lost their peers, who had gone on
        status.failed(Failure(exit_code=ExitCode.UNAVAILABLE, message=str(error)))
        return ExitCode.UNAVAILABLE
    except PreflightFailed as error:
        supervisor.first_failure = None  # of an earlier round, and settled
        nodes, message = error.verdict.nodes[:MAX_NODES], shorten(str(error), MESSAGE_MAX_BYTES)
        status.stopped(fault=True)
        status.failed(
            Failure(kind="preflight", nodes=nodes, exit_code=ExitCode.PREFLIGHT, message=message), error.membership
        )
        return ExitCode.PREFLIGHT
    except ConfigError as error:
        log.error("wrong settings", reason=error)
        status.failed(Failure(exit_code=ExitCode.CONFIG_ERROR, message=str(error)))
        return ExitCode.CONFIG_ERROR
    status.stopped(fault=result.is_failed())
    if not result.is_failed():
        return ExitCode.SUCCESS
    return exit_code_of(supervisor.first_failure)


def _pause(stop: threading.Event, status: Status) -> Callable[[float], None]:
    """Waits, keeps the status alive, and ends every wait when the agent was told to stop."""

    def pause(seconds: float) -> None:
        stopped = stop.wait(seconds)
        status.tick()
        if stopped:
            raise SignalException("the agent was told to stop", signal.SIGTERM)

    return pause
