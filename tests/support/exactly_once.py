"""Whether a finished job used its data exactly once: beside what an undisturbed run of the same config would have used.

Nothing is trained: which samples a step uses is a pure function of the step. The chain over the batches is computed here
anew, not by the trainer's ledger, and each epoch's samples are counted, so that a fault in the ledger is found too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data.ledger import GENESIS, Batch, Ledger
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.store import open_store
from numpy.typing import NDArray

_BEGIN = re.compile(r"\bset up job=")
_RESUMED = re.compile(r"\bresumed step=(\d+) .*\bchain=([0-9a-f]{64})")
_STEP = re.compile(r"[ =]step=(\d+) loss=")


@dataclass(frozen=True)
class Undisturbed:
    """A run without faults.

    Attributes:
        start: the ledger before the first step.
        chains: the chain after each step; chains[0] is that before the first.
    """

    start: Ledger
    chains: tuple[str, ...]

    def after(self, step: int) -> dict[str, Any]:
        """What is true of the data after so many steps."""
        position = step * self.start.global_batch
        return {
            "step": step,
            "position": position,
            "epoch": position // self.start.samples,
            "chain": self.chains[step],
        }


def start_of(config: RunConfig, environ: Mapping[str, str]) -> Ledger:
    """The ledger with which a job of this config begins. Prepares its data, if nobody has."""
    from deepseek_trainer.data import samples  # torch: seconds

    data = samples.of(config, open_store(prepare(config, environ)))
    return Ledger.of(config, fingerprint=data.store.info.fingerprint, samples=data.training, layout=data.layout)


def undisturbed(start: Ledger, steps: int) -> Undisturbed:
    """Goes through all batches of a run.

    Raises:
        AssertionError: a sample is used twice, or never, in one epoch.
    """
    return Undisturbed(start, chains_of(start.samples, (_batch(start, step) for step in range(steps))))


def chains_of(samples: int, batches: Iterable[Batch]) -> tuple[str, ...]:
    """The chain before the first of these batches and after each.

    Raises:
        AssertionError: they use a sample twice in an epoch, or an epoch ends without all of them.
    """
    used: dict[int, NDArray[np.bool_]] = {}
    chains = [GENESIS]
    for number, batch in enumerate(batches, start=1):
        for epoch in np.unique(batch.epochs):
            seen = used.setdefault(int(epoch), np.zeros(samples, dtype=np.bool_))
            mine = batch.samples[batch.epochs == epoch]
            again = sorted({int(sample) for sample in mine if seen[sample]})
            assert not again, f"step {number} uses samples of epoch {epoch} again: {again[:5]}"
            assert len(np.unique(mine)) == len(mine), f"step {number} uses a sample of epoch {epoch} twice"
            seen[mine] = True
        newest = int(batch.epochs.max())
        for epoch in [epoch for epoch in used if epoch < newest]:
            lost = np.flatnonzero(~used.pop(epoch))
            assert not lost.size, f"epoch {epoch} is over at step {number} without samples {lost[:5].tolist()}"
        numbers = np.sort(batch.epochs.astype(np.int64) * samples + batch.samples)
        chains.append(hashlib.sha256(bytes.fromhex(chains[-1]) + numbers.astype(">i8").tobytes()).hexdigest())
    return tuple(chains)


def of_status(status: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's status says about its data; values are None where it says nothing."""
    said = status.get("training") or {}
    return {
        "step": said.get("step"),
        "position": said.get("samples"),
        "epoch": said.get("epoch"),
        "chain": said.get("chain"),
    }


def of_checkpoint(folder: Path) -> dict[str, Any]:
    """The same of the newest committed checkpoint in a job's folder.

    Raises:
        AssertionError: there is none.
    """
    whole = [path for _, path in layout.checkpoints(folder) if (path / layout.COMMITTED).exists()]
    assert whole, f"no committed checkpoint in {folder}"
    ledger = layout.read_manifest(whole[0]).ledger
    return {name: ledger.get(name) for name in ("step", "position", "epoch", "chain")}


def differences(expected: Undisturbed, steps: int, said: Mapping[str, Any], who: str) -> list[str]:
    """What is not as after so many undisturbed steps."""
    return [
        f"{who}: {name} is {said.get(name)}, undisturbed it is {value}"
        for name, value in expected.after(steps).items()
        if said.get(name) != value
    ]


def log_problems(expected: Undisturbed, log: str, who: str) -> list[str]:
    """What is wrong in the log of one pod: a start from other data than its step has, a step left out or made again.

    Only the training process of rank 0 writes these lines; each process begins anew, at a checkpoint or at 0.
    """
    found: list[str] = []
    step: int | None = None
    for line in log.splitlines():
        if _BEGIN.search(line):
            step = 0
        elif resumed := _RESUMED.search(line):
            step = int(resumed[1])
            if step >= len(expected.chains) or expected.chains[step] != resumed[2]:
                found.append(f"{who}: resumed at step {step} with another chain: {resumed[2]}")
        elif made := _STEP.search(line):
            if step is not None and int(made[1]) != step + 1:
                found.append(f"{who}: step {made[1]} follows step {step}")
            step = int(made[1])
    return found


def require(
    expected: Undisturbed, *, status: Mapping[str, Any], folder: Path, logs: Mapping[str, str] | None = None
) -> None:
    """Checks a job that has succeeded.

    Args:
        expected: of all its steps.
        status: as its custom resource has it.
        folder: of its checkpoints.
        logs: of its pods, by name; those that are gone may be missing.

    Raises:
        AssertionError: some data was not used exactly once; the message has all that was found.
    """
    steps = len(expected.chains) - 1
    found = [
        *differences(expected, steps, of_status(status), "status"),
        *differences(expected, steps, of_checkpoint(folder), "newest checkpoint"),
    ]
    for name, log in (logs or {}).items():
        found += log_problems(expected, log, name)
    assert not found, "\n".join(found)


def _batch(start: Ledger, step: int) -> Batch:
    """The batch of a step, wherever a run begins: it depends on the step alone."""
    return replace(start, step=step).batch()
