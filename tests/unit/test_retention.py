"""What retention leaves in a checkpoint folder, and what reading a checkpoint again comes to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, retention
from deepseek_trainer.checkpoint.layout import DAMAGED, VERIFIED, Manifest
from deepseek_trainer.checkpoint.verifier import Verdict, Verifier, reread


def made(folder: Path, step: int, *, age_s: float = 0.0) -> Path:
    """A committed checkpoint, so old."""
    checkpoint = layout.checkpoint_folder(folder, step)
    checkpoint.mkdir(parents=True)
    shard = checkpoint / "__0_0.distcp"
    shard.write_bytes(b"weights of %d" % step)
    manifest = Manifest(
        version=1,
        job="j",
        step=step,
        generation=1,
        attempt=1,
        world_size=1,
        ledger={"step": step},
        model={},
        files={shard.name: durable.describe(shard)},
        versions={},
        seconds=1.0,
        time=(datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(),
    )
    durable.write_json(checkpoint / layout.MANIFEST, manifest.to_json())
    (checkpoint / layout.COMMITTED).write_text(durable.describe(checkpoint / layout.MANIFEST)["sha256"])
    return checkpoint


def left(folder: Path, **rules: Any) -> list[int]:
    retention.apply(folder, **({"keep": 2, "generation": 1, "newest": 1000} | rules))
    return sorted(step for step, _ in layout.checkpoints(folder))


@pytest.mark.parametrize(
    ("rules", "steps"),
    [
        ({"keep": 1}, [1000]),
        ({"keep": 3}, [800, 900, 1000]),
        ({"keep": 1, "keep_s": 250}, [800, 900, 1000]),
        ({"keep": 3, "keep_s": 1}, [800, 900, 1000]),
        ({"keep": 1, "keep_every_steps": 300}, [300, 600, 900, 1000]),
        ({"keep": 1, "keep_every_steps": 250}, [300, 500, 800, 1000]),
        ({"keep": 1, "keep_every_steps": 10_000}, [1000]),
        ({"keep": 1, "keep_s": 150, "keep_every_steps": 400}, [400, 800, 900, 1000]),
    ],
)
def test_a_checkpoint_stays_while_any_rule_keeps_it(tmp_path: Path, rules: dict[str, int], steps: list[int]) -> None:
    for step in range(100, 1001, 100):
        made(tmp_path, step, age_s=1000 - step)
    assert left(tmp_path, **rules) == steps
    assert left(tmp_path, **rules) == steps, "as often as it is asked"


def test_of_every_so_many_steps_the_same_one_stays_as_time_goes_on(tmp_path: Path) -> None:
    for step in range(70, 1001, 70):
        made(tmp_path, step)
        left(tmp_path, keep=1, newest=step, keep_every_steps=200)
    assert left(tmp_path, keep=1, newest=980, keep_every_steps=200) == [210, 420, 630, 840, 980]


def test_the_newest_that_was_read_again_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        made(tmp_path, step)
    assert reread(layout.checkpoint_folder(tmp_path, 1)) == ""
    assert reread(layout.checkpoint_folder(tmp_path, 2)) == ""
    assert left(tmp_path, keep=1) == [2, 4]
    assert reread(layout.checkpoint_folder(tmp_path, 4)) == ""
    assert left(tmp_path, keep=1) == [4]


def test_one_that_is_damaged_does_not_count(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        made(tmp_path, step)
    newest = layout.checkpoint_folder(tmp_path, 3)
    (newest / "__0_0.distcp").write_bytes(b"weights of 4")
    problem = reread(newest)
    assert problem == "__0_0.distcp differs from its sha256"
    assert problem in (newest / DAMAGED).read_text()
    assert left(tmp_path, keep=1) == [2, 3]


def test_a_manifest_that_is_torn_is_damage(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, 1)
    (checkpoint / layout.MANIFEST).write_text("{")
    assert "differs from the sha256" in (reread(checkpoint) or "")
    assert layout.is_marked(checkpoint, DAMAGED)


def test_a_mark_speaks_of_one_checkpoint_only(tmp_path: Path) -> None:
    first = made(tmp_path, 1)
    assert reread(first) == ""
    assert layout.is_marked(first, VERIFIED)
    assert not layout.is_marked(first, DAMAGED)
    (first / layout.COMMITTED).write_text("0" * 64)
    assert not layout.is_marked(first, VERIFIED)


def test_of_those_that_wait_the_newest_is_read(tmp_path: Path) -> None:
    verifier = Verifier(lambda path: reread(Path(path)))
    verifier.read(7, str(tmp_path / "deleted"))
    verifier.wait()
    assert verifier.verdicts() == [], "nobody knows what it was"
    verifier.read(1, str(made(tmp_path, 1)))
    verifier.wait()
    assert verifier.verdicts() == [Verdict(1, "")]
    assert verifier.verdicts() == []


def test_a_reading_that_fails_is_told_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    def reading(path: str) -> str:
        if path == "step-1":
            raise RuntimeError("can't start new thread")
        return ""

    verifier = Verifier(reading)
    for step in (1, 2):
        verifier.read(step, f"step-{step}")
        verifier.wait()
    assert verifier.verdicts() == [Verdict(2, "")]
    assert caplog.messages == ["not verified step=1: RuntimeError: can't start new thread"]

    verifier.leave()
    verifier.read(1, "step-1")
    verifier.wait()
    assert len(caplog.messages) == 1, "the process ends"
