"""The termination log: the last progress, with the failure if there was one, as JSON of at most 4 KiB."""

from __future__ import annotations

from pathlib import Path

from deepseek_trainer.agent.failure import shorten
from deepseek_trainer.agent.log import EventLog
from deepseek_trainer.contract import TERMINATION_LOG_MAX_BYTES, Progress

TEXTS = ("chain", "resumed_from", "passed_over")
"""Texts of the report that may be of any length, least needed first."""
FEW_NODES = 4


def write(path: Path, progress: Progress, log: EventLog) -> None:
    """Writes in place: kubelet mounts the file itself, so it can't be replaced. Never raises."""
    try:
        path.write_bytes(encode(progress))
    except OSError as error:
        log.warning("termination log not written", path=path, reason=error.strerror or error)


def encode(progress: Progress, limit: int = TERMINATION_LOG_MAX_BYTES) -> bytes:
    """JSON of the progress in at most `limit` bytes: always whole, with less in it when it does not fit."""
    candidates = [progress.model_copy(update={"stragglers": None, "experts": None})]
    candidates.append(
        candidates[-1].model_copy(update=dict.fromkeys(TEXTS) | {"hangs": progress.hangs[-1:], "data": None})
    )
    failure, slim = progress.failure, candidates[-1].model_copy(update={"checkpoint": None, "hangs": ()})
    for message_bytes in (512, 128, 0):
        cut = failure and failure.model_copy(update={"message": shorten(failure.message, message_bytes)})
        candidates.append(slim.model_copy(update={"failure": cut}))
    if failure and failure.nodes:  # a node's name may have 253 characters
        cut = failure.model_copy(update={"message": "", "nodes": failure.nodes[:FEW_NODES]})
        candidates.append(slim.model_copy(update={"failure": cut}))
    bare = Progress(
        phase=progress.phase,
        step=progress.step,
        generation=progress.generation,
        attempt=progress.attempt,
        round=progress.round,
        node_rank=progress.node_rank,
        process_restarts=progress.process_restarts,
    )
    for candidate in candidates:
        content = candidate.model_dump_json(by_alias=True, exclude_none=True).encode()
        if len(content) <= limit:
            return content
    return bare.model_dump_json(by_alias=True, exclude_none=True).encode()
