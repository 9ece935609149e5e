"""The pulse of a training process: what is written is read, whole or not at all."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import pytest
from deepseek_trainer.contract import Env
from deepseek_trainer.pulse import Pulse, PulseWriter, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pulse"


def writer(file: Path) -> PulseWriter:
    """One whose clock goes on by a second with each look."""
    return PulseWriter(file, clock=itertools.count(100.0).__next__)


def seen(file: Path) -> Pulse:
    pulse = read(file)
    assert pulse is not None
    return pulse


def test_a_step_has_its_number_its_end_and_its_seconds(file: Path) -> None:
    pulse = writer(file)
    begun = seen(file)
    assert (begun.step, begun.phase, begun.ticks, begun.touched) == (-1, "starting", 0, 100.0)
    assert all(math.isnan(value) for value in (begun.moment, begun.step_s, begun.busy_s, begun.data_s))
    pulse.enter("training")
    pulse.tick()
    pulse.stepped(7)
    assert seen(file)[:6] == (7, "training", 3, 103.0, 103.0, 2.0)
    assert math.isnan(seen(file).busy_s)
    pulse.stepped(8)
    assert seen(file)[:6] == (8, "training", 4, 104.0, 104.0, 1.0)


def test_what_is_left_of_a_step_besides_waiting_is_the_ranks_own_work(file: Path) -> None:
    pulse = writer(file)
    pulse.enter("training")  # at 101
    with pulse.waiting():
        pulse.tick()  # a wait of two seconds
    with pytest.raises(OSError, match="lost"), pulse.waiting():
        raise OSError("a peer was lost")  # after one
    pulse.waited(0.5)
    pulse.stepped(1)
    assert (seen(file).step_s, seen(file).busy_s) == (6.0, 2.5)
    pulse.stepped(2)
    assert math.isnan(seen(file).busy_s), "a wait of the step before counts no more"
    with pulse.waiting():
        pulse.enter("evaluating")
    pulse.enter("training")
    pulse.stepped(3)
    assert math.isnan(seen(file).busy_s), "a wait outside of steps counts for none"


def test_a_wait_for_data_is_own_work_that_is_told_beside_it(file: Path) -> None:
    pulse = writer(file)
    pulse.enter("training")  # at 101
    with pulse.loading():
        pulse.tick()  # two seconds
    with pulse.waiting(), pytest.raises(OSError, match="gone"), pulse.loading():
        raise OSError("the volume is gone")  # one second, within a wait of three
    pulse.stepped(1)
    assert (seen(file).step_s, seen(file).busy_s, seen(file).data_s) == (8.0, 5.0, 3.0)
    pulse.stepped(2)
    assert math.isnan(seen(file).data_s), "nobody told"


def test_what_is_apart_from_the_step_counts_for_none(file: Path) -> None:
    pulse = writer(file)
    pulse.enter("training")  # at 101
    with pytest.raises(OSError, match="full"), pulse.apart():
        raise OSError("the disk is full")  # after a second
    pulse.stepped(1)  # at 106
    assert seen(file).step_s == 4.0


def test_an_evaluation_is_no_part_of_a_step(file: Path) -> None:
    pulse = writer(file)
    pulse.enter("training")
    pulse.stepped(1)
    pulse.enter("evaluating")
    for _ in range(50):
        pulse.tick()
    assert seen(file).moment == 102.0, "an evaluation makes no steps"
    pulse.enter("training")
    pulse.enter("training")
    pulse.stepped(2)
    assert seen(file).step_s == 1.0


@pytest.mark.parametrize("cut", [1, 8, 40, 60, 75, 130])
def test_a_record_that_was_torn_leaves_the_one_before(file: Path, cut: int) -> None:
    pulse = writer(file)
    with pulse.waiting(), pulse.loading():
        pulse.stepped(0)
    with pulse.waiting(), pulse.loading():
        pass
    pulse.stepped(1)
    before, whole = seen(file), file.read_bytes()
    pulse.stepped(2)
    after = file.read_bytes()
    half = len(whole) // 2
    (slot,) = [start for start in (0, half) if whole[start : start + half] != after[start : start + half]]
    file.write_bytes(after[: slot + cut] + whole[slot + cut :])
    assert repr(read(file)) == repr(before), "NaN is not itself"


def test_parts_of_a_step_are_own_work_alone_and_stay_until_they_are_measured_again(file: Path) -> None:
    pulse = writer(file)
    pulse.enter("training")  # at 101
    with pulse.part("forward"):  # from 102
        with pulse.waiting():
            pulse.tick()  # two seconds
        with pulse.loading():
            pass  # one
    with pulse.part("forward"):
        pass  # one more second
    with pytest.raises(OSError, match="lost"), pulse.part("backward"):
        raise OSError("a peer was lost")
    pulse.memory(resident=7.0, allocated=5.0)
    pulse.stepped(1)
    first = seen(file)
    assert (first.forward_s, first.backward_s, first.waited_s) == (4.0, 1.0, 2.0)
    assert (first.resident_bytes, first.allocated_bytes) == (7.0, 5.0)
    assert math.isnan(first.optimizer_s)
    assert math.isnan(first.reserved_bytes)
    pulse.stepped(2)
    assert seen(file)[8:13] == pytest.approx(first[8:13], nan_ok=True), "of the last step that was measured"
    with pulse.part("forward"):
        pass
    pulse.stepped(3)
    assert (seen(file).forward_s, seen(file).backward_s) == (1.0, 1.0)


@pytest.mark.parametrize("content", [b"", b"\0" * 256, b"x" * 256, b"\0" * 100])
def test_what_is_no_pulse_is_none(file: Path, content: bytes) -> None:
    assert read(file) is None
    file.write_bytes(content)
    assert read(file) is None


def test_every_rank_writes_and_without_an_agent_nobody(file: Path) -> None:
    PulseWriter.from_environment({Env.PULSE_FILE: str(file), "RANK": "3"}).stepped(5)
    assert seen(file).step == 5
    PulseWriter.from_environment({}).stepped(5)
    assert os.listdir(file.parent) == [file.name]
