"""Steps that are left out since a rollback are those of this job and of this data, whatever a killed process has left behind."""

from __future__ import annotations

from pathlib import Path

from deepseek_trainer.checkpoint import layout, leftout

LEDGER = {"from_step": 0, "step": 40}


def test_known_are_those_of_the_job_and_of_the_segment(tmp_path: Path) -> None:
    assert leftout.steps(tmp_path, job="a", ledger=LEDGER) == frozenset()
    leftout.record(tmp_path / "new", job="a", ledger=LEDGER, steps=range(3, 6), why="the loss is nan")
    leftout.record(tmp_path / "new", job="b", ledger=LEDGER, steps=range(7, 8), why="another job of this name")
    leftout.record(tmp_path / "new", job="a", ledger={"from_step": 20}, steps=range(30, 31), why="other data")
    with (tmp_path / "new" / layout.LEFT_OUT).open("a") as file:
        file.write('{"job": "a", "from_step": 0, "fir')
    leftout.record(tmp_path / "new", job="a", ledger=LEDGER, steps=range(5, 7), why="a spike")

    assert leftout.steps(tmp_path / "new", job="a", ledger=LEDGER) == {3, 4, 5, 6}
    assert leftout.steps(tmp_path / "new", job="a", ledger={"from_step": 20}) == {30}
