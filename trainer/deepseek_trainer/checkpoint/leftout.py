"""Steps that are left out since a rollback: in the job's folder, so that every later start knows them.

A step is known by its number, and in the mode where that says what it trains on. It is therefore forgotten with the data:
another segment of the ledger has other samples in the step of that number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout


def record(folder: Path, *, job: str, ledger: dict[str, Any], steps: range, why: str) -> None:
    """Appends steps, before the process ends that found them bad.

    Args:
        job: its UID.
        ledger: `Ledger.to_json()`.
        steps: numbers, from 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    durable.append_line(folder / layout.LEFT_OUT, line(job=job, ledger=ledger, steps=steps, why=why))


def line(*, job: str, ledger: dict[str, Any], steps: range, why: str) -> str:
    """What is recorded."""
    said = {
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "job": job,
        "from_step": ledger["from_step"],
        "first": steps.start,
        "last": steps.stop - 1,
        "why": why,
    }
    return json.dumps(said)


def steps(folder: Path, *, job: str, ledger: dict[str, Any]) -> frozenset[int]:
    """All that were recorded of this job and the ledger's segment; lines that no trainer has finished are passed over."""
    file = folder / layout.LEFT_OUT
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else ()
    return read(lines, job=job, ledger=ledger)


def read(lines: Iterable[str | bytes], *, job: str, ledger: dict[str, Any]) -> frozenset[int]:
    """What these lines say of it."""
    found: set[int] = set()
    for recorded in lines:
        try:
            said = json.loads(recorded)
            if (said["job"], said["from_step"]) == (job, ledger["from_step"]):
                found |= set(range(int(said["first"]), int(said["last"]) + 1))
        except (ValueError, KeyError, TypeError):
            continue
    return frozenset(found)
