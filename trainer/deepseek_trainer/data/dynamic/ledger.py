"""Which leases have been trained on: what Dynamic mode commits with the weights.

Rule: only what was trained counts. At each checkpoint the ranks put together the runs of rows that they have trained
since the last one; `cut` takes them in and refuses what doesn't fit on what was there: a hole, a row twice, a lease that
is done. What was leased, loaded or tokenised and not trained is in no ledger, so a fault takes nothing with it.

    0 … low - 1      done, all of them
    low … top - 1    done, open (its first rows are trained), or untouched: what a rank held when it died
    top …            untouched

Between low and top are about as many leases as the ranks hold at a time, however long the job trains.
`chain` is the receipt: of each cut sha256(previous chain, sorted samples that were trained since the last one).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from deepseek_trainer.data.dynamic.contents import Contents
from deepseek_trainer.data.dynamic.runs import Run, link
from deepseek_trainer.data.ledger import GENESIS, Segment, differences, goes_on, unreadable

MODE = "Dynamic"
_FIXED = {
    "fingerprint": "the data",
    "layout": "the cut into shards and samples (data.dynamic, trainer.training.sequenceLength, data.batching)",
    "seed": "trainer.training.seed",
    "global_batch": "trainer.training.globalBatchSize",
}


class UnfitError(RuntimeError):
    """What the ranks say they have trained doesn't fit on what was trained before: a defect, and nothing is committed."""


@dataclass(frozen=True)
class LeaseLedger:
    """The data's side of a checkpoint in Dynamic mode. Counts are in samples, leases and optimizer steps.

    Attributes:
        shards: of the source; 0: a stream, whose length nobody knows.
        samples: trained on in this segment.
        low: all leases below it are done.
        done: leases from low on that are done, and how many rows each had; ascending.
        open: leases of which the first rows are trained, and how many of them; ascending.
        marks: of each open lease a hash of what its shard was read from.
        files: of a stream, what has been taken of it; see `stream.Journal`.
    """

    fingerprint: str
    layout: str
    seed: int
    global_batch: int
    shards: int
    step: int = 0
    chain: str = GENESIS
    samples: int = 0
    low: int = 0
    done: tuple[tuple[int, int], ...] = ()
    open: tuple[tuple[int, int], ...] = ()
    marks: tuple[tuple[int, str], ...] = ()
    files: dict[str, Any] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)
    from_step: int = 0
    segments: tuple[Segment, ...] = ()

    @property
    def position(self) -> int:
        """Samples consumed in this segment."""
        return self.samples

    @property
    def epoch(self) -> int:
        """Passes over the source that are complete."""
        return self.low // self.shards if self.shards else 0

    @property
    def top(self) -> int:
        """From here on nothing was trained."""
        return max((lease + 1 for lease, _ in (*self.done, *self.open)), default=self.low)

    def cut(self, step: int, runs: Iterable[Run], marks: Mapping[int, str] | None = None) -> Self:
        """The ledger after a step, given all that the ranks have trained since this one.

        Args:
            marks: of the leases that are open now.

        Raises:
            UnfitError: it isn't the next rows of each lease, each once.
        """
        new = sorted(runs)
        done, begun = dict(self.done), dict(self.open)
        for run in new:
            at = begun.pop(run.lease, 0)
            if run.lease < self.low or run.lease in done or run.first != at or run.stop < run.first:
                raise UnfitError(f"{run} was trained when lease {run.lease} was at row {at} (low {self.low})")
            if run.ends:
                done[run.lease] = run.stop
            else:
                begun[run.lease] = run.stop
        low = self.low
        while low in done:
            del done[low]
            low += 1
        known = {**dict(self.marks), **(marks or {})}
        return replace(
            self,
            step=step,
            chain=link(self.chain, new),
            samples=self.samples + sum(run.stop - run.first for run in new),
            low=low,
            done=tuple(sorted(done.items())),
            open=tuple(sorted(begun.items())),
            marks=tuple((lease, known[lease]) for lease in sorted(begun) if lease in known),
        )

    def to_json(self) -> dict[str, Any]:
        return {"mode": MODE, **asdict(self), "position": self.position, "epoch": self.epoch}

    def continued_from(self, saved: dict[str, Any], *, allow_change: bool = False) -> Self:
        """This run's ledger, taken forward to where a checkpoint's ledger was. For arguments and errors see `Ledger`."""
        changes = self.changes(saved)
        mine = replace(self, **goes_on(saved, changes, allow_change=allow_change))
        if changes:
            return mine
        try:
            return replace(
                mine,
                samples=int(saved["samples"]),
                low=int(saved["low"]),
                done=_pairs(saved["done"]),
                open=_pairs(saved["open"]),
                marks=tuple((int(lease), str(mark)) for lease, mark in saved["marks"]),
                files=dict(saved["files"]),
                contents=Contents(**{**saved["contents"], "examples": tuple(saved["contents"]["examples"])}),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(error) from error

    def changes(self, saved: dict[str, Any]) -> list[str]:
        """How the data that a checkpoint was trained on differs from this run's, in the user's words."""
        return differences(self.to_json(), saved, _FIXED)


def _pairs(values: Iterable[Any]) -> tuple[tuple[int, int], ...]:
    return tuple((int(lease), int(rows)) for lease, rows in values)
