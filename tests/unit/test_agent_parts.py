"""The agent's pure parts: rounds, failures, goodput, last words, settings, status, metrics, network."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deepseek_trainer.agent import lastwords, log, network, server, settings
from deepseek_trainer.agent.failure import failure
from deepseek_trainer.agent.goodput import GoodputClock
from deepseek_trainer.agent.metrics import exposition
from deepseek_trainer.agent.rounds import Entry, LocalFailure, start
from deepseek_trainer.agent.status import Status
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import (
    PROGRESS_MAX_BYTES,
    CheckpointFailure,
    CheckpointInfo,
    Experts,
    Failure,
    Membership,
    Progress,
    Report,
    Silence,
)
from deepseek_trainer.report import Reporter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# rounds


def entry(
    rank: int,
    failed_at: float | None = None,
    *,
    exit_code: int | None = 1,
    signal: str | None = None,
    peer_lost: bool = False,
    procs: int = 2,
) -> Entry:
    evidence = Failure(rank=rank, exit_code=exit_code, signal=signal, message=f"rank {rank} broke")
    failed = None if failed_at is None else LocalFailure(time=failed_at, failure=evidence, peer_lost=peer_lost)
    return Entry(
        token=f"t{rank}", pod=f"p{rank}", address=f"10.0.0.{rank}", procs=procs, port=4000 + rank, failure=failed
    )


def test_node_rank_0_is_the_master_of_the_training_processes() -> None:
    begun = start([entry(0), entry(1)], 0, 3)
    assert (begun.master_addr, begun.master_port, begun.culprit, begun.give_up) == ("10.0.0.0", 4000, None, False)


def test_the_earliest_failure_is_the_culprit_and_the_later_ones_its_victims() -> None:
    begun = start([entry(0, 10.5), entry(1), entry(2, 10.1)], 1, 3)
    assert begun.culprit is not None
    assert (begun.culprit.node_rank, begun.culprit.pod, begun.give_up) == (2, "p2", False)


@pytest.mark.parametrize(("round_number", "gives_up"), [(1, False), (2, False), (3, True)])
def test_a_generation_gives_up_after_the_allowed_restarts(round_number: int, gives_up: bool) -> None:
    assert start([entry(0, 1.0), entry(1)], round_number, 2).give_up is gives_up


def test_rounds_without_a_failure_spend_nothing() -> None:
    assert not start([entry(0), entry(1)], 9, 0).give_up


def test_unavailable_infrastructure_ends_the_culprits_pod_at_the_first_time() -> None:
    assert start([entry(0), entry(1, 1.0, exit_code=69)], 1, 3).give_up


def test_a_process_that_lost_its_peer_is_a_victim_even_when_it_was_seen_first() -> None:
    begun = start([entry(0, 1.0, exit_code=69), entry(1, 2.0)], 1, 3)
    assert begun.culprit is not None
    assert (begun.culprit.node_rank, begun.give_up) == (1, False)


def test_a_lost_peer_that_nobody_explains_is_started_again_as_often_as_is_allowed() -> None:
    """Its agent has entered the round, so what it lost can be had again where it was."""
    lost = [entry(0, 1.0, exit_code=69, peer_lost=True), entry(1)]
    assert [start(lost, round_number, 2).give_up for round_number in (1, 2, 3)] == [False, False, True]


def test_a_process_that_was_killed_comes_before_a_traceback_that_is_older() -> None:
    """It is seen when its agent looks, a traceback has its own time."""
    begun = start([entry(0, 1.0), entry(1, 1.2, exit_code=None, signal="SIGKILL")], 1, 3)
    assert begun.culprit is not None
    assert begun.culprit.node_rank == 1


def test_pods_with_different_numbers_of_processes_do_not_start() -> None:
    assert "[2, 3]" in start([entry(0), entry(1, procs=3)], 0, 3).error


# failure

TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "ValueError: no such column"]


@pytest.mark.parametrize(
    ("code", "error_text", "tail", "message"),
    [
        (1, "", [*TRACEBACK, "a line of a library at exit"], "ValueError: no such column"),
        (1, "", ["one", "", "two"], "one\ntwo"),
        (1, json.dumps({"message": {"message": "KeyError: 'x'"}}), TRACEBACK, "KeyError: 'x'"),
        (1, json.dumps({"message": "plain"}), [], "plain"),
        (1, "{torn", TRACEBACK, "ValueError: no such column"),
        (1, "[1]", [], ""),
    ],
)
def test_the_message_is_the_line_that_says_why(code: int, error_text: str, tail: list[str], message: str) -> None:
    assert failure(3, code, error_text, tail) == Failure(rank=3, exit_code=code, message=message)


NCCL = "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:94, unhandled cuda error, NCCL version 2.27.3"
CUDA_OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB "
    "of which 10.25 MiB is free. Of the allocated memory 77.90 GiB is allocated by PyTorch."
)
FRAMES = [f"frame #{n}: c10::Error::Error({'x' * 60}) + 0x{n:x} (0x7f in /torch/lib/libc10.so)" for n in range(40)]
WATCHDOG = (
    "[rank1]:[E922 00:00:01 ProcessGroupNCCL.cpp:690] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL"
)


@pytest.mark.parametrize(
    ("code", "tail", "says"),
    [
        pytest.param(1, [f"[rank3]: {line}" for line in TRACEBACK], ["ValueError: no such column"], id="rank in front"),
        pytest.param(
            1, [*TRACEBACK[:2], CUDA_OOM, *["bye"] * 9], ["torch.OutOfMemoryError: CUDA out of"], id="CUDA OOM"
        ),
        pytest.param(
            1,
            [*TRACEBACK[:2], NCCL, "ncclUnhandledCudaError: Call to CUDA function failed.", "Last error:", "closing"],
            ["torch.distributed.DistBackendError", "unhandled cuda", "ncclUnhandledCudaError", "Last error:"],
            id="NCCL over several lines",
        ),
        pytest.param(
            1,
            [*TRACEBACK[:2], "RuntimeError: CUDA error: device-side assert triggered", *FRAMES],
            ["RuntimeError: CUDA error: device-side assert"],
            id="C++ frames after it",
        ),
        pytest.param(-6, [WATCHDOG, *FRAMES, "", "one", "two"], ["Watchdog caught", "one\ntwo"], id="NCCL watchdog"),
        pytest.param(
            -6,
            [
                "terminate called after throwing an instance of 'c10::DistBackendError'",
                "  what():  NCCL timed out",
                *FRAMES,
            ],
            ["c10::DistBackendError", "what():  NCCL timed out"],
            id="terminate",
        ),
        pytest.param(
            -11, ["Xid 79 in the log", *[f"line {n}" for n in range(9)]], ["Xid 79", "line 8"], id="early mark"
        ),
    ],
)
def test_what_names_a_cause_is_kept(code: int, tail: list[str], says: list[str]) -> None:
    message = failure(0, code, "", tail).message
    assert all(part in message for part in says), message
    assert "frame #" not in message
    assert "bye" not in message


def test_of_a_recorded_exception_the_type_and_the_end_are_kept_and_no_frames() -> None:
    text = "\n".join(["DistBackendError: NCCL error", *FRAMES, "y" * 2000, "ncclRemoteError: the peer exited"])
    message = failure(0, 1, json.dumps({"message": {"message": text}}), []).message
    assert message.startswith("DistBackendError: NCCL error")
    assert message.endswith("ncclRemoteError: the peer exited")
    assert "frame #" not in message
    assert len(message.encode()) <= 1024


@pytest.mark.parametrize("limit", [700, 1024, 4096])
def test_the_exceptions_type_survives_the_cap_of_the_last_words(limit: int) -> None:
    words = Progress(
        pod="p" * 200, chain="c" * 2000, failure=failure(0, 1, "", [*TRACEBACK[:2], CUDA_OOM + "z" * 3000])
    )
    found = Progress.model_validate_json(lastwords.encode(words, limit)).failure
    assert found is not None
    assert found.message.startswith("torch.OutOfMemoryError: CUDA out of")


def test_the_names_of_nodes_survive_the_cap_of_the_last_words() -> None:
    nodes = tuple(f"{n:02}".ljust(253, "n") for n in range(16))
    found = Progress.model_validate_json(
        lastwords.encode(Progress(failure=Failure(kind="preflight", nodes=nodes, exit_code=71, message="m" * 900)))
    ).failure
    assert found is not None
    assert (found.kind, found.exit_code) == ("preflight", 71)
    assert found.nodes == nodes[:4]


def test_a_signal_is_named() -> None:
    found = failure(0, -9, "", [])
    assert (found.signal, found.exit_code) == ("SIGKILL", None)


def test_evidence_is_at_most_1_kb() -> None:
    assert len(failure(0, 1, "", ["ü" * 3000]).message.encode()) <= 1024


# goodput


def test_every_second_is_in_one_bucket_and_they_sum_to_the_wall_clock() -> None:
    clock = GoodputClock(100.0)
    clock.advance(110.0, "waiting")
    clock.advance(115.0, "startup")
    clock.stepped(1)
    clock.advance(125.0, "productive")
    clock.advance(127.0, "checkpoint")
    clock.advance(130.5, "recovery")
    found = clock.goodput()
    assert found.model_dump() == {
        "waiting": 10, "startup": 5, "productive": 10, "checkpoint": 2, "recovery": 3.5, "stalled": 0
    }  # fmt: skip
    assert sum(found.model_dump().values()) == pytest.approx(30.5)


def test_training_that_makes_no_step_is_stalled() -> None:
    clock = GoodputClock(0.0)
    clock.stepped(1)
    clock.advance(10.0, "productive")
    clock.stepped(2)
    for now in range(11, 200):
        clock.advance(float(now), "productive")
    assert clock.goodput().productive == pytest.approx(110.0)
    assert clock.goodput().stalled == pytest.approx(89.0)


def test_steps_that_a_resume_threw_away_were_not_productive() -> None:
    clock = GoodputClock(0.0)
    for step in range(1, 11):
        clock.advance(float(step), "productive")
        clock.stepped(step)
    clock.resumed(6)
    assert (clock.goodput().productive, clock.goodput().recovery) == (6.0, 4.0)
    clock.resumed(6)
    assert clock.goodput().recovery == 4.0


# last words


@pytest.mark.parametrize("text", ["x" * 900, "ü\n\0" * 300])
def test_last_words_are_whole_json_within_the_limit(text: str) -> None:
    progress = Progress(
        job="j",
        pod="p",
        step=7,
        chain="c" * 9000,
        resumed_from=text,
        failure=Failure(rank=1, exit_code=1, message=text),
    )
    for limit in (4096, 700, 300):
        encoded = lastwords.encode(progress, limit)
        assert len(encoded) <= limit
        assert json.loads(encoded)["step"] == 7
    assert Progress.model_validate_json(lastwords.encode(progress)).failure is not None


def test_last_words_that_fit_are_complete(tmp_path: Path) -> None:
    progress = Progress(step=7, chain="ab", failure=Failure(rank=1, exit_code=78, message="no"))
    lastwords.write(tmp_path / "log", progress, log.EventLog())
    assert Progress.model_validate_json((tmp_path / "log").read_bytes()) == progress


def test_a_progress_that_texts_blew_up_still_fits() -> None:
    content = server.body(Progress(step=7, chain="c" * 70_000, generation=3))
    assert len(content) <= PROGRESS_MAX_BYTES
    assert json.loads(content)["generation"] == 3


# settings


def test_the_command_is_what_follows_the_options() -> None:
    assert settings.load([], {}).command == ("-m", "deepseek_trainer")
    assert settings.load(["-m", "pkg.train", "--x", "-m", "1"], {}).command == ("-m", "pkg.train", "--x", "-m", "1")
    loaded = settings.load(["--departure-grace-s", "3", "train.py", "--departure-grace-s", "4"], {})
    assert (loaded.command, loaded.departure_grace_s) == (("train.py", "--departure-grace-s", "4"), 3.0)


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (["--nonsense"], {}, "--nonsense"),
        (["-m"], {}, "-m"),
        ([], {"DEEPSEEKJOB_PROC_PER_NODE": "0"}, "DEEPSEEKJOB_PROC_PER_NODE=0"),
        ([], {"DEEPSEEKJOB_AGENT_PORT": "http"}, "DEEPSEEKJOB_AGENT_PORT=http"),
        ([], {"DEEPSEEKJOB_POD_IP": "here"}, "DEEPSEEKJOB_POD_IP=here"),
    ],
)
def test_wrong_settings_name_what_is_wrong(arguments: list[str], environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings.load(arguments, environ)


# status


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_status(clock: Clock, *arguments: str) -> Status:
    loaded = settings.load(arguments, {"DEEPSEEKJOB_NAME": "j", "DEEPSEEKJOB_POD_NAME": "p"})
    return Status(loaded, report_every_s=0, clock=clock, wall_clock=lambda: datetime(2026, 1, 2, tzinfo=UTC))


def membership(generation: int = 1, node_rank: int = 0) -> Membership:
    return Membership(generation=generation, attempt=1, node_rank=node_rank, nodes=2, master="10.0.0.1")


def test_the_report_is_merged_and_a_new_round_starts_without_it(clock: Clock, tmp_path: Path) -> None:
    status = make_status(clock)
    report = tmp_path / "report"
    status.joined(membership(), 0, report)
    Reporter(report).write(Report(phase="training", step=5, loss=1.5))
    status.tick()
    progress = status.progress()
    assert (progress.step, progress.phase, progress.generation, progress.job) == (5, "training", 1, "j")
    assert progress.time == "2026-01-02T00:00:00.000Z"
    status.stopped(fault=True)
    assert status.progress().step == 5
    status.joined(membership(), 1, tmp_path / "next")
    assert (status.progress().step, status.progress().round, status.progress().process_restarts) == (None, 1, 1)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"step": "many"}', b"\xff", b'{"chain": "' + b"x" * 70_000 + b'"}'])
def test_a_report_that_is_none_is_ignored(clock: Clock, tmp_path: Path, content: bytes) -> None:
    status = make_status(clock)
    (tmp_path / "report").write_bytes(content)
    status.joined(membership(), 0, tmp_path / "report")
    status.tick()
    assert status.progress().step is None


def test_time_is_booked_by_what_agent_and_report_say(clock: Clock, tmp_path: Path) -> None:
    status = make_status(clock)
    reporter = Reporter(tmp_path / "report", interval_s=0)

    def spend(seconds: float, report: Report | None = None) -> None:
        if report:
            reporter.write(report)
        status.tick()
        clock.now += seconds
        status.tick()

    spend(2)
    status.joined(membership(), 0, tmp_path / "report")
    spend(3)
    spend(4, Report(phase="preparing"))
    spend(5, Report(phase="training", step=1))
    spend(6, Report(phase="checkpointing", step=1))
    spend(1, Report(phase="waiting", step=1))
    status.stopped(fault=True)
    spend(7)
    status.joined(membership(2), 0, tmp_path / "second")
    reporter = Reporter(tmp_path / "second", interval_s=0)
    spend(8, Report(phase="training", step=1, resumed_step=1))
    spend(9, Report(phase="training", step=2, resumed_step=1))
    assert status.goodput().model_dump() == {
        "waiting": 3, "startup": 7, "productive": 14, "checkpoint": 6, "recovery": 15, "stalled": 0
    }  # fmt: skip


def test_an_agent_without_reports_books_running_as_productive(clock: Clock, tmp_path: Path) -> None:
    status = make_status(clock, "train.py")
    status.joined(membership(node_rank=1), 0, tmp_path / "report")
    clock.now += 5
    assert status.progress().goodput is not None
    assert status.goodput().productive == 5


def test_health_is_that_the_loop_turns_once_torch_is_imported(clock: Clock) -> None:
    status = make_status(clock)
    clock.now += 120
    assert status.is_healthy()
    status.tick()
    clock.now += 59
    assert status.is_healthy()
    clock.now += 2
    assert not status.is_healthy()
    status.tick()
    assert status.is_healthy()


def test_readiness_waits_for_the_imports_once(clock: Clock) -> None:
    status, warm = make_status(clock), False
    status.ready_when(lambda: warm)
    assert not status.is_ready()
    status.tick()
    assert not status.is_ready(), "its prewarmed process still imports"
    warm = True
    assert status.is_ready()
    warm = False
    assert status.is_ready(), "a prewarmed process that is made anew is no reason to leave"
    clock.now += 61
    assert not status.is_ready()


def test_news_are_the_round_and_who_is_silent(clock: Clock, tmp_path: Path) -> None:
    status = make_status(clock)
    silence = Silence(generation=1, nodes=(3,))
    news = [status.progress().news]
    tells: list[Callable[[], None]] = [
        lambda: status.heard(Silence(generation=1)),
        lambda: status.joined(membership(), 0, tmp_path / "report"),
        lambda: status.heard(silence),
        lambda: status.heard(silence),
    ]
    for tell in tells:
        tell()
        news.append(status.progress().news)
    assert news == [0, 0, 1, 2, 2]
    assert status.progress().silence == silence
    status.joined(membership(), 1, tmp_path / "next")
    assert status.progress().silence is None


def test_who_waits_for_news_is_answered_when_there_is_some(clock: Clock, tmp_path: Path) -> None:
    status = make_status(clock)
    agent = server.AgentServer("127.0.0.1", 0, status)
    agent.start()
    told = threading.Timer(0.2, lambda: status.joined(membership(), 0, tmp_path / "report"))
    told.start()
    for query in ("?wait=30&seen=0", "?wait=30&seen=7", "?wait=x&seen=1", "?wait=30", ""):
        with urllib.request.urlopen(f"http://127.0.0.1:{agent.server_port}/progress{query}", timeout=20) as answer:
            assert json.load(answer)["news"] == 1
    told.join()
    agent.shutdown()
    agent.server_close()


def test_metrics_name_the_job_and_leave_out_what_is_unknown() -> None:
    text = exposition(lambda: Progress(job="j", pod="p", step=5, process_restarts=2))().decode()
    assert 'deepseekjob_step{job="j",pod="p"} 5.0' in text
    assert 'deepseekjob_process_restarts_total{job="j",pod="p"} 2.0' in text
    assert 'deepseekjob_goodput_seconds_total{job="j",kind="stalled",pod="p"} 0.0' in text
    assert "deepseekjob_loss{" not in text
    assert "deepseekjob_checkpoint_step{" not in text
    assert 'deepseekjob_checkpoint_failures{job="j",pod="p"} 0.0' in text


def test_metrics_of_the_experts() -> None:
    spread = Experts(max_violation=0.5, shares=(1.5, 0.5), dropped=0.125)
    text = exposition(lambda: Progress(job="j", pod="p", experts=spread))().decode()
    assert 'deepseekjob_expert_max_violation{job="j",pod="p"} 0.5' in text
    assert 'deepseekjob_expert_dropped{job="j",pod="p"} 0.125' in text
    assert 'deepseekjob_expert_load{expert="0",job="j",pod="p"} 1.5' in text
    assert "deepseekjob_expert_load{" not in exposition(lambda: Progress(job="j", pod="p"))().decode()


@pytest.mark.parametrize(("time", "known"), [("2026-03-01T12:00:00Z", True), ("yesterday", False)])
def test_metrics_of_the_newest_checkpoint(time: str, known: bool) -> None:
    saved = CheckpointInfo(step=4, time=time, path="/c", bytes=9, seconds=2.5, blocked_seconds=0.25)
    failure = CheckpointFailure(step=6, time=time, failures=3)
    told = Progress(job="j", pod="p", checkpoint=saved, checkpoint_failure=failure)
    text = exposition(lambda: told)().decode()
    for name, value in {"step": 4, "bytes": 9, "seconds": 2.5, "blocked_seconds": 0.25, "failures": 3}.items():
        assert f'deepseekjob_checkpoint_{name}{{job="j",pod="p"}} {float(value)}' in text
    assert ("deepseekjob_checkpoint_timestamp_seconds{" in text) is known


# reports


def test_reports_are_throttled_but_a_new_phase_is_written_at_once(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "report"
    reporter = Reporter(path, clock=clock)
    assert reporter.write(Report(phase="training", step=1))
    assert not reporter.write(Report(phase="training", step=2))
    assert reporter.write(Report(phase="checkpointing", step=3))
    clock.now += 1
    assert reporter.write(Report(phase="checkpointing", step=4))
    assert not reporter.write(Report(phase="checkpointing", step=5))
    reporter.flush()
    assert Report.model_validate_json(path.read_bytes()).step == 5
    assert list(tmp_path.iterdir()) == [path]


def test_only_global_rank_0_under_an_agent_reports(tmp_path: Path) -> None:
    file = str(tmp_path / "report")
    for environ in ({}, {"RANK": "1", "DEEPSEEKJOB_PROGRESS_FILE": file}):
        assert not Reporter.from_environment(environ).write(Report())
    assert Reporter.from_environment({"RANK": "0", "DEEPSEEKJOB_PROGRESS_FILE": file}).write(Report())


# network and log


def test_collectives_use_the_interface_that_has_the_pods_address() -> None:
    found = network.collectives_environment("127.0.0.5", "nccl", 2, {})
    assert found == {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    assert (
        network.collectives_environment("127.0.0.5", "gloo", 2, {"GLOO_SOCKET_IFNAME": "x", "OMP_NUM_THREADS": "7"})
        == {}
    )
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("203.0.113.77") is None
    assert network.interface_of("2001:db8::77") is None


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1), ("?", None)]
)
def test_threads_respect_the_containers_quota(tmp_path: Path, text: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    unlimited = network.available_cpus(tmp_path / "missing")
    assert network.available_cpus(tmp_path / "cpu.max") == (cpus or unlimited)


def test_a_log_line_is_one_line_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.EventLog(lambda: {"job": "j"}).info("store lost", reason="two\nlines", pod="")
    line = capsys.readouterr().err
    assert line.endswith('level=INFO event="store lost" reason="two\\nlines" pod="" job=j\n')
    assert line.count("\n") == 1
