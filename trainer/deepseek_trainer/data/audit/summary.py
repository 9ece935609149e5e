"""A proof in words: rows of a table with two columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import TERMINATION_LOG_MAX_BYTES
from deepseek_trainer.data.audit import places
from deepseek_trainer.data.audit.proof import Proof, Verdict, judge
from deepseek_trainer.errors import TrainerError

_WORDS = {
    Verdict.PROVEN: "proven: every sample exactly once",
    Verdict.NOT_PROVEN: "NOT proven",
    Verdict.UNKNOWN: "unknown: evidence is missing or damaged",
}

_ROW_MAX = 400
"""Characters of a row in a brief answer."""


def answer(where: Path | str, *, at: int | None = None, endpoint: str = "") -> dict[str, Any]:
    """The proof about a job's folder as JSON, with its rows; unknown where there is nothing to judge.

    Args:
        where: the folder, or the URL of the job's part of an object store.
        at: a step whose chain is wanted too.
        endpoint: URL of the store's server, where it is not the provider's own.
    """
    try:
        with places.opened(where, endpoint) as place:
            proof = judge(place, at=at)
    except (TrainerError, ConfigError, OSError) as error:
        return {"verdict": Verdict.UNKNOWN.value, "rows": [("unknown", str(error))]}
    return {**proof.to_json(), "rows": rows(proof)}


def rows(proof: Proof) -> list[tuple[str, str]]:
    """What a person asks first, in this order."""
    shown = [
        ("verdict", _WORDS[proof.verdict]),
        ("checkpoint", f"{proof.checkpoint}, {proof.counted} of {proof.starts} starts of training are in it"),
        ("steps", f"{proof.audited:,} of {proof.step:,} audited"),
        ("samples", f"{proof.samples:,} trained, {proof.lost:,} {_missing(proof)}, {proof.repeated:,} repeated"),
        ("shards", _shards(proof)) if proof.shards else ("epochs", _epochs(proof)),
        ("chain", _chain(proof)),
    ]
    if proof.strange:
        shown.append(("strange", f"{proof.strange:,} samples that the data doesn't have, or that were not due yet"))
    if proof.shards and proof.lost and not proof.lost_rows:
        shown.append((_missing(proof), f"rows that can't be told one by one: {proof.lost:,}"))
    if proof.endless:
        shown.append(
            (_missing(proof), f"the end of shards that are done, and rows before it: {proof.endless:,} shards")
        )
    shown += [
        (_missing(proof), f"epoch {epoch}{_of(proof, from_step)}: sample {sample}")
        for from_step, epoch, sample in proof.lost_examples
    ]
    shown += [
        ("repeated", f"epoch {epoch}: sample {sample}, again in step {step}")
        for step, epoch, sample in proof.repeated_examples
    ]
    shown += [
        (_missing(proof), f"shard {lease}{_of(proof, from_step)}: row {row}")
        for from_step, lease, row in proof.lost_rows
    ]
    shown += [
        ("repeated", f"shard {lease}: row {row}, again in step {step}") for step, lease, row in proof.repeated_rows
    ]
    shown += [("no evidence", gap) for gap in proof.gaps]
    shown += [("problem", problem) for problem in proof.problems]
    return shown


def brief(whole: dict[str, Any]) -> dict[str, Any]:
    """Of an answer (a proof as JSON, and its rows) what fits into a pod's last words: rows are left out at the end."""
    kept: dict[str, Any] = {
        name: whole[name] for name in ("verdict", "checkpoint", "step", "chain", "chain_at") if name in whole
    }
    shown = [(name, text[:_ROW_MAX]) for name, text in whole["rows"]]
    left_out = 0
    while len(json.dumps({**kept, "rows": shown})) > TERMINATION_LOG_MAX_BYTES - _ROW_MAX:
        shown.pop()
        left_out += 1
    return {**kept, "rows": [*shown, ("more", f"{left_out} rows are left out")] if left_out else shown}


def _missing(proof: Proof) -> str:
    return "without a record" if proof.gaps else "lost"


def _of(proof: Proof, from_step: int) -> str:
    return f" of the data from step {from_step + 1} on" if proof.segments > 1 else ""


def _epochs(proof: Proof) -> str:
    now = proof.epoch
    changed = f" on {proof.segments} different data" if proof.segments > 1 else ""
    whole = f"{proof.complete:,} complete{changed}"
    if not now.get("due"):
        return whole
    return f"{whole}; epoch {now['number']}: {now['trained']:,} of {now['samples']:,} so far"


def _shards(proof: Proof) -> str:
    changed = f" on {proof.segments} different data" if proof.segments > 1 else ""
    epochs = f"; {proof.complete:,} epochs complete" if proof.complete else ""
    return f"{proof.shards['whole']:,} whole{changed}, {proof.shards['open']:,} open{epochs}"


def _chain(proof: Proof) -> str:
    if proof.chain is None:
        return "can't be recomputed without all records"
    if proof.chain != proof.expected_chain:
        return "differs from the checkpoint's"
    return f"{proof.chain[:12]}…, recomputed; equal to the checkpoint's"
