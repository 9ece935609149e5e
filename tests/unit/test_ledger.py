"""Exactly once, for any number of ranks and any history of faults."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.ledger import GENESIS, SEGMENTS_MAX, Ledger
from deepseek_trainer.errors import DataError
from hypothesis import given, settings
from hypothesis import strategies as st


def _ledger(samples: int = 100, global_batch: int = 8, seed: int = 0) -> Ledger:
    return Ledger("f" * 64, samples, "stream:32", seed, global_batch)


@settings(max_examples=100)
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


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"fingerprint": "e" * 64}, "the data was ffffffffffff, now eeeeeeeeeeee"),
    ({"samples": 99}, "the number of training samples (data, "),
    ({"layout": "stream:64"}, "(trainer.training.sequenceLength, data.batching) was stream:32, now stream:64"),
    ({"seed": 1}, "trainer.training.seed was 0, now 1"),
    ({"global_batch": 16}, "trainer.training.globalBatchSize was 8, now 16"),
    ({"block_samples": 8}, "data.shuffle.blockSamples was 256, now 8"),
    ({"window_blocks": 2}, "data.shuffle.windowBlocks was 1024, now 2"),
]


def _trained(ledger: Ledger, steps: int) -> Ledger:
    for _ in range(steps):
        ledger = ledger.advance(ledger.batch())
    return ledger


def _json(ledger: Ledger) -> dict[str, Any]:
    """As a manifest gives it back."""
    read: dict[str, Any] = json.loads(json.dumps(ledger.to_json()))
    return read


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_a_checkpoint_of_other_data_is_refused_with_the_difference(change: dict[str, Any], named: str) -> None:
    saved = _json(_trained(_ledger(), 1))
    with pytest.raises(DataError) as refused:
        replace(_ledger(), **change).continued_from(saved)
    assert named in str(refused.value)
    assert str(refused.value).count(" was ") == 2, "what has not changed is named too"
    assert "data.allowChange" in str(refused.value)
    assert "start over in an empty checkpoint folder" in str(refused.value)


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_an_allowed_change_begins_a_segment(change: dict[str, Any], named: str) -> None:
    before = _trained(_ledger(), 20)
    anew = replace(_ledger(), **change)
    ledger = anew.continued_from(_json(before), allow_change=True)

    assert (ledger.step, ledger.position, ledger.epoch, ledger.chain) == (20, 0, 0, before.chain)
    assert ledger.batch().samples.tolist() == anew.batch().samples.tolist(), "from the beginning of the new data"
    (segment,) = ledger.segments
    assert (segment.from_step, segment.to_step, segment.position, segment.chain) == (0, 20, 160, before.chain)
    assert segment.trained_on == {field: getattr(before, field) for field in segment.trained_on}
    assert set(change) < set(segment.trained_on)

    after = _trained(ledger, 3)
    assert after.position == 3 * after.global_batch
    assert after.chain != _trained(anew, 3).chain, "the chain goes on over the change"
    again = anew.continued_from(_json(after), allow_change=True)
    assert again == after, "what has not changed since begins nothing"
    with pytest.raises(DataError, match="asks for other data"):
        _ledger().continued_from(_json(after))


def test_a_change_without_a_step_since_the_last_one_leaves_no_segment() -> None:
    before = _trained(_ledger(), 5)
    first = replace(_ledger(), seed=1).continued_from(_json(before), allow_change=True)
    second = replace(_ledger(), seed=2).continued_from(_json(first), allow_change=True)
    assert [segment.trained_on["seed"] for segment in second.segments] == [0]
    assert (second.step, second.from_step) == (5, 5)


def test_a_fall_back_to_before_the_change_changes_again() -> None:
    before = [_trained(_ledger(), steps) for steps in (3, 5)]
    newer, older = (
        replace(_ledger(), seed=1).continued_from(_json(ledger), allow_change=True) for ledger in reversed(before)
    )
    assert (newer.from_step, older.from_step) == (5, 3)
    assert newer.batch().samples.tolist() == older.batch().samples.tolist()


def test_the_record_stays_bounded_however_often_the_data_changes() -> None:
    ledger = _trained(_ledger(), 2)
    for seed in range(1, SEGMENTS_MAX + 10):
        ledger = _trained(replace(_ledger(), seed=seed).continued_from(_json(ledger), allow_change=True), 2)
    assert len(ledger.segments) == SEGMENTS_MAX
    oldest, *others = ledger.segments
    assert oldest.trained_on == {}
    assert [segment.trained_on["seed"] for segment in others] == list(range(10, SEGMENTS_MAX + 9))
    assert oldest.from_step == 0
    assert all(left.to_step == right.from_step for left, right in pairwise([oldest, *others]))
    assert others[-1].to_step == ledger.from_step
    assert sum(segment.position for segment in ledger.segments) + ledger.position == ledger.step * 8
    assert len(json.dumps(ledger.to_json())) < 16_000


@pytest.mark.parametrize("missing", ["step", "chain", "from_step", "segments"])
def test_a_ledger_of_another_version_is_refused(missing: str) -> None:
    saved = _json(_trained(_ledger(), 1))
    del saved[missing]
    with pytest.raises(DataError, match="another version of the trainer wrote it"):
        _ledger().continued_from(saved)


def test_the_record_is_small() -> None:
    assert len(json.dumps(_ledger().to_json())) < 500
