"""Supervises the training processes of this pod: torch's elastic agent with our rules for what ends a round.

    processes run ──┬─ planned new membership ───────► SIGTERM, wait until they have saved, rendezvous, start anew
                    ├─ membership or round changed ──► unless one failed here: kill them, rendezvous, start anew
                    ├─ one failed, status 65 or 78 ──► end: another try can't help
                    ├─ one failed otherwise ─────────► rendezvous; the agents decide together who gives up
                    ├─ steps have stopped coming ────► the same, once all agents know whose fault it is
                    ├─ all succeeded ────────────────► depart, or go back when peers need another round
                    └─ SIGTERM ──────────────────────► forward it, wait until they have saved, end

Processes of a round that is over are killed, not asked: they hang in a collective whose peer is gone, and their
state is not wanted, for training goes back to a checkpoint. SIGTERM to any pod, or a generation that was planned,
lets them save: the ranks agree on a step and end together with status 75. Nobody waits for that longer than the grace, nor
for a peer whose agent gives no sign of life.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from deepseek_trainer.agent.departure import Outcome
from deepseek_trainer.agent.failure import failure
from deepseek_trainer.agent.handler import MembershipRendezvous, ProcessRestartsExhausted
from deepseek_trainer.agent.hangs import Hangs
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.output import Output
from deepseek_trainer.agent.pace import Pace
from deepseek_trainer.agent.prewarm import Prewarm
from deepseek_trainer.agent.rounds import FATAL, RETRYABLE_ELSEWHERE, LocalFailure
from deepseek_trainer.agent.settings import Settings
from deepseek_trainer.agent.status import Status
from deepseek_trainer.contract import Env, ExitCode, Failure

MONITOR_INTERVAL_S = 0.1
KILL_TIMEOUT_S = 10
IN_ORDER = (ExitCode.SUCCESS, ExitCode.PREEMPTED)
"""Exit statuses of a process that was asked to stop and did."""
PER_START = ("report", "pulse", "stacks", "flight")
"""Files in the run directory that belong to one start of the processes."""
SETTLE_S = 1.0
"""How long a process that is about to end may take, so that its own exit status is known."""


class Supervisor(LocalElasticAgent):
    """One run of the pod's training processes, over any number of rounds and generations."""

    def __init__(
        self,
        settings: Settings,
        handler: MembershipRendezvous,
        output: Output,
        status: Status,
        log: EventLog,
        prewarm: Prewarm,
        *,
        pause: Callable[[float], None],
        environment: dict[str, str],
    ) -> None:
        """Args: pause: waits, ticks the status, and raises SignalException when the agent was told to stop."""
        launcher = ("-S", str(Path(__file__).with_name("exec.py")), str(os.getpid()))
        spec = WorkerSpec(
            role="trainer",
            local_world_size=settings.proc_per_node,
            rdzv_handler=handler,
            entrypoint=sys.executable,
            args=(*launcher, sys.executable, "-u", *settings.command),
            max_restarts=settings.max_process_restarts,
            monitor_interval=MONITOR_INTERVAL_S,
        )
        super().__init__(spec, output, shutdown_timeout=round(settings.termination_grace_s))
        self._settings = settings
        self._handler = handler
        self._output = output
        self._status = status
        self._log = log
        self._prewarm = prewarm
        self._pace = Pace(settings, status, log)
        self._pause = pause
        self._environment = environment
        self._hangs = Hangs(settings, handler, status, log, pause=pause)
        self._saving_since = 0.0
        self.first_failure: Failure | None = None
        self.has_succeeded = False
        """All processes of this pod have succeeded, and no round has begun since."""

    def exit_codes(self) -> dict[int, int | None]:
        """Exit status of each process of the last start, by local rank; None while it runs."""
        return {local_rank: handle.proc.poll() for local_rank, handle in self._handles().items()}

    def _handles(self) -> dict[int, SubprocessHandler]:
        context = self._pcontext
        return context.subprocess_handlers if isinstance(context, SubprocessContext) else {}

    def _invoke_run(self, role: str = "trainer") -> RunResult:
        """In place of torch's loop, which counts restarts by its own rules and leaves at the first success."""
        try:
            return self._run_rounds()
        except SignalException:
            self._leave()
            raise

    def _run_rounds(self) -> RunResult:
        group = self._worker_group
        self._initialize_workers(group)
        while True:
            self._await_end(group.spec.monitor_interval)
            if self._handler.num_nodes_waiting() > 0:
                planned = self._handler.is_planned()
                self._log.info("membership or round changed", planned=planned)
                if planned:
                    self._let_save()
                if self._handler.has_moved() or not self._has_failed():
                    self._restart(group, fault=not planned)
                    continue
            self._pace.turn(self._handler.session)
            result = self._monitor_workers(group)
            group.state = result.state
            if result.state == WorkerState.SUCCEEDED and self._depart():
                return result
            if result.state == WorkerState.FAILED and self._must_end():
                return result
            if result.state != WorkerState.HEALTHY:
                try:
                    self._restart(group, fault=True)
                except ProcessRestartsExhausted as error:
                    self._log.error("training process may not be restarted any more", reason=error)
                    group.state = WorkerState.FAILED
                    return RunResult(WorkerState.FAILED, failures=result.failures)

    def _has_failed(self) -> bool:
        """Whether a process of this pod has failed: its peers may have ended the round before it was looked at."""
        self._settle(self._hangs.are_ending)
        return self._show_failure(self.exit_codes())

    def _await_end(self, seconds: float) -> None:
        """Waits for the end of a process, so long at most."""
        with contextlib.ExitStack() as opened:
            ends = select.poll()
            running = [handle.proc for handle in self._handles().values() if handle.proc.poll() is None]
            for process in running:
                end = os.pidfd_open(process.pid)
                opened.callback(os.close, end)
                ends.register(end, select.POLLIN)
            if running:
                ends.poll(seconds * 1000)
        self._pause(0.0 if running else seconds)

    def _let_save(self) -> None:
        """Asks the processes to save and end; returns when they have, can't any more, or there is no time left."""
        silence = self._handler.silence()
        for codes in self._saving_processes():
            if any(code not in (None, *IN_ORDER) for code in codes) or not self._handler.is_planned():
                return
            silence.look()
            if silence:
                self._log.warning("saving given up", silent_node_ranks=silence.nodes, silent_store=silence.store)
                return
            self._pause(MONITOR_INTERVAL_S)

    def _leave(self) -> None:
        """The agent was told to stop: lets the processes save. Peers that move to another generation see it live."""
        for _ in self._saving_processes():
            self._handler.beat()
            time.sleep(MONITOR_INTERVAL_S)
            self._status.tick()
        self._handler.farewell()
        self._shutdown(signal.SIGKILL, KILL_TIMEOUT_S)

    def _saving_processes(self) -> Iterator[Collection[int | None]]:
        """Sends SIGTERM; then the exit statuses, as long as the grace lasts and some process runs."""
        for handle in self._handles().values():
            handle.proc.send_signal(signal.SIGTERM)
        end = time.monotonic() + self._settings.termination_grace_s
        while time.monotonic() < end and None in (codes := self.exit_codes().values()):
            yield codes

    def _restart(self, group: WorkerGroup, *, fault: bool) -> None:
        self._status.stopped(fault=fault)
        self._restart_workers(group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, int]:
        joined = self._handler.joined
        assert joined is not None  # noqa: S101 - set by the rendezvous that precedes every start
        self.first_failure, self.has_succeeded, self._saving_since = None, False, 0.0
        for stale in (file for kind in PER_START for file in self._settings.run_dir.glob(f"{kind}-*")):
            stale.unlink(missing_ok=True)
        self._status.joined(joined.membership, joined.round, self._report_file())
        self._prewarm.start()
        started = super()._start_workers(worker_group)
        ranks = (worker.global_rank for worker in worker_group.workers)
        self._hangs.started(self._start, {i: (rank, int(started[i])) for i, rank in enumerate(ranks)})
        self._pace.begin(self._hangs.pulse_files())
        self._log.info(
            "training processes started",
            node_rank=worker_group.group_rank,
            nodes=worker_group.group_world_size,
            ranks=",".join(str(worker.global_rank) for worker in worker_group.workers),
            master=f"{worker_group.master_addr}:{worker_group.master_port}",
        )
        return started

    def _set_local_rank_env(self, worker_env: dict[str, str | None], local_rank: int, spec: WorkerSpec) -> None:
        """Adds this generation's variables to torchrun's own, each time the processes start."""
        super()._set_local_rank_env(worker_env, local_rank, spec)
        joined = self._handler.joined
        assert joined is not None  # noqa: S101 - as above
        worker_env.update(self._environment)
        worker_env.update(self._prewarm.environment())
        worker_env[Env.GENERATION] = str(joined.membership.generation)
        worker_env[Env.ATTEMPT] = str(joined.membership.attempt)
        worker_env[Env.PROGRESS_FILE] = str(self._report_file())
        known = os.environ | {name: value for name, value in worker_env.items() if value is not None}
        worker_env.update(self._hangs.environment(self._start, local_rank, known))

    def _report_file(self) -> Path:
        return self._settings.run_dir / f"report-{self._start}.json"

    @property
    def _start(self) -> str:
        """One name a round: a process that outlived its round can't speak for the next one."""
        joined = self._handler.joined
        assert joined is not None  # noqa: S101 - as above
        return f"g{joined.membership.generation}-r{joined.round}"

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._shutdown(signal.SIGKILL, KILL_TIMEOUT_S)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Ends the processes, then what they left behind in their process groups, and reads their last output."""
        super()._shutdown(death_sig, timeout)
        for handle in self._handles().values():
            with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left
                os.killpg(handle.proc.pid, signal.SIGKILL)
        self._output.drain()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Looks at each process; at the first failure the others are killed at once."""
        codes = self.exit_codes()
        if self._show_failure(codes):
            return self._failed(worker_group)
        if all(code == 0 for code in codes.values()):
            self._output.drain()
            return RunResult(
                WorkerState.SUCCEEDED, return_values={worker.global_rank: None for worker in worker_group.workers}
            )
        if (hang := self._hangs.found()) is not None:
            if self._handler.local_failure is not None:
                self.first_failure = hang
            self._shutdown(signal.SIGKILL, KILL_TIMEOUT_S)
            return RunResult(WorkerState.FAILED)
        return RunResult(WorkerState.HEALTHY)

    def _show_failure(self, codes: dict[int, int | None]) -> bool:
        """Whether these exit statuses have one that is no success, nor of processes that save and end in good order."""
        return any(code not in (None, 0) for code in codes.values()) and not self._saving(codes)

    def _saving(self, codes: dict[int, int | None]) -> bool:
        """Whether the processes end in good order, because some pod was told to stop, and not all of them have yet."""
        if None not in codes.values() or any(code not in (None, *IN_ORDER) for code in codes.values()):
            return False
        self._saving_since = self._saving_since or time.monotonic()
        return time.monotonic() - self._saving_since < self._settings.termination_grace_s

    def _failed(self, worker_group: WorkerGroup) -> RunResult:
        """Finds the process that failed first; the ones that fail with it lost their peer."""
        seen_at = time.time()
        self._settle(self._are_ending)
        codes = {local_rank: code for local_rank, code in self.exit_codes().items() if code}
        self._shutdown(signal.SIGKILL, KILL_TIMEOUT_S)
        failures = {
            local_rank: LocalFailure.of(
                failure(
                    worker_group.workers[local_rank].global_rank,
                    code,
                    self._output.error_text(local_rank),
                    self._output.stderr_tail(local_rank),
                ),
                self._output.traceback_at(local_rank) or seen_at,
            )
            for local_rank, code in codes.items()
        }
        first = min(failures, key=lambda local_rank: (failures[local_rank].precedence, local_rank))
        evidence, code = failures[first].failure, codes[first]
        rank = worker_group.workers[first].global_rank
        self.first_failure = evidence
        self._handler.local_failure = failures[first]
        last_line = evidence.message.splitlines()[-1] if evidence.message else ""
        self._log.warning(
            "training process failed", rank=rank, exit_code=evidence.exit_code, signal=evidence.signal, reason=last_line
        )
        pid = int(worker_group.workers[first].id)
        return RunResult(WorkerState.FAILED, failures={rank: ProcessFailure(first, pid, code, os.devnull)})

    def _settle(self, is_ending: Callable[[Collection[int]], bool]) -> None:
        """Waits a moment for the statuses of processes that end.

        Args:
            is_ending: whether some of these local ranks, whose processes have not been seen to end, are about to.
        """
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            running = [local_rank for local_rank, code in self.exit_codes().items() if code is None]
            if not is_ending(running):
                return
            self._pause(0.02)

    def _are_ending(self, running: Collection[int]) -> bool:
        """By what the kernel says, or because they have printed a traceback."""
        return self._hangs.are_ending(running) or any(self._output.traceback_at(local_rank) for local_rank in running)

    def _must_end(self) -> bool:
        return self.first_failure is not None and self.first_failure.exit_code in FATAL

    def _depart(self) -> bool:
        """Waits until leaving harms nobody. False when the processes must run again."""
        self._log.info("training processes succeeded")
        self.has_succeeded = True
        self._status.stopped(fault=False)
        departure = self._handler.departure()
        while (outcome := departure.outcome()) == Outcome.WAIT:
            self._pause(MONITOR_INTERVAL_S)
        return outcome == Outcome.LEAVE


def exit_code_of(first_failure: Failure | None) -> ExitCode:
    """The pod's exit status for the failure that ended it."""
    passed_on = FATAL | RETRYABLE_ELSEWHERE
    code = first_failure.exit_code if first_failure else None
    return ExitCode(code) if code in passed_on else ExitCode.USER_ERROR


def exit_code_after_signal(codes: dict[int, int | None], error: SignalException) -> int:
    """75 when every process ended in good order, else the status of a process that the signal ended."""
    if codes and all(code in IN_ORDER for code in codes.values()):
        return ExitCode.PREEMPTED
    return 128 + int(error.sigval)
