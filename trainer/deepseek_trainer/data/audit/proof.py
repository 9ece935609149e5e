"""The proof: whether what the weights of the newest checkpoint were trained on was each sample exactly once an epoch.

It goes by what the ranks wrote down after their optimizer steps, not by what the ledger had planned, and never writes to
the folder, so that it may run beside the training. Memory: see `tally` and `leases`; what is named in the answer is
bounded, and all of it is counted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.data.audit.frames import DamagedError
from deepseek_trainer.data.audit.lineage import Part, lineage
from deepseek_trainer.data.audit.places import Place, in_folder
from deepseek_trainer.data.audit.reading import Evidence
from deepseek_trainer.data.audit.segments import Segment, Trained, segment_of
from deepseek_trainer.data.audit.tally import EXAMPLES
from deepseek_trainer.data.ledger import GENESIS


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
        strange: records of samples or epochs that the data doesn't have, or that were not due yet; in mode Dynamic of
            rows that the ledger doesn't have.
        endless: leases (mode Dynamic) that the ledger is past, and of which no record has the end.
        complete: epochs of which every sample was trained once.
        epoch: the one in progress: its number, samples trained, due until now, and in all; empty in mode Dynamic.
        shards: in mode Dynamic leases that are whole, open, or endless; else empty.
        troubled: the first epochs with lost or repeated samples.
        chain: recomputed from the records; None where some are missing.
        expected_chain: of the checkpoint's manifest.
        lost_examples: (step after which their segment began, epoch, sample).
        repeated_examples: (step of the second time, epoch, sample).
        lost_rows: (step after which their segment began, lease, row).
        repeated_rows: (step of the second time, lease, row).
        chain_at: a step and the recomputed chain, where it was asked for. Two where the job's own changes with a
            checkpoint (mode Dynamic) and one was made after that step: without it, and with it.
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
    endless: int = 0
    complete: int = 0
    epoch: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    troubled: list[dict[str, int]] = field(default_factory=list)
    lost_examples: list[tuple[int, int, int]] = field(default_factory=list)
    repeated_examples: list[tuple[int, int, int]] = field(default_factory=list)
    lost_rows: list[tuple[int, int, int]] = field(default_factory=list)
    repeated_rows: list[tuple[int, int, int]] = field(default_factory=list)
    chain: str | None = None
    expected_chain: str = ""
    chain_at: tuple[int | str, ...] | None = None
    gaps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        if self.repeated or self.strange or self.problems:
            return Verdict.NOT_PROVEN
        if self.gaps:
            return Verdict.UNKNOWN
        whole = not self.lost and not self.endless and self.chain == self.expected_chain
        return Verdict.PROVEN if whole else Verdict.NOT_PROVEN

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict.value, **asdict(self)}


def prove(folder: Path, *, at: int | None = None) -> Proof:
    """Judges the newest checkpoint in a job's folder; see `judge`.

    Raises:
        DataError: there is nothing to judge: no folder, or no whole checkpoint.
    """
    return judge(in_folder(folder), at=at)


def judge(place: Place, *, at: int | None = None) -> Proof:
    """Judges the newest checkpoint of a place.

    Args:
        at: a step whose chain is wanted too.
    """
    manifest, parts = place.manifest, lineage(place.starts, place.manifest)
    counted = sum(part.start is not None for part in parts)
    chain = manifest.ledger["chain"]
    proof = Proof(place.where, place.checkpoint, manifest.step, len(place.starts), counted, expected_chain=chain)
    walk = _Walk(proof, at)
    for part in parts:
        walk.take(place.records, part)
    walk.end(manifest)
    _bound(proof.gaps)
    _bound(proof.problems)
    return proof


class _Walk:
    """Goes through the parts in their order, and adds to the proof what it finds."""

    def __init__(self, proof: Proof, at: int | None) -> None:
        self._proof = proof
        self._at = at
        self._chain: str | None = GENESIS
        self._segment: Segment | None = None

    def take(self, audit: Path, part: Part) -> None:
        """Counts what one start trained."""
        step = part.first
        try:
            evidence = Evidence(audit, part)
            segment = self._enter(evidence.ledger, part)
            for trained in segment.steps(evidence, self._chain):
                self._add(step, trained)
                step += 1
        except DamagedError as error:
            self._chain = None
            self._proof.gaps.append(f"steps {step} to {part.last}: {error}")

    def end(self, manifest: Manifest) -> None:
        """Ends the last segment at the checkpoint, and compares with what that says."""
        proof = self._proof
        proof.chain = self._chain
        try:
            self._close_at(manifest)
        except DamagedError as error:
            proof.gaps.append(f"{proof.checkpoint}: {error}")
        if proof.chain is not None and proof.chain != proof.expected_chain:
            proof.problems.append(
                f"the chain of the records is {proof.chain[:12]}…, that of {proof.checkpoint} {proof.expected_chain[:12]}…"
            )

    def _close_at(self, manifest: Manifest) -> None:
        here = segment_of(manifest.ledger)
        if self._segment is None or self._segment.same_as(here):
            self._segment = self._segment or here
            self._close(manifest.step, manifest.ledger)
        else:
            self._proof.problems.append(f"{self._proof.checkpoint} tells of other data than the records do")
            self._close(manifest.step, None)

    def _enter(self, ledger: dict[str, Any], part: Part) -> Segment:
        """The segment of a part: the one before, or one that it begins."""
        if self._chain is not None and ledger.get("chain") != self._chain:
            self._proof.problems.append(
                f"step {part.first} was begun with another chain than that of the steps before it"
            )
        found = segment_of(ledger)
        if self._segment is None or not self._segment.same_as(found):
            if self._segment is not None:
                if found.from_step != part.first - 1:
                    self._proof.problems.append(f"step {part.first} was begun with other data, but in no new segment")
                self._close(found.from_step, None)
            self._segment = found
        return self._segment

    def _add(self, step: int, trained: Trained) -> None:
        self._proof.audited += 1
        self._proof.samples += trained.samples
        if trained.chains is not None:
            self._chain = trained.chains[-1]
            if step == self._at:
                self._proof.chain_at = (step, *trained.chains)

    def _close(self, step: int, ledger: dict[str, Any] | None) -> None:
        """Adds what the counts of the segment come to after its last step, and the ledger then, where it is left."""
        segment, proof = self._segment, self._proof
        if segment is None:
            return
        count = segment.count(step, ledger)
        proof.segments += 1
        proof.lost += count.lost
        proof.repeated += count.repeated
        proof.strange += count.strange
        proof.endless += count.endless
        proof.complete += count.complete
        proof.epoch, proof.shards = count.epoch, count.shards
        proof.troubled = [*proof.troubled, *count.troubled][:EXAMPLES]
        proof.lost_examples = _more(proof.lost_examples, _since(segment, count.lost_examples))
        proof.repeated_examples = _more(proof.repeated_examples, count.repeated_examples)
        proof.lost_rows = _more(proof.lost_rows, _since(segment, count.lost_rows))
        proof.repeated_rows = _more(proof.repeated_rows, count.repeated_rows)
        proof.problems += count.problems


Places = list[tuple[int, int, int]]


def _since(segment: Segment, places: list[tuple[int, int]]) -> Places:
    return [(segment.from_step, *place) for place in places]


def _more(places: Places, others: Places) -> Places:
    return [*places, *others][:EXAMPLES]


def _bound(sentences: list[str]) -> None:
    if len(sentences) > EXAMPLES:
        sentences[EXAMPLES:] = [f"and {len(sentences) - EXAMPLES} more"]
