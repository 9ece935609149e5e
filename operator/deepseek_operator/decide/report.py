"""What a worker says about itself, made safe: JSON of unknown origin -> Progress.

Rules: whoever wrote it may be broken or hostile. Too long, not JSON or not an object: no report at all. A field
of the wrong type, NaN, infinite, negative or absurdly large: that field is left out, the others count. Strings
are cut and stripped of control characters, because they go to a terminal.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deepseek_operator.api.conditions import rfc3339
from deepseek_operator.api.names import (
    CHECKPOINT_MESSAGE_LENGTH,
    PROGRESS_MAX_BYTES,
    QUARANTINED_LENGTH,
    QUARANTINED_SHOWN,
    STRAGGLERS_MAX,
)
from deepseek_operator.decide.types import CheckpointFailure, Data, Progress, SettledHang, Silence, Straggler

INT_MAX = 2**53
"""Integers above are not exact in every JSON reader; no counter of ours gets there."""
NUMBER_MAX = 1e15
TEXT_MAX = 1024
PATH_MAX = 4096
CHAIN_MAX = 128
NODES_MAX = 16
HANGS_MAX = 8
PASSED_OVER_MAX = 5
HANG_REASONS = frozenset({"frozen", "silent", "behind"})
SILENT_MAX = 16
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
PHASES = frozenset({"starting", "preparing", "training", "evaluating", "checkpointing", "finished", "waiting"})
RESTORED_TIERS = ("memory", "peer", "volume")
GOODPUT_KEYS = ("productive", "startup", "checkpoint", "recovery", "stalled", "waiting")


def parse_report(document: bytes | str) -> Progress | None:
    """The report in a document; None when there is none in it."""
    if len(document) > PROGRESS_MAX_BYTES:
        return None
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return None
    return report_from(found) if isinstance(found, dict) else None


def report_from(found: Mapping[str, Any]) -> Progress:
    """The report in a JSON object, with the fields that are as they must be."""
    return Progress(
        generation=_count(found.get("generation")) or 0,
        attempt=_count(found.get("attempt")) or 0,
        round=_count(found.get("round")) or 0,
        phase=_phase(found.get("phase")),
        step=_count(found.get("step")),
        total_steps=_count(found.get("totalSteps")),
        epoch=_count(found.get("epoch")),
        position=_count(found.get("position")),
        chain=_text(found.get("chain"), CHAIN_MAX),
        loss=_number(found.get("loss")),
        validation_loss=_number(found.get("validationLoss")),
        unigram_entropy=_number(found.get("unigramEntropy")),
        tokens_per_second=_number(found.get("tokensPerSecond")),
        eta_seconds=_number(found.get("etaSeconds")),
        checkpoint=_checkpoint(found.get("checkpoint")),
        checkpoint_failure=_checkpoint_failure(found.get("checkpointFailure")),
        resumed_step=_count(found.get("resumedStep")),
        resumed_from=_text(found.get("resumedFrom"), PATH_MAX),
        restored_bytes=_restored_bytes(found.get("restoredBytes")),
        passed_over=_passed_over(found.get("passedOver")),
        process_restarts=_count(found.get("processRestarts")) or 0,
        goodput=_goodput(found.get("goodput")),
        hangs=_hangs(found.get("hangs")),
        silence=_silence(found.get("silence")),
        news=_count(found.get("news")) or 0,
        failure=_failure(found.get("failure")),
        data=_data(found.get("data")),
        stragglers=_stragglers(found.get("stragglers")),
    )


def clean(text: str, limit: int) -> str:
    """Text that may be shown: newlines and tabs stay, other control characters go, the end is cut."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())[:limit].strip()


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INT_MAX:
        return None
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= NUMBER_MAX else None


def _text(value: Any, limit: int) -> str | None:
    return (clean(value, limit) or None) if isinstance(value, str) else None


def _phase(value: Any) -> str:
    return value if isinstance(value, str) and value in PHASES else ""


def _time(value: Any) -> str | None:
    """An RFC 3339 moment; anything else would be refused by the API server, and the whole status with it."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return rfc3339(moment) if moment is not None and moment.tzinfo is not None else None


def _checkpoint(value: Any) -> dict[str, Any] | None:
    """The first five fields or nothing: half a checkpoint is no place to go back to."""
    if not isinstance(value, dict):
        return None
    found = {
        "step": _count(value.get("step")),
        "time": _time(value.get("time")),
        "path": _text(value.get("path"), PATH_MAX),
        "bytes": _count(value.get("bytes")),
        "seconds": _number(value.get("seconds")),
    }
    if any(part is None for part in found.values()):
        return None
    more = {"blocked_seconds": value.get("blockedSeconds"), "interval_seconds": value.get("intervalSeconds")}
    found |= {name: number for name, said in more.items() if (number := _number(said)) is not None}
    verified = value.get("verified")
    return found | {"verified": verified} if isinstance(verified, bool) else found


def _checkpoint_failure(value: Any) -> CheckpointFailure | None:
    """Step, time and number, or nothing; the message may be missing."""
    if not isinstance(value, dict):
        return None
    step, time, failures = _count(value.get("step")), _time(value.get("time")), _count(value.get("failures"))
    if step is None or time is None or not failures:
        return None
    text = _text(value.get("message"), CHECKPOINT_MESSAGE_LENGTH) or ""
    return CheckpointFailure(step, time, failures, " ".join(text.split()))


def _passed_over(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(text for entry in value[:PASSED_OVER_MAX] if (text := _text(entry, TEXT_MAX))) or None


def _restored_bytes(value: Any) -> dict[str, int] | None:
    if not isinstance(value, dict):
        return None
    return {tier: _count(value.get(tier)) or 0 for tier in RESTORED_TIERS}


def _goodput(value: Any) -> dict[str, float] | None:
    if not isinstance(value, dict):
        return None
    return {key: _number(value.get(key)) or 0.0 for key in GOODPUT_KEYS}


def _hangs(value: Any) -> tuple[SettledHang, ...]:
    """The newest ones, in their order, each once; what has no generation and round is none."""
    found = {}
    for entry in value[-HANGS_MAX:] if isinstance(value, list) else []:
        if not isinstance(entry, dict):
            continue
        generation, number, reason = _count(entry.get("generation")), _count(entry.get("round")), entry.get("reason")
        if generation and number is not None:
            found[generation, number] = SettledHang(
                generation=generation,
                round=number,
                reason=reason if isinstance(reason, str) and reason in HANG_REASONS else None,
                rank=_count(entry.get("rank")),
                pod=_text(entry.get("pod"), 253) or "",
                step=_count(entry.get("step")),
                seconds=_number(entry.get("seconds")) or 0.0,
                stacks=_text(entry.get("stacks"), 512) or "",
            )
    return tuple(found[key] for key in sorted(found))


def _silence(value: Any) -> Silence | None:
    """What is said of no generation is said of none."""
    if not isinstance(value, dict) or not (generation := _count(value.get("generation"))):
        return None
    nodes = value.get("nodes")
    ranks = [_count(rank) for rank in nodes[:SILENT_MAX]] if isinstance(nodes, list) else []
    return Silence(generation, tuple(rank for rank in ranks if rank is not None), store=value.get("store") is True)


def _nodes(value: Any) -> list[str]:
    """Names of nodes, or of pods: whatever else is in the list is left out."""
    names = value if isinstance(value, list) else []
    return [name for name in names if isinstance(name, str) and _NODE_NAME.fullmatch(name)][:NODES_MAX]


def _data(value: Any) -> Data | None:
    """All three counts or nothing; examples that are no text are left out."""
    if not isinstance(value, dict):
        return None
    tokens, documents, quarantined = (_count(value.get(name)) for name in ("tokens", "documents", "quarantined"))
    if tokens is None or documents is None or quarantined is None:
        return None
    listed = value.get("examples")
    examples = [_line(example) for example in listed[:QUARANTINED_SHOWN]] if isinstance(listed, list) else []
    return Data(tokens, documents, quarantined, tuple(filter(None, examples)))


def _line(value: Any) -> str | None:
    """Text on one line."""
    text = _text(value, QUARANTINED_LENGTH)
    return " ".join(text.split()) if text else None


def _stragglers(value: Any) -> tuple[Straggler, ...] | None:
    """The slow ranks, each whole; half of one names nobody."""
    if not isinstance(value, list):
        return None
    found = (_straggler(part) for part in value[:STRAGGLERS_MAX] if isinstance(part, dict))
    return tuple(straggler for straggler in found if straggler is not None)


def _straggler(value: Mapping[str, Any]) -> Straggler | None:
    rank, pod, node = _count(value.get("rank")), _nodes([value.get("pod")]), _nodes([value.get("node")])
    busy_s, median_s, step_s = (_number(value.get(f"{kind}Seconds")) for kind in ("busy", "median", "step"))
    if rank is None or not pod or busy_s is None or median_s is None or step_s is None:
        return None
    return Straggler(rank, pod[0], node[0] if node else "", busy_s, median_s, step_s)


def _failure(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    code = value.get("exitCode")
    return {
        "kind": _text(value.get("kind"), 32),
        "nodes": _nodes(value.get("nodes")),
        "rank": _count(value.get("rank")),
        "exitCode": code if isinstance(code, int) and not isinstance(code, bool) and abs(code) <= 1024 else None,
        "signal": _text(value.get("signal"), 32),
        "message": _text(value.get("message"), TEXT_MAX) or "",
    }
