"""What is deleted from a checkpoint folder, and what never is.

Only whole checkpoints count towards `keep`, so the newest good one stays even when newer ones are torn. A
checkpoint is renamed before it is deleted: a process that is killed in between leaves a temporary folder, never a
half-deleted checkpoint. Temporary folders of this or an older generation are leftovers once training starts.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import layout, probation

log = logging.getLogger(__name__)


def apply(folder: Path, *, keep: int, generation: int, newest: int) -> None:
    """Deletes what is older than the newest `keep` whole checkpoints.

    Args:
        newest: step of the one that was just committed. Later ones were refused when training started, and don't count.
    """
    whole = 0
    for step, checkpoint in layout.checkpoints(folder):
        if step > newest:
            continue
        if whole >= keep:
            doomed = layout.temporary_folder(folder, step, generation, "deleted")
            durable.rename(checkpoint, doomed)
            shutil.rmtree(doomed)
        elif is_whole(checkpoint) and probation.verdict(checkpoint) is None:
            whole += 1


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is committed and every file has its size; hashes are checked when it is loaded."""
    if not (checkpoint / layout.COMMITTED).exists():
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
