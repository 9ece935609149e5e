"""The order of the samples is a permutation, mixes well, reads block after block, and never changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from deepseek_trainer.config import ShuffleSpec
from deepseek_trainer.data.order import Order
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.shuffling import quality

FULL = ShuffleSpec()
"""The default; everything here that is larger than one window of it says so."""


def order_of(size: int, key: str = "key", block: int = FULL.block_samples, window: int = FULL.window_blocks) -> Order:
    return Order(size, key, block, window)


def everything(order: Order) -> NDArray[np.int64]:
    return order[np.arange(order.size)]


@settings(max_examples=200)
@given(size=st.integers(1, 3000), key=st.text(max_size=20), block=st.integers(1, 70), window=st.integers(1, 20))
def test_every_sample_comes_exactly_once(size: int, key: str, block: int, window: int) -> None:
    assert np.array_equal(np.sort(everything(Order(size, key, block, window))), np.arange(size))


@given(
    size=st.integers(2, 10**12),
    positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=50),
    block=st.integers(1, 10**6),
    window=st.integers(1, 10**6),
)
def test_any_position_can_be_asked_for_alone(size: int, positions: list[int], block: int, window: int) -> None:
    order = Order(size, "key", block, window)
    asked = np.array(positions, dtype=np.int64) % size
    together = order[asked]
    assert together.min() >= 0
    assert together.max() < size
    assert [int(order[asked[i : i + 1]][0]) for i in range(len(asked))] == together.tolist()
    assert len(np.unique(together)) == len(np.unique(asked))


def test_the_order_is_pinned() -> None:
    """A change here would repeat and skip samples of every run that resumes."""
    start = np.arange(8)
    assert order_of(1000, "pinned")[start].tolist() == [373, 465, 882, 623, 331, 259, 717, 26]
    assert Order(1000, "pinned", 16, 8)[start].tolist() == [486, 259, 811, 768, 551, 105, 491, 741]
    assert Order(10**12, "pinned", 256, 1024)[start].tolist() == [
        256193187573,
        440793087161,
        267068291905,
        987477195217,
        362848358923,
        52822556,
        376479795801,
        912679256315,
    ]


@pytest.mark.parametrize(("size", "block", "window"), [(1000, 16, 8), (1003, 16, 8), (997, 10, 100), (5000, 64, 3)])
def test_a_window_has_its_blocks_whole_and_no_others(size: int, block: int, window: int) -> None:
    order = Order(size, "locality", block, window)
    blocks = everything(order) // block
    last_seen = {int(number): int(np.flatnonzero(blocks == number)[-1]) for number in np.unique(blocks)}
    opened: set[int] = set()
    most = 0
    for position, number in enumerate(blocks.tolist()):
        opened.add(number)
        most = max(most, len(opened))
        opened -= {other for other in opened if last_seen[other] <= position}
    assert most <= window, "blocks that are begun and not finished"
    assert order.windows == math.ceil(math.ceil(size / block) / window)


@settings(max_examples=60)
@given(size=st.integers(2, 400), block=st.integers(1, 40), window=st.integers(1, 20))
def test_a_window_can_be_asked_for_as_a_whole(size: int, block: int, window: int) -> None:
    order = Order(size, "windows", block, window)
    assume(order.windows > 1)
    samples, position = everything(order), 0
    for number in range(order.windows):
        begin, end = order.span(number)
        assert (begin, order.window(begin), order.window(end - 1)) == (position, number, number)
        inside = np.concatenate([np.arange(first, after) for first, after in order.blocks(number)])
        assert np.array_equal(np.sort(samples[begin:end]), np.sort(inside))
        position = end
    assert position == size


def test_the_short_block_and_the_blocks_of_a_window_are_the_key_s_choice() -> None:
    size, block = 1003, 16
    places = {int(np.flatnonzero(everything(Order(size, f"e{e}", block, 4)) == size - 1)[0]) // 64 for e in range(60)}
    assert len(places) > 10, "the short block comes at the same place of each epoch"
    windows = {tuple(np.unique(Order(size, f"e{e}", block, 4)[np.arange(64)] // block)) for e in range(20)}
    assert len(windows) == 20, "the same blocks come together in each epoch"


@pytest.mark.parametrize("size", [1000, 4096, 28190])
def test_data_of_one_window_looks_random(size: int) -> None:
    order = everything(order_of(size, "shuffle"))
    ranks = np.arange(size)
    assert abs(np.corrcoef(ranks, order)[0, 1]) < 4 / np.sqrt(size), "position and sample are correlated"
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(size), "neighbours are correlated"
    assert (np.diff(order) == 1).sum() < 8, "runs of the original order survive"
    first_tenth = order[: size // 10]
    deciles = np.bincount(first_tenth * 10 // size, minlength=10)
    expected = len(first_tenth) / 10
    assert ((deciles - expected) ** 2 / expected).sum() < 28, "the first tenth is not spread over the data"  # p < 0.001


def test_the_inside_of_each_window_looks_random() -> None:
    """Windows share a key schedule and differ by a tweak: their permutations must be unlike each other."""
    block, window = 8, 32
    order = everything(Order(block * window * 64, "tweaks", block, window)).reshape(64, -1)
    inside = np.argsort(np.argsort(order, axis=1), axis=1)
    same = np.array([(inside[i] == inside[j]).mean() for i in range(64) for j in range(i)])
    assert same.max() < 12 / 256, "two windows are shuffled alike"
    assert abs(np.corrcoef(np.arange(256), inside.mean(axis=0))[0, 1]) < 4 / 16


def test_windows_cost_little_of_the_shuffle() -> None:
    """The figures of docs/data.md: beside a full shuffle, for samples that are alike in stretches of a block."""
    size, batch = 60_000, 16
    windowed = quality(everything(Order(size, "q", 8, 128)), batch=batch, stretch=8)
    full = quality(everything(order_of(size, "q")), batch=batch, stretch=8)
    none = quality(np.arange(size), batch=batch, stretch=8)
    for measured in (windowed, full):
        assert abs(measured.rank_correlation) < 0.2
        assert measured.displacement == pytest.approx(1, abs=0.1)
        assert measured.kept_neighbours < 0.005
    assert full.batch_excess == pytest.approx(1, abs=0.1)
    assert windowed.batch_excess == pytest.approx(1 + batch / 128, abs=0.15)
    assert none.rank_correlation == pytest.approx(1)
    assert (none.displacement, none.kept_neighbours) == (0, 1)
    assert none.batch_excess == pytest.approx(8, rel=0.1)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    for block, window in ((FULL.block_samples, FULL.window_blocks), (16, 8)):
        orders = [everything(Order(1000, key, block, window)) for key in ("f:0:0", "f:0:1", "f:1:0", "g:0:0")]
        for i, left in enumerate(orders):
            for right in orders[:i]:
                assert (left == right).sum() < 10


def test_a_position_outside_is_refused() -> None:
    for order in (order_of(10), Order(10, "key", 2, 2)):
        for outside in (10, -1):
            with pytest.raises(IndexError, match="not within"):
                order[np.array([outside])]
    for size, block, window in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least one"):
            Order(size, "key", block, window)
