"""A run's log: whole lines, no step twice, and nothing that fails in it reaches training."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.config import ConfigError, LoggingSpec, RunConfig
from deepseek_trainer.tracking import kinds, runlog
from deepseek_trainer.tracking.jsonl import FILE, Jsonl
from deepseek_trainer.tracking.memo import Memo
from deepseek_trainer.tracking.record import Place, Record
from deepseek_trainer.tracking.runlog import Outlet, RunLog
from pydantic import ValidationError
from support.runs import run_config


def place(folder: Path, uid: str = "u-1") -> Place:
    return Place(folder, "job", uid, "project", None, True, {})


def records(*steps: int, value: float = 1.0) -> list[Record]:
    return [Record(step, 100.0 + step, {"train/loss": value}) for step in steps]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def written(folder: Path, after: int | None, *steps: int, value: float = 1.0, uid: str = "u-1") -> None:
    sink = Jsonl(place(folder, uid), after)
    sink.write(records(*steps, value=value))
    sink.close()


def test_a_series_goes_on_from_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, None, 1, 2, 3, 4)
    written(tmp_path, 2, 3, 4, 5, value=2.0)
    header, *found = lines(tmp_path)
    assert header == {"job": "job", "uid": "u-1"}
    assert [(line["step"], line["train/loss"]) for line in found] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert found[0]["time"] == 101.0


@pytest.mark.parametrize("rest", ['{"step":3,"train', '{"step":3}', "null\n", "\0\0\0\n", '{"step":"x"}\n'])
def test_what_a_crash_has_torn_is_cut_off(tmp_path: Path, rest: str) -> None:
    written(tmp_path, None, 1, 2)
    with (tmp_path / FILE).open("a") as file:
        file.write(rest)
    written(tmp_path, 4, 5)
    assert [line["step"] for line in lines(tmp_path)[1:]] == [1, 2, 5]


def test_a_run_that_starts_over_writes_anew_but_never_over_another_jobs_series(tmp_path: Path) -> None:
    written(tmp_path, None, 1, 2)
    written(tmp_path, None, 1)
    assert [line["step"] for line in lines(tmp_path)[1:]] == [1]
    written(tmp_path, None, 7, uid="u-2")
    assert [line["step"] for line in lines(tmp_path)[1:]] == [7]
    assert len((tmp_path / "metrics-u-1.jsonl").read_text().splitlines()) == 2


def test_what_lies_elsewhere_gets_no_step_twice(tmp_path: Path) -> None:
    first = Memo.of(place(tmp_path), "mlflow", None)
    first.run = "r"
    assert first.new(records(1, 2, 3)) == records(1, 2, 3)
    first.keep(3)
    second = Memo.of(place(tmp_path), "mlflow", 1)
    assert second.run == "r"
    assert second.new(records(2, 3, 4)) == records(4)
    assert Memo.of(place(tmp_path), "mlflow", None).run is None, "a run that starts over is another run"
    (tmp_path / "mlflow.json").write_text("{torn")
    assert Memo.of(place(tmp_path), "mlflow", 1).run is None


class Faulty:
    """Fails as often as it is told to; every call is on record."""

    def __init__(self, failures: int) -> None:
        self.failures, self.opened, self.got = failures, [], []  # type: ignore[var-annotated]

    def __call__(self, place: Place, after: int | None) -> Faulty:
        self.opened.append(after)
        return self

    def write(self, records: Sequence[Record]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.got += [record.step for record in records]

    def close(self) -> None:
        self.got.append(-1)


def test_a_log_that_fails_warns_once_and_is_tried_again_a_minute_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now, sink = [0.0], Faulty(2)
    outlet = Outlet("JSONL", sink, place(tmp_path), 3, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for now[0], step in ((0.0, 4), (1.0, 5), (61.0, 6), (62.0, 7), (130.0, 8), (131.0, 9)):
            outlet.write(records(step))
        outlet.close()
    assert sink.opened == [3, 3, 3], "opened again after each failure, to go on where it was"
    assert sink.got == [-1, -1, 8, 9, -1]
    (warning,) = caplog.messages
    assert "trainer.logging: JSONL can't be written: OSError: [Errno 28] No space left" in warning
    assert "training goes on" in warning


def test_telling_never_waits_for_a_log_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runlog, "MOST_WAITING", 5)
    monkeypatch.setattr(runlog, "CLOSING_S", 0.05)
    hangs, release = threading.Event(), threading.Event()

    class Hanging(Faulty):
        def write(self, records: Sequence[Record]) -> None:
            hangs.set()
            release.wait(60)
            super().write(records)

    sink = Hanging(0)
    told = RunLog([Outlet("MLflow", sink, place(tmp_path), None)], every_steps=5)
    with caplog.at_level(logging.WARNING):
        for step in range(20):
            told.tell(step, {"train/loss": float("nan"), "speed/mfu": None, "train/epoch": 1})
            assert hangs.wait(60)
        told.close()
        assert runlog.is_any_under_way()
        monkeypatch.setattr(runlog, "CLOSING_S", 60.0)
        release.set()
        told.close()
    assert sink.got == [0, 1, 2, 3, 4, 5, -1], "what was told first is written, as much as may wait"
    assert [message.partition(":")[0] for message in caplog.messages] == ["trainer.logging"] * 2, caplog.messages
    assert [step for step in range(1, 12) if told.is_due(step)] == [5, 10]


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    told = RunLog([Outlet("JSONL", kinds.opener("JSONL"), place(tmp_path), None)], every_steps=1)
    told.tell(1, {"train/loss": float("inf"), "speed/mfu": None, "train/epoch": 2}, {"samples": "Grüß Gott"})
    told.close()
    (line,) = lines(tmp_path)[1:]
    assert {name: line[name] for name in line if name != "time"} == {
        "step": 1,
        "train/epoch": 2,
        "samples": "Grüß Gott",
    }


def test_a_kind_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = kinds.KINDS["WandB"]._replace(package="not_installed_anywhere")
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "WandB": missing})
    kinds.require(LoggingSpec(kinds=("JSONL",)))
    with pytest.raises(ConfigError, match=r"trainer.logging.kinds: WandB .*deepseek-trainer\[wandb\]"):
        kinds.require(LoggingSpec(kinds=("JSONL", "WandB")))


@pytest.mark.parametrize(
    ("logging", "checkpoint", "directory"),
    [
        ({"kinds": ["JSONL"]}, "/checkpoints/job", "/checkpoints/job/logs"),
        ({"kinds": ["JSONL"], "directory": "/logs"}, "/checkpoints/job", "/logs"),
        ({"kinds": ["JSONL"], "directory": "/logs"}, "s3://bucket/job", "/logs"),
        ({}, "s3://bucket/job", None),
        ({"kinds": ["JSONL"]}, "s3://bucket/job", ConfigError),
        ({"kinds": ["JSONL"]}, None, ConfigError),
    ],
)
def test_where_a_log_is(logging: dict[str, Any], checkpoint: str | None, directory: Any) -> None:
    wire = run_config(checkpoints=Path("/x"), data_cache=Path("/y"))
    wire["trainer"]["logging"] = logging
    wire["checkpoint"] = checkpoint and {"directory": checkpoint}
    if directory is ConfigError:
        with pytest.raises(ValidationError, match=r"set trainer.logging.directory"):
            RunConfig.model_validate(wire)
    else:
        assert RunConfig.model_validate(wire).log_directory == directory
