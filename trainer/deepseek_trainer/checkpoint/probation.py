"""A checkpoint from which training fails soon, again and again, is bad though every byte is right; it is passed over.

Weights that are no numbers any more, or a state that crashes the trainer, are committed like any other. What is recorded,
beside the checkpoint, is each start that went on from it and failed by itself: the loss was no number, or the trainer
raised what is no known error, within `STEPS` steps and before it had committed a checkpoint of its own. Two such starts
mark it bad, and the next one goes back to the one before. What the cluster does (a lost node or peer, a preemption, a
planned move, memory that ran out, a volume that fails) is never held against a checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.errors import TrainerError, first_line

log = logging.getLogger(__name__)

STEPS = 100
"""Steps after which a failure says nothing about the checkpoint that training went on from."""
STARTS = 2
"""Starts that failed soon; so many make a checkpoint bad."""
_TEXT_MAX = 300


@contextmanager
def watched(
    checkpoint: Any,
    start: str,
    step: Callable[[], int],
    lost_peer: Callable[[BaseException], bool],
    record: Callable[[Any, str, int, Exception], None] | None,
) -> Iterator[None]:
    """Records it if training fails in here, soon, by itself.

    Args:
        checkpoint: that training went on from; None: from scratch.
        start: name of this start.
        step: optimizer steps that are done.
        lost_peer: whether an error means that a peer went away.
        record: writes it down; None: there is no place where checkpoints are.
    """
    try:
        yield
    except Exception as error:
        if checkpoint is not None and record is not None and is_own(error) and not lost_peer(error):
            record(checkpoint, start, step(), error)
        raise


def is_own(error: BaseException) -> bool:
    """Whether an error may come from the state that training went on from, and not from what is around it."""
    if isinstance(error, TrainerError):
        return error.exit_code is ExitCode.USER_ERROR
    return not isinstance(error, OSError | MemoryError) and type(error).__name__ != "OutOfMemoryError"


def verdict(checkpoint: Path) -> str | None:
    """Why a checkpoint is marked bad; None: it isn't."""
    failed = failures(checkpoint)
    return judged(failed) if len(failed) >= STARTS else None


def judged(failed: list[dict[str, Any]]) -> str:
    """These failures in words."""
    if not failed:
        return "training failed soon, and nobody can read how"
    last = max(failed, key=lambda failure: str(failure["time"]))
    return f"training failed soon in {len(failed)} starts from it, last after step {last['step']}: {last['error']}"


def failures(checkpoint: Path) -> list[dict[str, Any]]:
    """The starts that failed soon after they went on from this very checkpoint."""
    try:
        committed = _committed(checkpoint)
        files = list(layout.failed_folder(checkpoint).glob("*.json"))
    except OSError:
        return []
    found = []
    for file in files:
        with suppress(OSError):
            failure = parsed(file.read_bytes())
            if failure is not None and failure["committed"] == committed:  # or it is about one that had the same step
                found.append(failure)
    return found


def trust(checkpoint: Path) -> int:
    """Forgets what was recorded about a checkpoint; how many starts that were."""
    forgotten = len(failures(checkpoint))
    folder = layout.failed_folder(checkpoint)
    if folder.exists():
        shutil.rmtree(folder)
    return forgotten


def described(start: str, step: int, error: Exception, **beside: str) -> dict[str, Any]:
    """A failure of this moment as it is written down, with what is to stand beside it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = f"{type(error).__name__}: {first_line(error)}"[:_TEXT_MAX]
    return {"start": start, "time": now, "step": step, "error": text, **beside}


def parsed(content: bytes | None) -> dict[str, Any] | None:
    """What was written down; None: nobody can read it."""
    try:
        said = json.loads(content or b"")
        return {
            "start": str(said["start"]),
            "time": str(said["time"]),
            "step": int(said["step"]),
            "error": str(said["error"])[:_TEXT_MAX],
            "committed": said.get("committed"),
        }
    except (ValueError, KeyError, TypeError):
        return None


def record_in_folder(checkpoint: Path, start: str, step: int, error: Exception) -> None:
    """Records that a start failed at this step, if that is soon after the checkpoint, and it has committed none since."""
    try:
        loaded = layout.read_manifest(checkpoint)
        if step - loaded.step > STEPS or _has_committed(checkpoint.parent, start, loaded.step):
            return
        folder = layout.failed_folder(checkpoint)
        folder.mkdir(exist_ok=True)
        said = described(start, step, error, committed=_committed(checkpoint))
        durable.replace_json(folder / f"{start}.json", said)  # all ranks say the same
        log.error("failed soon after checkpoint=%s starts=%d of %d", checkpoint.name, len(failures(checkpoint)), STARTS)
    except (OSError, ValueError, TypeError) as problem:
        log.warning("checkpoint=%s: this failure can't be recorded: %s", checkpoint.name, problem)


def _committed(checkpoint: Path) -> str:
    """Tells a checkpoint from any other, of the same step too."""
    return (checkpoint / layout.COMMITTED).read_text(encoding="ascii", errors="replace").strip()


def _has_committed(folder: Path, start: str, since: int) -> bool:
    for step, path in layout.checkpoints(folder):
        if step > since and (path / layout.COMMITTED).exists() and layout.read_manifest(path).start == start:
            return True
    return False
