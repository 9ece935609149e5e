"""The proof: whether what the weights of the newest checkpoint were trained on was each sample exactly once an epoch.

It goes by what the ranks wrote down after their optimizer steps, not by what the ledger had planned, and never writes to
the folder, so that it may run beside the training. Memory: see `tally`; what is named in the answer is bounded, and all
of it is counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.data.audit.lineage import Part, lineage, newest
from deepseek_trainer.data.audit.reading import Evidence
from deepseek_trainer.data.audit.records import DamagedError
from deepseek_trainer.data.audit.tally import EXAMPLES, Epoch, Tally
from deepseek_trainer.data.ledger import GENESIS, Batch, link
from deepseek_trainer.errors import DataError


class Verdict(StrEnum):
    """What the audit comes to."""

    PROVEN = "proven"
    NOT_PROVEN = "not proven"
    """It shows that samples were lost or repeated, or that the chain is another one."""
    UNKNOWN = "unknown"
    """Evidence is missing or damaged, and what is left shows nothing wrong."""


@dataclass
class Proof:
    """The answer; counts are exact, lists hold ten entries at most.

    Attributes:
        checkpoint: name of the newest whole checkpoint of the present weights, which this is about.
        starts: of training, on the folder; `counted` of them are in the checkpoint's weights.
        audited: steps whose records were read.
        samples: trained in those steps.
        segments: stretches of steps on the same data; epochs are counted anew in each.
        lost: samples that were due up to the checkpoint, and of which there is no record.
        repeated: times that a sample was trained again in its epoch.
        strange: records of samples or epochs that the data doesn't have, or that were not due yet.
        complete: epochs of which every sample was trained once.
        epoch: the one in progress: its number, samples trained, due until now, and in all.
        troubled: the first epochs with lost or repeated samples.
        chain: recomputed from the records; None where some are missing.
        expected_chain: of the checkpoint's manifest.
        lost_examples: (step after which their segment began, epoch, sample).
        repeated_examples: (step of the second time, epoch, sample).
        chain_at: step and recomputed chain, where it was asked for.
        gaps: steps without evidence, and why.
        problems: contradictions in what was found.
    """

    folder: str
    checkpoint: str
    step: int
    starts: int
    counted: int
    audited: int = 0
    samples: int = 0
    segments: int = 0
    lost: int = 0
    repeated: int = 0
    strange: int = 0
    complete: int = 0
    epoch: dict[str, int] = field(default_factory=dict)
    troubled: list[dict[str, int]] = field(default_factory=list)
    lost_examples: list[tuple[int, int, int]] = field(default_factory=list)
    repeated_examples: list[tuple[int, int, int]] = field(default_factory=list)
    chain: str | None = None
    expected_chain: str = ""
    chain_at: tuple[int, str] | None = None
    gaps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        if self.repeated or self.strange or self.problems:
            return Verdict.NOT_PROVEN
        if self.gaps:
            return Verdict.UNKNOWN
        return Verdict.PROVEN if not self.lost and self.chain == self.expected_chain else Verdict.NOT_PROVEN

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict.value, **asdict(self)}


def prove(folder: Path, *, at: int | None = None) -> Proof:
    """Judges the newest checkpoint in a job's folder.

    Args:
        at: a step whose chain is wanted too.

    Raises:
        DataError: there is nothing to judge: no folder, or no whole checkpoint.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the job's folder on the checkpoint volume")
    found = newest(folder)
    if found is None:
        raise DataError(f"no checkpoint in {folder} is whole: nothing is committed yet, so there is nothing to prove")
    path, manifest = found
    starts = layout.starts(folder)
    parts = lineage(starts, manifest)
    counted = sum(part.start is not None for part in parts)
    proof = Proof(str(folder), path.name, manifest.step, len(starts), counted, expected_chain=manifest.ledger["chain"])
    walk = _Walk(proof, at)
    for part in parts:
        walk.take(folder / layout.AUDIT, part)
    walk.end(manifest)
    _bound(proof.gaps)
    _bound(proof.problems)
    return proof


@dataclass
class _Segment:
    """Steps on the same data; the data as the ranks' ledger has it."""

    from_step: int
    samples: int
    global_batch: int
    fingerprint: str
    tally: Tally

    @classmethod
    def of(cls, ledger: dict[str, Any]) -> _Segment:
        try:
            tally = Tally(int(ledger["samples"]), last_epoch=0)
            fixed = int(ledger["from_step"]), tally.samples, int(ledger["global_batch"]), str(ledger["fingerprint"])
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedError(f"the ledger that they were begun with can't be read: {error!r}") from error
        return cls(*fixed, tally)

    def same_as(self, other: _Segment) -> bool:
        return replace(self, tally=other.tally) == other

    def position(self, step: int) -> int:
        """Samples that were due after a step."""
        return (step - self.from_step) * self.global_batch


class _Walk:
    """Goes through the parts in their order, and adds to the proof what it finds."""

    def __init__(self, proof: Proof, at: int | None) -> None:
        self._proof = proof
        self._at = at
        self._chain: str | None = GENESIS
        self._segment: _Segment | None = None

    def take(self, audit: Path, part: Part) -> None:
        """Counts what one start trained."""
        step = part.first
        try:
            evidence = Evidence(audit, part)
            segment = self._enter(evidence.ledger, part)
            for batch in evidence.batches():
                segment.tally.add(step, batch.samples, batch.epochs)
                self._link(step, batch, segment.samples)
                step += 1
        except DamagedError as error:
            self._chain = None
            self._proof.gaps.append(f"steps {step} to {part.last}: {error}")

    def end(self, manifest: Manifest) -> None:
        """Ends the last segment at the checkpoint, and compares with what that says."""
        proof, said = self._proof, manifest.ledger
        proof.chain = self._chain
        self._close(manifest.step)
        here = _Segment.of(said)
        if self._segment is None:
            self._segment = here
            self._close(manifest.step)
        elif not self._segment.same_as(here):
            proof.problems.append(f"{proof.checkpoint} tells of other data than the records do")
        if proof.chain is not None and proof.chain != proof.expected_chain:
            proof.problems.append(
                f"the chain of the records is {proof.chain[:12]}…, that of {proof.checkpoint} {proof.expected_chain[:12]}…"
            )

    def _enter(self, ledger: dict[str, Any], part: Part) -> _Segment:
        """The segment of a part: the one before, or one that it begins."""
        if self._chain is not None and ledger.get("chain") != self._chain:
            self._proof.problems.append(
                f"step {part.first} was begun with another chain than that of the steps before it"
            )
        found = _Segment.of(ledger)
        if self._segment is None or not self._segment.same_as(found):
            if self._segment is not None:
                if found.from_step != part.first - 1:
                    self._proof.problems.append(f"step {part.first} was begun with other data, but in no new segment")
                self._close(found.from_step)
            self._segment = found
        self._segment.tally.last_epoch = (self._segment.position(part.last) - 1) // self._segment.samples
        return self._segment

    def _link(self, step: int, batch: Batch, samples: int) -> None:
        self._proof.audited += 1
        self._proof.samples += len(batch.samples)
        if self._chain is not None:
            self._chain = link(self._chain, batch, samples)
            if step == self._at:
                self._proof.chain_at = (step, self._chain)

    def _close(self, step: int) -> None:
        """What the counts of a segment come to after its last step."""
        segment, proof = self._segment, self._proof
        if segment is None:
            return
        current, due = divmod(segment.position(step), segment.samples)
        segment.tally.finish(current)
        epochs = segment.tally.epochs
        last = epochs.get(current, Epoch(current))
        last.lost = max(0, due - last.trained)
        over = [epoch for number, epoch in sorted(epochs.items()) if number < current]
        troubled = [epoch for epoch in [*over, last] if epoch.lost or epoch.repeated]
        proof.segments += 1
        proof.strange += segment.tally.strange + max(0, last.trained - due)
        proof.lost += sum(epoch.lost for epoch in troubled)
        proof.repeated += sum(epoch.repeated for epoch in troubled)
        proof.complete += len(over) - sum(epoch.number < current for epoch in troubled)
        proof.epoch = {"number": current, "trained": last.trained, "due": due, "samples": segment.samples}
        named = [{"from_step": segment.from_step, **asdict(epoch)} for epoch in troubled]
        proof.troubled = [*proof.troubled, *named][:EXAMPLES]
        lost = [(segment.from_step, *place) for place in segment.tally.lost_examples]
        proof.lost_examples = [*proof.lost_examples, *lost][:EXAMPLES]
        proof.repeated_examples = [*proof.repeated_examples, *segment.tally.repeated_examples][:EXAMPLES]


def _bound(sentences: list[str]) -> None:
    if len(sentences) > EXAMPLES:
        sentences[EXAMPLES:] = [f"and {len(sentences) - EXAMPLES} more"]
