"""How long a restart is put off. Pure: it follows from the failures on record, so that nothing else is remembered.

| cause | wait |
| --- | --- |
| Infrastructure, Preempted, Aftermath | none for three restarts within a minute, then ten seconds after the one before |
| Hang | none: it has waited for recovery.hangTimeoutSeconds already |
| any other | none for the first; then recovery.backoff, doubled for each restart in a row without a newer checkpoint |

The doubled wait is cut to between half and all of it by the job's UID and attempt, so that a hundred jobs that one
fault has brought down don't come back at one moment.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256

from deepseek_operator.api.conditions import parse_time
from deepseek_operator.api.names import Cause
from deepseek_operator.api.v1alpha1 import Backoff
from deepseek_operator.decide.losses import recorded
from deepseek_operator.decide.turn import Turn

BURST = 3
BURST_WINDOW = timedelta(seconds=60)
PAUSE = timedelta(seconds=10)
NOT_ITS_OWN = (Cause.INFRASTRUCTURE, Cause.PREEMPTED, Cause.AFTERMATH)
"""Causes outside of the job."""
_FREE = timedelta(0)


def due(turn: Turn, cause: Cause) -> datetime:
    """When the restart may begin; now or earlier: at once."""
    if cause in NOT_ITS_OWN:
        return _after_burst(turn)
    if cause == Cause.HANG:
        return turn.seen.now
    return _backed_off(turn)


def _after_burst(turn: Turn) -> datetime:
    now, pending = turn.seen.now, recorded(turn.status)
    moments = {parse_time(failure.time) for failure in turn.status.failures if failure not in pending}
    recent = [moment for moment in moments if moment and _FREE <= now - moment < BURST_WINDOW]
    return now if len(recent) < BURST else max(recent) + PAUSE


def _backed_off(turn: Turn) -> datetime:
    now, pending = turn.seen.now, recorded(turn.status)
    seen = (parse_time(pending[0].time) if pending else None) or now
    if seen > now:  # the clock went back
        return now
    wait_s = delay_s(
        turn.seen.job.spec.recovery.backoff,
        turn.status.fruitless_restarts,
        key=f"{turn.seen.job.metadata.uid}/{turn.status.attempt}",
    )
    return seen + timedelta(seconds=wait_s)


def delay_s(backoff: Backoff, fruitless: int, *, key: str) -> float:
    """Seconds before a restart that follows so many others without a newer checkpoint; the same for the same key."""
    if fruitless == 0:
        return 0.0
    whole_s = min(backoff.max_seconds, backoff.initial_seconds * 2.0 ** min(fruitless - 1, 32))
    share = int.from_bytes(sha256(key.encode()).digest()[:4], "big") / 2**32
    return whole_s * (0.5 + 0.5 * share)
