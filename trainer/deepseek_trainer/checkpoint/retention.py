"""What is deleted from a checkpoint folder, and what never is.

Only whole checkpoints count towards `keep`, so the newest good one stays even when newer ones are torn; and so does the
newest that was read again and found whole, however many newer ones there are that nobody has read yet. A
checkpoint is renamed before it is deleted: a process that is killed in between leaves a temporary folder, never a
half-deleted checkpoint. Temporary folders of this or an older generation are leftovers once training starts.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, probation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What retention has to know of a committed checkpoint.

    Attributes:
        good: whole as far as names and sizes tell, not found damaged later, and not marked bad.
        verified: read again since, and found whole.
        time: RFC 3339; "" where it isn't known.
    """

    step: int
    good: bool = False
    verified: bool = False
    time: str = ""


def doomed(
    found: Sequence[Known], *, keep: int, keep_s: int | None = None, keep_every_steps: int | None = None
) -> list[int]:
    """Places in `found` of the checkpoints that nothing keeps: all but the newest `keep` good ones and those named below.

    Args:
        found: newest first. Of several good ones of a step the first counts, and the others go.
        keep_s: good ones that are younger than so many seconds stay.
        keep_every_steps: of every so many steps, the first good one stays; not of those before the first so many.
    """
    good: dict[int, int] = {}
    for place, known in enumerate(found):
        if known.good:
            good.setdefault(known.step, place)
    staying = {good[step] for step in _every(sorted(good), keep_every_steps)}
    staying |= {place for place in good.values() if _is_young(found[place].time, keep_s)}
    staying |= set([place for place in good.values() if found[place].verified][:1])
    counted, going = 0, []
    for place, known in enumerate(found):
        if place in good.values():
            if counted >= keep and place not in staying:
                going.append(place)
            counted += 1
        elif counted >= keep or known.step in good:
            going.append(place)
    return going


def apply(
    folder: Path,
    *,
    keep: int,
    generation: int,
    newest: int,
    keep_s: int | None = None,
    keep_every_steps: int | None = None,
) -> None:
    """Deletes the checkpoints that nothing keeps: older than the newest `keep` whole ones, and none of those named below.

    Args:
        newest: step of the one that was just committed. Later ones were refused when training started, and don't count.
        keep_s: whole ones that are younger than so many seconds stay.
        keep_every_steps: of every so many steps, the first whole one stays; not of those before the first so many.
    """
    found = [(step, checkpoint) for step, checkpoint in layout.checkpoints(folder) if step <= newest]
    known = [_known(step, checkpoint) for step, checkpoint in found]
    for place in doomed(known, keep=keep, keep_s=keep_s, keep_every_steps=keep_every_steps):
        step, checkpoint = found[place]
        going = layout.temporary_folder(folder, step, generation, "deleted")
        durable.rename(checkpoint, going)
        shutil.rmtree(going)


def _known(step: int, checkpoint: Path) -> Known:
    if not is_whole(checkpoint) or probation.verdict(checkpoint) is not None:
        return Known(step)
    return Known(
        step,
        good=True,
        verified=layout.is_marked(checkpoint, layout.VERIFIED),
        time=layout.read_manifest(checkpoint).time,
    )


def _every(steps: list[int], every: int | None) -> set[int]:
    """The first one of each `every` steps."""
    firsts: dict[int, int] = {}
    for step in steps if every is not None else ():
        firsts.setdefault(step // (every or 1), step)
    return {step for number, step in firsts.items() if number > 0}


def _is_young(time: str, keep_s: int | None) -> bool:
    if keep_s is None:
        return False
    try:
        made = datetime.fromisoformat(time)
    except ValueError:
        return False
    return (datetime.now(UTC) - made).total_seconds() < keep_s


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is committed, every file has its size, and no later reading has found anything else."""
    if not (checkpoint / layout.COMMITTED).exists() or layout.is_marked(checkpoint, layout.DAMAGED):
        return False
    try:
        files = layout.read_manifest(checkpoint).files
        return all((checkpoint / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, TypeError):
        return False


def clean(folder: Path, *, generation: int) -> None:
    """Takes from earlier processes what they have not committed; to be called once nobody older passes the fence.

    One of them that is only frozen can't commit any more: its temporary folder is gone, or its mark.
    """
    for owner, leftover in layout.temporaries(folder):
        if owner <= generation:
            log.info("removing unfinished=%s", leftover.name)
            shutil.rmtree(leftover)
    known = layout.checkpoints(folder)
    for about in folder.glob("step-*.failed"):
        if about.with_suffix("") not in [checkpoint for _, checkpoint in known]:
            shutil.rmtree(about)
    for _, checkpoint in known:
        if not (checkpoint / layout.COMMITTED).exists() and _owner(checkpoint) <= generation:
            (checkpoint / layout.MARK).unlink(missing_ok=True)


def _owner(checkpoint: Path) -> int:
    """The generation that made it; 0: nobody knows."""
    try:
        return layout.read_manifest(checkpoint).generation
    except (OSError, ValueError, TypeError):
        return 0
