"""What the agents do about hangs, by its pure parts: when one is called, who is named, what is kept of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deepseek_trainer.agent import dumps, flight, process, settings, stacks
from deepseek_trainer.agent.autopsy import Autopsy, Rank
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.agent.verdict import RankState, Statement, Verdict, judge
from deepseek_trainer.agent.watch import Watch
from deepseek_trainer.agent.watchdog import STEPLESS, Limits, Sign, Watchdog
from deepseek_trainer.contract import Report
from deepseek_trainer.pulse import PulseWriter
from support.eventually import eventually

LIMITS = Limits(factor=20, floor_s=60, timeout_s=1800)


def watched(*signs: tuple[float, Sign], limits: Limits = LIMITS) -> Watchdog:
    watchdog = Watchdog(limits)
    for now, sign in signs:
        watchdog.see(now, sign)
    return watchdog


def steps(seconds: float, count: int = 50, *, pulse: bool = True, until: float = 0.0) -> list[tuple[float, Sign]]:
    """A source that makes a step in so many seconds; the last one ends at `until`."""
    begin = until - seconds * (count - 1)
    step_s = seconds if pulse else None
    return [(begin + seconds * n, Sign("training", n, 3 * n, step_s)) for n in range(count)]


@pytest.mark.parametrize(
    ("what", "signs", "limit_s"),
    [
        ("nothing was ever said", [], None),
        ("quick steps", steps(0.1), 60),
        ("slow steps", steps(30), 600),
        ("a script's reports", steps(30, pulse=False), 600),
        ("the first steps", steps(0.1, count=5), 1800),
        ("before the first step", [(0, Sign("training", -1))], 1800),
        ("at the start", [(0, Sign("starting", None))], 1800),
        ("data is prepared", [(0, Sign("preparing", -1))], STEPLESS * 1800),
        ("an evaluation", [*steps(0.1), (0.1, Sign("evaluating", 49))], STEPLESS * 1800),
        ("a save", [*steps(0.1), (0.1, Sign("checkpointing", 49))], STEPLESS * 1800),
        ("after a save", [*steps(0.1), (0, Sign("checkpointing", 49)), (0, Sign("training", 49))], 60),
        ("the end", [*steps(0.1), (0, Sign("finished", 49))], None),
    ],
)
def test_how_long_a_standstill_may_last(what: str, signs: list[tuple[float, Sign]], limit_s: float | None) -> None:
    watchdog = watched(*signs)
    assert watchdog.limit_s() == limit_s, what
    if limit_s is None:
        assert not watchdog.is_overdue(1e9), what
    else:
        since = signs[-1][0]
        assert not watchdog.is_overdue(since + limit_s), what
        assert watchdog.is_overdue(since + limit_s + 1), what


def test_one_slow_step_in_a_hundred_counts_and_the_first_one_of_a_start_does_not() -> None:
    compiling = [(-1000.0, Sign("training", -1, 0, None)), (-400.0, Sign("training", 0, 3, 600.0))]
    quick = steps(0.1, 200)
    assert watched(*compiling, *quick).limit_s() == 60
    slow = [
        (now, Sign("training", sign.step, sign.ticks, 9.0 if n in (20, 80) else 0.1))
        for n, (now, sign) in enumerate(quick)
    ]
    assert watched(*slow[:100]).limit_s() == 180
    assert watched(*slow[:100], *steps(0.1, 600)).limit_s() == 60, "what was long ago is forgotten"


def test_a_new_start_has_the_time_of_a_start_and_knows_the_steps_of_the_last_one() -> None:
    watchdog = watched(*steps(30))
    watchdog.restarted()
    assert watchdog.limit_s() is None
    watchdog.see(100, Sign("training", -1))
    assert watchdog.limit_s() == 1800
    watchdog.see(101, Sign("training", 7))
    assert watchdog.limit_s() == 600


def test_parts_of_a_step_are_life_before_the_first_step_and_no_step_afterwards() -> None:
    starting = watched((0, Sign("training", -1, 0)), (1000, Sign("training", -1, 1)))
    assert starting.still_s(1001) == 1
    stepping = watched(*steps(1), (50, Sign("training", 49, 9999)))
    assert stepping.still_s(50) == 50


def test_a_stopped_process_hangs_whatever_it_did() -> None:
    watchdog = watched(*steps(0.1), (0, Sign("checkpointing", 49)))
    for now, state in ((1, "T"), (2, "S"), (10, "T"), (70, "T")):
        watchdog.see_process(now, state)
    assert not watchdog.is_overdue(70)
    assert watchdog.is_overdue(71)
    watchdog.see_process(71, "t")  # somebody debugs it
    assert not watchdog.is_overdue(200)


def test_a_rank_that_has_ended_well_is_no_standstill(tmp_path: Path) -> None:
    now = [0.0]
    said = Report(phase="training", step=3)
    for what, report in (("a pulse", None), ("a report", said)):
        watch = Watch(Limits(20, 60, 100), Limits(20, 60, 100), lambda report=report: report, lambda: now[0])  # type: ignore[misc]
        file = tmp_path / what
        with subprocess.Popen(["sleep", "100"]) as started:
            watch.started([Rank(0, started.pid, "g1-r0", pulse=file, stacks=tmp_path / "none")])
            if report is None:
                PulseWriter(file).enter("training")
            assert not watch.is_overdue(), what
            now[0] += 101
            assert watch.is_overdue(), what
            assert watch.still_s() == 101, what
            started.kill()
        now[0] += 101
        assert not watch.is_overdue(), what


def said(*ranks: tuple[int, str, int | None, int], pod: str = "pod", still_s: float = 61.0) -> Statement:
    states = tuple(RankState(rank=rank, state=state, step=step, ticks=ticks) for rank, state, step, ticks in ranks)
    return Statement(pod=pod, node=f"node-of-{pod}", ranks=states, still_s=still_s)


@pytest.mark.parametrize(
    ("statements", "silent", "expected"),
    [
        # a frozen process, whoever else is behind or silent
        ([said((0, "S", 9, 40)), said((1, "T", 9, 41))], [], ("frozen", 1, 1)),
        ([said((0, "S", 9, 40), (1, "t", None, 0))], [1], ("frozen", 0, 1)),
        ([said((0, "S", 9, 40)), said((1, "D", 9, 40))], [], ("frozen", 1, 1)),
        # all of them are frozen: something else has done that
        ([said((0, "T", 9, 40)), said((1, "T", 9, 40))], [], (None, None, None)),
        # an agent that says nothing
        ([said((0, "S", 9, 40))], [1], ("silent", 1, None)),
        ([said((0, "S", 9, 40)), said((1, "S", 8, 40))], [2, 3], ("silent", 2, None)),
        ([], [0, 1], (None, None, None)),
        # one rank behind the others, by steps or by parts of one
        ([said((0, "S", 9, 40)), said((1, "S", 8, 44))], [], ("behind", 1, 1)),
        ([said((0, "S", 9, 40), (1, "R", 9, 39)), said((2, "S", 9, 40), (3, "S", 9, 40))], [], ("behind", 0, 1)),
        # several, none, or ranks without a pulse
        ([said((0, "S", 9, 40)), said((1, "S", 9, 39), (2, "S", 9, 39))], [], (None, None, None)),
        ([said((0, "S", 9, 40)), said((1, "S", 9, 40))], [], (None, None, None)),
        ([said((0, "S", None, 0)), said((1, "S", 9, 40))], [], (None, None, None)),
        ([said((0, "R", 9, 40))], [], (None, None, None)),
    ],
)
def test_who_is_named(
    statements: list[Statement], silent: list[int], expected: tuple[str | None, int | None, int | None]
) -> None:
    found = judge(dict(enumerate(statements)), silent, {2: ("silent-pod", "silent-node")})
    assert (found.reason, found.node_rank, found.rank) == expected
    if found.reason == "silent" and found.node_rank == 2:
        assert (found.pod, found.node) == ("silent-pod", "silent-node")
    assert Verdict.model_validate_json(found.model_dump_json()) == found


def test_a_verdict_tells_the_step_and_the_longest_standstill() -> None:
    found = judge({0: said((0, "S", 9, 1), still_s=3.0), 1: said((1, "S", -1, 1), still_s=70.0)}, [], {})
    assert (found.step, found.still_s) == (9, 70.0)


def test_the_newest_folders_are_kept_and_what_is_not_ours() -> None:
    names = [f"generation-{generation}-round-{n}" for generation in (9, 10) for n in (0, 2, 11)]
    assert dumps.outdated([*names, "notes", "generation-1-round-x"], kept=4) == names[:2]
    assert dumps.outdated(names, kept=6) == []


def test_dumps_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    for number in range(dumps.KEPT + 3):
        dumps.write(dumps.folder_of(tmp_path, 1, number), "rank-0.txt", b"x" * 500, limit=100)
        dumps.prune(tmp_path)
    kept = sorted(path.name for path in (tmp_path / "hangs").iterdir())
    assert len(kept) == dumps.KEPT
    newest = dumps.folder_of(tmp_path, 1, dumps.KEPT + 2) / "rank-0.txt"
    assert len(newest.read_bytes()) == 100
    assert newest.read_bytes().endswith(b"[cut]\n")


WAITING = "import sys, os, threading, json\nprint(json.dumps([sys.argv, sorted(os.environ)]), flush=True)\nthreading.Event().wait()"


@pytest.mark.parametrize("own", ["", "print('a sitecustomize of the image', flush=True)"])
def test_a_script_shows_its_stacks_and_finds_its_environment_as_it_was(tmp_path: Path, own: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(own)
    script, file = tmp_path / "waits.py", tmp_path / "stacks"
    script.write_text(WAITING)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])}
    told = environ | stacks.environment(str(file), environ)
    with subprocess.Popen([sys.executable, "-u", str(script)], env=told, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        if own:
            assert started.stdout.readline() == "a sitecustomize of the image\n"
        line = started.stdout.readline()
        assert stacks.STACKS not in line
        assert stacks.pid_in(file.read_text()) == started.pid
        assert process.handles(started.pid, stacks.SIGNAL)
        os.kill(started.pid, stacks.SIGNAL)
        eventually(lambda: "waits.py" in file.read_text(), deadline_s=60, what="stacks", describe=file.read_text)
        assert started.poll() is None
        os.kill(started.pid, signal.SIGSTOP)
        eventually(lambda: process.state(started.pid) == "T", deadline_s=60, what="a stopped process")
        assert "State: T" in process.describe(started.pid)
        started.kill()


SLOW = """
import os, signal, sys, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMAX - 4})
print("ready", flush=True)
time.sleep(1)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGRTMAX - 4})
threading.Event().wait()
"""


def test_a_process_that_answers_late_is_waited_for(tmp_path: Path) -> None:
    script, file = tmp_path / "slow.py", tmp_path / "stacks"
    script.write_text(SLOW)
    told = os.environ | stacks.environment(str(file), os.environ)
    agent = settings.load([], {"DEEPSEEKJOB_RUN_DIR": str(tmp_path)})
    with subprocess.Popen([sys.executable, "-u", str(script)], env=told, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        rank = Rank(0, started.pid, "g1-r0", pulse=tmp_path / "pulse", stacks=file)
        folder = Autopsy(agent, [rank], EventLog(), time.sleep).perform(1, 0)
        started.kill()
    assert "slow.py" in (folder / "rank-0.txt").read_text()


def test_a_process_that_ends_is_known_to_before_its_status_is(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as started:
        assert not process.is_ending(started.pid)
        started.kill()
        eventually(lambda: process.is_ending(started.pid), deadline_s=60, what="a zombie")
        assert process.state(started.pid) == "Z"
    assert process.is_ending(started.pid), "it is gone"


def test_a_process_without_a_handler_is_not_asked(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as started:
        assert not process.handles(started.pid, stacks.SIGNAL)
        started.kill()
    assert process.state(started.pid) == ""
    assert process.describe(started.pid) == "the process is gone"
    assert [stacks.pid_in(text) for text in ("", "x", "12", "12\nrest", "9" * 20)] == [None, None, 12, 12, None]


def test_nccls_recorder_is_on_where_nccl_may_be_and_asked_where_somebody_listens(tmp_path: Path) -> None:
    assert flight.environment(tmp_path, "g1-r0", "gloo", {}, driver=tmp_path) == {}
    assert flight.environment(tmp_path, "g1-r0", "auto", {}, driver=tmp_path / "none") == {}
    assert flight.environment(tmp_path, "g1-r0", "auto", {}, driver=tmp_path)["TORCH_FR_BUFFER_SIZE"] == "2000"
    assert flight.environment(tmp_path, "g1-r0", "nccl", {"TORCH_FR_DUMP_TEMP_FILE": "/mine"}) == {}
    told = flight.environment(tmp_path, "g1-r0", "nccl", {"TORCH_NCCL_TRACE_BUFFER_SIZE": "7"})
    assert told["TORCH_FR_BUFFER_SIZE"] == "7"
    assert flight.ask(tmp_path, "g1-r0", 3) is None
    pipe = Path(told[flight.PIPE] + "3.pipe")
    os.mkfifo(pipe)
    assert flight.ask(tmp_path, "g1-r0", 3) is None, "nobody listens"
    listener = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert flight.ask(tmp_path, "g1-r0", 3) == Path(told["TORCH_FR_DUMP_TEMP_FILE"] + "3")
    assert os.read(listener, 9) == b"1"
    os.close(listener)
