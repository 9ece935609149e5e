"""A stretch of steps on the same data, by the way in which its samples were given out: what was due, and what was trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from deepseek_trainer.data.audit.frames import DamagedError
from deepseek_trainer.data.audit.leases import LeaseTally, Said
from deepseek_trainer.data.audit.reading import Evidence
from deepseek_trainer.data.audit.records import is_dynamic
from deepseek_trainer.data.audit.spans import total
from deepseek_trainer.data.audit.tally import Epoch, Tally
from deepseek_trainer.data.dynamic import runs as leased
from deepseek_trainer.data.dynamic.runs import Run
from deepseek_trainer.data.ledger import link


@dataclass(frozen=True)
class Trained:
    """What all ranks together trained in a step.

    Attributes:
        chains: that a status may show after it, the last one at the end: a cut at the step makes a second one. None
            where the chain before wasn't known.
    """

    samples: int
    chains: tuple[str, ...] | None


@dataclass
class Count:
    """What the records of a segment come to; see `Proof`."""

    lost: int = 0
    repeated: int = 0
    strange: int = 0
    endless: int = 0
    complete: int = 0
    epoch: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    troubled: list[dict[str, int]] = field(default_factory=list)
    lost_examples: list[tuple[int, int]] = field(default_factory=list)
    repeated_examples: list[tuple[int, int, int]] = field(default_factory=list)
    lost_rows: list[tuple[int, int]] = field(default_factory=list)
    repeated_rows: list[tuple[int, int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Segment(ABC):
    """Counts the records of a segment, part after part.

    Attributes:
        from_step: the step before its first one.
    """

    def __init__(self, ledger: dict[str, Any], *fixed: str) -> None:
        """Raises: DamagedError: the ledger can't be read."""
        try:
            self.from_step = int(ledger["from_step"])
            self._fixed = [is_dynamic(ledger), self.from_step, *(ledger[name] for name in ("fingerprint", *fixed))]
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedError(f"the ledger that they were begun with can't be read: {error!r}") from error

    def same_as(self, other: Segment) -> bool:
        """Whether both are of the same data, from the same step on."""
        return self._fixed == other._fixed

    @abstractmethod
    def steps(self, evidence: Evidence, chain: str | None) -> Iterator[Trained]:
        """Counts the steps of one part.

        Args:
            chain: after the step before.

        Raises:
            DamagedError: the records of the next step can't be read.
        """

    @abstractmethod
    def count(self, step: int, ledger: dict[str, Any] | None) -> Count:
        """What it comes to, if it ends after a step.

        Args:
            ledger: the checkpoint's; None where the segment was over before.

        Raises:
            DamagedError: the ledger can't be read.
        """


def segment_of(ledger: dict[str, Any]) -> Segment:
    """The segment that a ledger is in. Raises: DamagedError: the ledger can't be read."""
    return Leased(ledger) if is_dynamic(ledger) else Positioned(ledger)


class Positioned(Segment):
    """Mode Deterministic: each step is due the samples of its positions."""

    def __init__(self, ledger: dict[str, Any]) -> None:
        super().__init__(ledger, "samples", "global_batch")
        try:
            self._samples, self._global_batch = int(ledger["samples"]), int(ledger["global_batch"])
        except (ValueError, TypeError) as error:
            raise DamagedError(f"the ledger that they were begun with can't be read: {error!r}") from error
        self._tally = Tally(self._samples, last_epoch=0)

    def steps(self, evidence: Evidence, chain: str | None) -> Iterator[Trained]:
        self._tally.last_epoch = (self._position(evidence.last) - 1) // self._samples
        for step, batch in enumerate(evidence.batches(), start=evidence.first):
            self._tally.add(step, batch.samples, batch.epochs)
            chain = None if chain is None else link(chain, batch, self._samples)
            yield Trained(len(batch.samples), None if chain is None else (chain,))

    def count(self, step: int, ledger: dict[str, Any] | None) -> Count:
        current, due = divmod(self._position(step), self._samples)
        self._tally.finish(current)
        epochs = self._tally.epochs
        last = epochs.get(current, Epoch(current))
        last.lost = max(0, due - last.trained)
        over = [epoch for number, epoch in sorted(epochs.items()) if number < current]
        troubled = [epoch for epoch in [*over, last] if epoch.lost or epoch.repeated]
        return Count(
            lost=sum(epoch.lost for epoch in troubled),
            repeated=sum(epoch.repeated for epoch in troubled),
            strange=self._tally.strange + max(0, last.trained - due),
            complete=len(over) - sum(epoch.number < current for epoch in troubled),
            epoch={"number": current, "trained": last.trained, "due": due, "samples": self._samples},
            troubled=[{"from_step": self.from_step, **asdict(epoch)} for epoch in troubled],
            lost_examples=self._tally.lost_examples,
            repeated_examples=self._tally.repeated_examples,
        )

    def _position(self, step: int) -> int:
        """Samples that were due after a step."""
        return (step - self.from_step) * self._global_batch


class Leased(Segment):
    """Mode Dynamic: due is what the checkpoint's ledger, put together of the ranks' own word, says was trained.

    That alone would find no row that both ledger and records lack. So the rows of each lease must be trained from 0 on
    without a hole, and to an end that a record names where the ledger is past the lease; and each epoch of a source that
    has an end must have as many rows as the others.
    """

    def __init__(self, ledger: dict[str, Any]) -> None:
        super().__init__(ledger, "layout", "seed", "global_batch", "shards")
        self._tally = LeaseTally(Said.of(ledger).shards)

    def steps(self, evidence: Evidence, chain: str | None) -> Iterator[Trained]:
        since_cut: list[Run] = []
        for step, (runs, cut) in enumerate(evidence.runs(), start=evidence.first):
            for run in runs:
                self._tally.add(step, run)
            since_cut += runs
            before = chain
            if cut:
                chain = None if chain is None else leased.link(chain, since_cut)
                since_cut = []
            chains = None if before is None or chain is None else (before, chain) if cut else (before,)
            yield Trained(sum(max(0, run.stop - run.first) for run in runs), chains)

    def count(self, step: int, ledger: dict[str, Any] | None) -> Count:
        tally = self._tally
        found = tally.holes() if ledger is None else tally.compare(Said.of(ledger))
        return Count(
            lost=found.lost,
            repeated=tally.repeated,
            strange=tally.strange + found.strange,
            endless=found.endless,
            complete=tally.epochs,
            shards={"whole": total(tally.whole), "open": tally.opened},
            lost_rows=found.examples,
            repeated_rows=tally.repeated_examples,
            problems=tally.problems,
        )
