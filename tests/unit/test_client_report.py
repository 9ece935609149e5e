"""History, summary and figure of a run: what is counted once, and how long a recovery took."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deepseek_client.local.fault import KillOne
from deepseek_client.local.history import History
from deepseek_client.local.steplog import Step, StepLog
from deepseek_client.report.figure import draw
from deepseek_client.report.summary import markdown, summarise
from deepseek_client.text import count, duration, number, sparkline
from deepseek_operator.api.status import GoodputStatus, Status
from deepseek_operator.decide.types import Observation, Pod, Progress
from support.make import make_job

BEGAN = datetime(2026, 3, 1, 12, 0, 0)  # the logs are in local time


def progress(step: int, generation: int = 1, saved: int = 0, resumed: int | None = None) -> Progress:
    checkpoint = {"step": saved, "time": "", "path": "/c", "bytes": 1, "seconds": 0.1} if saved else None
    return Progress(
        generation=generation,
        attempt=generation,
        phase="training",
        step=step,
        total_steps=100,
        position=step * 16,
        loss=8.0 - step / 20,
        validation_loss=5.0,
        unigram_entropy=6.3,
        checkpoint=checkpoint,
        resumed_step=resumed,
    )


def seen(told: Progress | None, state: str = "Running") -> Observation:
    pods = tuple(Pod(f"demo-worker-{i}-0", f"u{i}", i, 0, "Running", ready=True) for i in range(2))
    job = make_job(Status(state=state), replicas=2)
    return Observation(now=datetime.now(UTC), job=job, pods=pods, progress=told)


def interrupted(log: bool) -> History:
    """Steps 1 to 55 at a second each, the loss of a worker at 55.5 s, back at step 51 at 63 s."""
    history = History()
    for step in range(1, 56):
        if log:
            history.logged([Step(float(step), step, 8.0 - step / 20)])
        history.observe(step + 0.2, seen(progress(step, saved=50 if step > 50 else 0)))
    history.interrupt(55.5, "demo-worker-1-0", progress(55, saved=50))
    history.observe(60.0, seen(None))
    for step in range(51, 101):
        if log:
            history.logged([Step(12.0 + step, step, 8.0 - step / 20)])
        history.observe(12.9 + step, seen(progress(step, 2, 50, resumed=50)))
    return history


@pytest.mark.parametrize(("log", "recovery_s"), [(True, 7.5), (False, 8.4)], ids=["from the log", "from reports"])
def test_an_interruption_is_followed_to_its_end(log: bool, recovery_s: float) -> None:
    (found,) = interrupted(log).interruptions
    assert (found.step, found.checkpoint_step, found.resumed_step) == (55, 50, 50)
    assert found.recovery_s == pytest.approx(recovery_s)
    assert found.caught_up_s == pytest.approx(56 + 12.9 - 55.5)


@pytest.mark.parametrize("log", [True, False])
def test_steps_that_were_done_again_count_once(log: bool) -> None:
    history = interrupted(log)
    assert [step.step for step in history.curve()] == list(range(1, 101))
    assert [line[0].step for line in history.lines()] == [1, 51]
    assert history.curve()[50].time_s > 60


def test_a_second_start_without_an_interruption_is_no_recovery() -> None:
    history = History()
    history.logged([Step(1.0, 1, 8.0), Step(2.0, 2, 7.0), Step(9.0, 2, 7.0)])
    assert len(history.segments) == 2
    assert history.interruptions == []


def test_the_step_log_reads_what_was_appended(tmp_path: Path) -> None:
    log, path = StepLog(BEGAN), tmp_path / "pod.log"
    assert log.read([path]) == []
    line = "[rank0] 2026-03-01T12:00:0{0}.500 INFO rank=0 step={0} loss=7.{0} lr=0.1 epoch=0\n"
    path.write_text("noise\n" + line.format(1) + line.format(2)[:40])
    assert log.read([path]) == [Step(1.5, 1, 7.1)]
    path.write_text("noise\n" + line.format(1) + line.format(2))
    with path.open("a") as file:
        file.write("[rank0] 2026-03-01T12:00:03.000 INFO rank=0 evaluated step=2 validation_loss=5.0\n")
    assert log.read([path]) == [Step(2.5, 2, 7.2)]
    assert log.read([path]) == []


def test_the_fault_waits_for_half_of_the_steps_and_something_to_lose() -> None:
    fault = KillOne()
    assert fault.victim(seen(progress(60))) is None  # no checkpoint
    assert fault.victim(seen(progress(54, saved=25))) is None  # not yet
    assert fault.victim(seen(progress(60, saved=60))) is None  # nothing to lose
    assert fault.victim(seen(progress(55, saved=50), state="Starting")) is None
    assert fault.victim(seen(replace(progress(55, saved=50), phase="checkpointing"))) is None
    assert fault.victim(seen(None)) is None
    found = fault.victim(seen(progress(55, saved=50)))
    assert found is not None
    assert found[0] == "demo-worker-1-0"


def test_the_summary_says_what_was_due() -> None:
    status = Status(state="Succeeded", generation=2, goodput=GoodputStatus(productive=80, startup=10, recovery=10))
    summary = summarise(make_job(status, replicas=2), interrupted(log=True))
    page = markdown(summary)
    assert "1,600 (100 steps of 16)" in page
    assert "1.3000 under the corpus' unigram entropy of 6.3000" in page
    assert "80% of the time was productive (productive 80 s, startup 10 s, recovery 10 s)" in page
    assert "| resumed from checkpoint | step 50 |" in page
    assert "| recovery (kill to next step) | 7.5 s |" in page
    assert "but 100 steps of 16" in markdown(replace(summary, samples=1599))


def test_the_figure_is_drawn_with_and_without_an_interruption(tmp_path: Path) -> None:
    for name, history in (("full", interrupted(log=True)), ("empty", History())):
        path = tmp_path / f"{name}.png"
        draw(history, summarise(make_job(Status(state="Failed"), replicas=2), history), path)
        assert struct.unpack(">II", path.read_bytes()[16:24]) == (1600, 1000)


def test_numbers_for_people() -> None:
    assert [duration(s) for s in (None, 5, 65, 3725)] == ["—", "5s", "1m05s", "1h02m05s"]
    assert (number(None), number(1.23456), count(1234.5)) == ("—", "1.2346", "1,234")
    assert sparkline([3, 2, 1]) == "█▅▁"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)), 40)) == 40
