"""What the training loop asks of the data, in either mode: a step's rows, and what a checkpoint says of them.

`Data` is what `spec.data` means, opened; `Feed` is one rank's part of it in one start of training. `positions` has the
mode in which a step's samples are a function of its number, `dynamic` the one in which ranks lease shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from deepseek_trainer.contract import Data as DataReport
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.samples import MicroBatch
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.progress import Progress


@dataclass(frozen=True)
class Step:
    """One optimizer step's data.

    Attributes:
        micro_steps: how many micro-batches this rank gets, the same on all ranks.
        tokens: of the global batch, without padding.
        targets: tokens of the global batch that are predicted, but 1 if there are none; its loss is a mean over them.
    """

    micro_steps: int
    tokens: int
    targets: int


@dataclass(frozen=True)
class HeldOut:
    """This rank's part of what is evaluated on.

    Attributes:
        micro_batches: as many on each rank.
        targets: tokens that are predicted, over all ranks; 0: nothing is held out yet.
    """

    micro_batches: Iterable[MicroBatch]
    targets: int


class Ledger(Protocol):
    """Which samples have been trained on: what is committed with the weights."""

    @property
    def step(self) -> int: ...
    @property
    def position(self) -> int:
        """Samples consumed in this segment."""

    @property
    def epoch(self) -> int:
        """Passes over this segment's data that are complete."""

    @property
    def chain(self) -> str:
        """The receipt: a hash over what was trained on."""

    def to_json(self) -> dict[str, Any]: ...
    def changes(self, saved: dict[str, Any]) -> list[str]: ...
    def continued_from(self, saved: dict[str, Any], *, allow_change: bool = False) -> Self: ...


class Feed(Protocol):
    """One rank's data in one start of training. Ask for the next step, then for its micro-batches, and say that it is made."""

    @property
    def ledger(self) -> Ledger:
        """After the last step that was made; in Dynamic mode epoch and chain are those of the last cut."""

    @property
    def ended(self) -> bool:
        """A stream was trained to its end: there is no next step."""

    def next(self, stopping: Callable[[], bool]) -> Step | None:
        """The next step. A collective.

        Args:
            stopping: whether this rank is told to end; asked while all wait for a stream.

        Returns:
            None: there is none, as the stream has ended, or as a rank is told to end while there is no data.
        """

    def micro_batch(self) -> MicroBatch:
        """The next one of the step, on the device."""

    def trained(self) -> None:
        """The step is made: into ledger and audit with it."""

    def paced(self, busy_s: float) -> None:
        """So many seconds of the step were this rank's own work; NaN: not measured. To be called by all after each step."""

    def held_out(self) -> HeldOut:
        """What is evaluated on. A collective."""

    def cut(self) -> dict[str, Any]:
        """The ledger as it is to be committed. A collective."""

    def report(self) -> DataReport | None:
        """What is known of the data, for those who watch the job."""

    def close(self) -> None:
        """Stops loading."""


class Data(Protocol):
    """What `spec.data` means, opened: the same on every rank."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def vocabulary(self) -> Path:
        """File of the tokenizer, on rank 0's node at least."""

    @property
    def unigram_entropy(self) -> float | None:
        """Of the token distribution, nats per token: the loss of a model that ignores context; None: not known."""

    @property
    def ledger(self) -> Ledger:
        """With which a run of it begins."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What the log says of it."""

    def feed(self, ledger: Any, *, waits: Waits, progress: Progress, audit: AuditLog | None) -> Feed:
        """This rank's data from a ledger on, one of `self.ledger`'s type. A collective.

        Args:
            audit: where what is trained is written down.
        """
