"""The order of the samples is a permutation, mixes well, and never changes."""

from __future__ import annotations

import numpy as np
import pytest
from deepseek_trainer.data.order import Order
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 5000), key=st.text(max_size=20))
def test_every_sample_comes_exactly_once(size: int, key: str) -> None:
    assert np.array_equal(np.sort(Order(size, key)[np.arange(size)]), np.arange(size))


@given(size=st.integers(2, 10**12), positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=50))
def test_any_position_can_be_asked_for_alone(size: int, positions: list[int]) -> None:
    order = Order(size, "key")
    asked = np.array(positions, dtype=np.int64) % size
    together = order[asked]
    assert together.min() >= 0
    assert together.max() < size
    assert [int(order[asked[i : i + 1]][0]) for i in range(len(asked))] == together.tolist()


def test_the_order_is_pinned() -> None:
    """A change here would repeat and skip samples of every run that resumes."""
    assert Order(1000, "pinned")[np.arange(8)].tolist() == [373, 465, 882, 623, 331, 259, 717, 26]


@pytest.mark.parametrize("size", [1000, 4096, 28190])
def test_the_order_looks_random(size: int) -> None:
    order = Order(size, "shuffle")[np.arange(size)]
    ranks = np.arange(size)
    assert abs(np.corrcoef(ranks, order)[0, 1]) < 4 / np.sqrt(size), "position and sample are correlated"
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(size), "neighbours are correlated"
    assert (np.diff(order) == 1).sum() < 8, "runs of the original order survive"
    first_tenth = order[: size // 10]
    deciles = np.bincount(first_tenth * 10 // size, minlength=10)
    expected = len(first_tenth) / 10
    assert ((deciles - expected) ** 2 / expected).sum() < 28, "the first tenth is not spread over the data"  # p < 0.001


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [Order(1000, key)[np.arange(1000)] for key in ("f:0:0", "f:0:1", "f:1:0", "g:0:0")]
    for i, left in enumerate(orders):
        for right in orders[:i]:
            assert (left == right).sum() < 10


def test_a_position_outside_is_refused() -> None:
    with pytest.raises(IndexError, match="not within"):
        Order(10, "key")[np.array([10])]
    with pytest.raises(ValueError, match="at least one sample"):
        Order(0, "key")
