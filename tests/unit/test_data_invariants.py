"""Exactly-once data over random histories of faults, on the product's own ledger, order, deal and checkpoints.

`DEEPSEEKJOB_SCHEDULES=5000 pytest tests/unit/test_data_invariants.py --timeout 3600` tries more of them. The second half
breaks the product on purpose, one way at a time: each must be found, by the invariant that is named.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_trainer import durable
from deepseek_trainer.checkpoint import load, retention, verify
from deepseek_trainer.checkpoint.layout import Manifest
from deepseek_trainer.checkpoint.save import Writer
from deepseek_trainer.data import ledger as ledger_module
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.ledger import Batch, Ledger
from deepseek_trainer.data.order import Order
from deepseek_trainer.errors import DataError
from numpy.typing import NDArray
from support import datajob
from support.datahistory import History
from support.datajob import BrokenError, Points, Training, install

SCHEDULES = int(os.environ.get("DEEPSEEKJOB_SCHEDULES", "40"))
KINDS = {
    *("starts", "saves", "killed", "killed while saving", "SIGTERM", "frozen", "fenced", "overtaken", "applied anew"),
    *("damage: bit", "damage: cut", "damage: gone", "stopped loudly", "refused", "segments"),
}
"""What a few dozen histories have in them."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: what is tried here is not the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Points:
    points = Points()
    install(points, monkeypatch.setattr)
    caplog.set_level(logging.CRITICAL, "deepseek_trainer")  # it says which checkpoints it passes over, rightly
    return points


def play_all(count: int, memory: Path, points: Points) -> Counter[str]:
    """What happened in so many histories."""
    happened: Counter[str] = Counter()
    for seed in range(count):
        folder = memory / str(seed)
        folder.mkdir()
        try:
            happened += History(seed, folder, points).play()
        except BrokenError as error:
            raise BrokenError(f"history {seed}: {error}") from error
        shutil.rmtree(folder)
    return happened


def test_any_history_leaves_each_sample_trained_once_an_epoch(memory: Path, points: Points) -> None:
    happened = play_all(SCHEDULES, memory, points)
    assert set(happened) == KINDS, f"not tried at all, or not named here: {set(happened) ^ KINDS}"


# ---- the product, broken in one way ---------------------------------------------------------------------------------

Patch = Callable[[Any, str, Any], None]
continued, batch_of, advance, at = Ledger.continued_from, Ledger.batch, Ledger.advance, Order.__getitem__
deal, init = micro_batches, Training.__init__
MUTANTS: dict[Callable[[Patch], None], str] = {}


def caught_by(invariant: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def add(mutant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS[mutant] = invariant
        return mutant

    return add


@caught_by("I2")
def the_ledger_does_not_go_back_with_the_weights(patch: Patch) -> None:
    newest: list[Ledger] = []

    def forward(self: Ledger, batch: Batch) -> Ledger:
        newest[:] = [advance(self, batch)]
        return newest[0]

    def kept(self: Ledger, saved: dict[str, Any], *, allow_change: bool = False) -> Ledger:
        back = continued(self, saved, allow_change=allow_change)
        ours = newest and newest[0].fingerprint == back.fingerprint and newest[0].step > back.step
        return newest[0] if ours else back

    patch(Ledger, "advance", forward)
    patch(Ledger, "continued_from", kept)


@caught_by("I3")
def what_was_read_ahead_counts(patch: Patch) -> None:
    def save(self: Training) -> None:
        ahead = self.ledger.advance(self.ledger.batch())
        self.writer.save({"weights": self.weights}, ahead.to_json() | {"step": self.ledger.step})

    patch(Training, "save", save)


@caught_by("I1")
def the_last_share_is_padded_by_repetition(patch: Patch) -> None:
    def padded(samples: NDArray[np.int64], *, rank: int, world_size: int, micro_batch_size: int) -> list[Any]:
        even = np.resize(samples, -(-len(samples) // world_size) * world_size)
        return deal(even, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)

    patch(datajob, "micro_batches", padded)


@caught_by("I1")
def what_does_not_divide_is_dropped(patch: Patch) -> None:
    def even(samples: NDArray[np.int64], *, rank: int, world_size: int, micro_batch_size: int) -> list[Any]:
        whole = samples[: max(1, len(samples) // world_size * world_size)]
        return deal(whole, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)

    patch(datajob, "micro_batches", even)


@caught_by("I")
def the_order_knows_the_number_of_ranks(patch: Patch) -> None:
    ranks = [1]

    def start(self: Training, *args: Any, **kwargs: Any) -> None:
        ranks[0] = kwargs["ranks"]
        init(self, *args, **kwargs)

    def order(self: Ledger, epoch: int) -> Order:
        return Order(self.samples, f"{self.seed}:{epoch}:{ranks[0]}", self.block_samples, self.window_blocks)

    patch(Training, "__init__", start)
    patch(Ledger, "order", order)


@caught_by("I1")
def a_position_outside_of_the_order_is_folded_into_it(patch: Patch) -> None:
    def folded(self: Order, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return at(self, positions) // 2 * 2 % self.size

    patch(Order, "__getitem__", folded)


@caught_by("I1")
def the_block_after_the_short_one_is_skipped(patch: Patch) -> None:
    def skipping(self: Order, places: NDArray[np.int64]) -> NDArray[np.int64]:
        others = self._others[np.minimum(places, self._blocks - 2)]
        return np.where(places == self._short_place, self._blocks - 1, others)

    patch(Order, "_block", skipping)


@caught_by("I1")
def the_end_of_an_epoch_is_filled_from_its_own_beginning(patch: Patch) -> None:
    def wrapped(self: Ledger) -> Batch:
        batch = batch_of(self)
        first = np.full_like(batch.epochs, batch.epochs[0])
        offsets = (self.position + np.arange(self.global_batch)) % self.samples
        return Batch(self.order(int(first[0]))[offsets], first)

    patch(Ledger, "batch", wrapped)


@caught_by("I3")
def the_chain_begins_anew_with_each_start(patch: Patch) -> None:
    def forgotten(self: Ledger, saved: dict[str, Any], *, allow_change: bool = False) -> Ledger:
        return replace(continued(self, saved, allow_change=allow_change), chain=ledger_module.GENESIS)

    patch(Ledger, "continued_from", forgotten)


@caught_by("I12")
def other_data_is_not_noticed(patch: Patch) -> None:
    patch(Ledger, "changes", lambda self, saved: [])


@caught_by("I")
def positions_go_on_over_a_change(patch: Patch) -> None:
    def counted_on(self: Ledger, saved: dict[str, Any], *, allow_change: bool = False) -> Ledger:
        return replace(continued(self, saved, allow_change=allow_change), from_step=0)

    patch(Ledger, "continued_from", counted_on)


@caught_by("I5")
def an_old_generation_may_commit(patch: Patch) -> None:
    patch(Writer, "_fence", lambda self: None)


@caught_by("I4|I10")
def damage_is_not_noticed(patch: Patch) -> None:
    patch(durable, "difference", lambda path, expected, *, content=True: None)


@caught_by("I4|I10")
def a_changed_manifest_is_not_noticed(patch: Patch) -> None:
    reading = verify._manifest

    def unseen(checkpoint: Path) -> Manifest:
        (checkpoint / "COMMITTED").write_text(durable.describe(checkpoint / "manifest.json")["sha256"])
        return reading(checkpoint)

    patch(verify, "_manifest", unseen)


@caught_by("I10")
def the_newest_checkpoint_is_deleted(patch: Patch) -> None:
    keeping = retention.apply

    def emptied(folder: Path, *, keep: int, newest: int, **others: Any) -> None:
        keeping(folder, keep=0 if newest % 5 == 0 else keep, newest=newest, **others)

    patch(retention, "apply", emptied)


@caught_by("I10")
def training_starts_over_where_no_checkpoint_is_whole(patch: Patch) -> None:
    newest_whole = load.newest_whole

    def quietly(folder: Path) -> load.Found[Any] | None:
        try:
            return newest_whole(folder)
        except DataError:
            return None

    patch(load, "newest_whole", quietly)


@caught_by("I13")
def nothing_is_saved_at_sigterm(patch: Patch) -> None:
    patch(History, "_sigterm", lambda self, training: setattr(self, "owed", training.ledger.step))


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.__name__) for mutant in MUTANTS])
def test_each_way_to_lose_or_repeat_data_is_found(
    mutant: Callable[[Patch], None], memory: Path, points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch.setattr)
    with pytest.raises(BrokenError, match=rf"history \d+: ({MUTANTS[mutant]})"):
        play_all(100, memory, points)
