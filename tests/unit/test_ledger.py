"""Exactly once, for any number of ranks and any history of faults."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.ledger import GENESIS, Ledger
from deepseek_trainer.errors import DataError
from hypothesis import given, settings
from hypothesis import strategies as st


def _ledger(samples: int = 100, global_batch: int = 8, seed: int = 0) -> Ledger:
    return Ledger("f" * 64, samples, "stream:32", seed, global_batch)


@settings(max_examples=100, deadline=None)
@given(
    samples=st.integers(1, 200),
    global_batch=st.integers(1, 70),
    micro=st.integers(1, 9),
    history=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=60),
)
def test_each_sample_is_trained_on_once_an_epoch_whatever_happens(
    samples: int, global_batch: int, micro: int, history: list[tuple[int, bool]]
) -> None:
    """Each entry of the history is a step: on how many ranks, and whether it ends in a fall back to a checkpoint."""
    ledger = checkpoint = _ledger(samples, global_batch)
    lineage: list[list[int]] = []
    for world_size, lost in history:
        if lost:
            ledger = checkpoint
            del lineage[ledger.step :]
            continue
        batch = ledger.batch()
        dealt = [
            micro_batches(batch.samples, rank=rank, world_size=world_size, micro_batch_size=micro)
            for rank in range(world_size)
        ]
        assert len({len(share) for share in dealt}) == 1, "every rank makes the same number of micro-steps"
        assert all(len(part) <= micro for share in dealt for part in share)
        lineage.append([int(sample) for share in dealt for part in share for sample in part])
        ledger = ledger.advance(batch)
        if ledger.step % 3 == 0:
            checkpoint = _ledger(samples, global_batch).continued_from(ledger.to_json())

    consumed = [sample for step in lineage for sample in step]
    assert len(consumed) == ledger.position
    for start in range(0, len(consumed), samples):
        counts = Counter(consumed[start : start + samples])
        assert set(counts.values()) == {1}
    undisturbed = _ledger(samples, global_batch)
    for _ in range(ledger.step):
        undisturbed = undisturbed.advance(undisturbed.batch())
    assert undisturbed == ledger


def test_the_last_batch_of_an_epoch_flows_into_the_next() -> None:
    ledger = _ledger(samples=10, global_batch=4)
    epochs = []
    for _ in range(5):
        batch = ledger.batch()
        epochs.append(batch.epochs.tolist())
        ledger = ledger.advance(batch)
    assert epochs == [[0] * 4, [0] * 4, [0, 0, 1, 1], [1] * 4, [1] * 4]
    assert ledger.epoch == 2


def test_the_chain_tells_samples_apart_and_not_their_order() -> None:
    ledger = _ledger()
    batch = ledger.batch()
    mixed = type(batch)(batch.samples[::-1], batch.epochs[::-1])
    other = type(batch)(np.roll(batch.samples, 1) + 1, batch.epochs)
    assert ledger.chain == GENESIS
    assert ledger.advance(batch).chain == ledger.advance(mixed).chain
    assert ledger.advance(batch).chain != ledger.advance(other).chain


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (Ledger("e" * 64, 100, "stream:32", 0, 8), "the data was ffffffffffff, now eeeeeeeeeeee"),
        (Ledger("f" * 64, 100, "stream:32", 1, 8), "trainer.training.seed was 0, now 1"),
        (Ledger("f" * 64, 100, "stream:32", 0, 16), "trainer.training.globalBatchSize was 8, now 16"),
        (Ledger("f" * 64, 100, "stream:64", 0, 8), "(trainer.training.sequenceLength) was stream:32, now stream:64"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused_with_the_difference(changed: Ledger, named: str) -> None:
    saved = _ledger().advance(_ledger().batch()).to_json()
    with pytest.raises(DataError) as refused:
        changed.continued_from(saved)
    assert named in str(refused.value)
    assert "start over in an empty checkpoint folder" in str(refused.value)


def test_the_record_is_small() -> None:
    import json

    assert len(json.dumps(_ledger().to_json())) < 500
