"""Hashing a checkpoint before it is loaded, by all ranks, each its share: rank 0 walks, and calls for the others' help.

    rank 0   walk ──► check ──► walk ──► check ──► end
    others    order ─► hash      order ─► hash      the result

Each file is hashed where it will be read: in a node's memory if it is there (`memory.tier`), else on the volume.

Rule: the walk itself, with all that it decides and records, is rank 0's alone, as it sees the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.load import Check, Checked
from deepseek_trainer.checkpoint.memory.tier import Memory
from deepseek_trainer.checkpoint.verify import difference
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import TrainerError, UnavailableError

T = TypeVar("T")


def lead(world: World, work: Callable[[Check], T], memory: Memory | None = None) -> T:
    """As `World.lead`; the work is given a check in which all ranks take part. A collective."""
    shares = _Shares(world, memory)
    if world.leader:
        return world.lead(lambda: work(shares.check))
    while True:
        value: Any
        value, error = world.gather((None, None))[0]  # as rank 0 does in `World.lead`
        if error is not None:
            raise error
        if not isinstance(value, _Order):
            result: T = value
            return result
        shares.hash(value)


@dataclass(frozen=True)
class _Order:
    checkpoint: Path
    files: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Shares:
    world: World
    memory: Memory | None

    def check(self, checkpoint: Path, manifest: Manifest) -> Checked:
        """On rank 0."""
        order = _Order(checkpoint, manifest.files)
        self.world.gather((order, None))
        kept, outcomes = self.hash(order)
        for rank, outcome in enumerate(outcomes):
            if isinstance(outcome, TrainerError):
                raise outcome
            if outcome and rank and not difference(checkpoint, manifest.files):
                raise UnavailableError(
                    f"rank {rank} finds that in {checkpoint} {outcome}, and rank 0 finds it whole; its node must see the "
                    "volume as the others do"
                )
        return Checked(next((str(outcome) for outcome in outcomes if outcome), ""), kept)

    def hash(self, order: _Order) -> tuple[dict[str, int], list[str | TrainerError]]:
        """The files that are whole in memory, with their nodes; and what each rank says of its share of the others."""
        kept = self.memory.found(order.files, self.world) if self.memory is not None else {}
        share = {
            name: entry
            for name, entry in order.files.items()
            if name not in kept and layout.home(name, self.world.size) == self.world.rank
        }
        outcome: str | TrainerError
        try:
            outcome = difference(order.checkpoint, share)
        except TrainerError as error:
            outcome = error
        except Exception as error:
            outcome = UnavailableError(f"rank {self.world.rank}: {type(error).__name__}: {error}")
        return kept, self.world.gather(outcome)
