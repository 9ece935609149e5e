"""Shares that follow the pace: they add up, they settle where all work for as long, and all ranks have the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from deepseek_trainer.data import deal
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.shares import EVERY, LAG, Shares, balanced
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=9), st.integers(0, 200))
def test_all_samples_are_dealt_and_nobody_gets_none(costs: list[float], more: int) -> None:
    shares = deal.even(len(costs) + more, len(costs))
    after = balanced(shares, shares * np.array(costs))
    assert after.sum() == shares.sum()
    assert after.min() >= 1


@given(st.integers(1, 64), st.integers(1, 9), st.integers(1, 5), st.randoms())
def test_given_shares_deal_each_sample_once_in_as_many_micro_steps(
    samples: int, ranks: int, size: int, random: object
) -> None:
    cuts = sorted(random.choices(range(samples + 1), k=ranks - 1))  # type: ignore[attr-defined]
    shares = np.diff([0, *cuts, samples])
    dealt = [
        micro_batches(np.arange(samples), rank=rank, world_size=ranks, micro_batch_size=size, shares=shares)
        for rank in range(ranks)
    ]
    assert len({len(mine) for mine in dealt}) == 1
    assert max(len(part) for mine in dealt for part in mine) <= size
    assert [sum(map(len, mine)) for mine in dealt] == shares.tolist()
    assert np.concatenate([part for mine in dealt for part in mine]).tolist() == list(range(samples))


@pytest.mark.parametrize(
    ("shares", "busy_s"),
    [
        ([8, 8], [1.0, 1.05]),  # about equal
        ([8, 8], [1.0, math.nan]),  # one isn't known
        ([1, 0], [1.0, 1.0]),  # more ranks than samples
        ([8, 8], [0.0, 1.0]),
    ],
)
def test_shares_stay_where_nothing_is_to_be_gained_or_known(shares: list[int], busy_s: list[float]) -> None:
    assert balanced(np.array(shares), np.array(busy_s)).tolist() == shares


def _play(costs: list[float], fixed: float, steps: int, samples: int = 64, first: int = 0) -> list[list[int]]:
    """The shares in each step of ranks that need so long for a sample, and for a step without any."""
    told: list[float] = []
    ranks = [Shares(samples, len(costs), lambda value: told) for _ in costs]
    history = []
    measured: list[list[float]] = []
    for step in range(first, first + steps):
        held = [rank.of(step).tolist() for rank in ranks]
        assert all(shares == held[0] for shares in held)
        ahead = ranks[0].of(step + LAG - 1).tolist()
        history.append(held[0])
        busy = [fixed + cost * count for cost, count in zip(costs, held[0], strict=True)]
        measured.append(busy)
        if not (step + 1) % EVERY:
            told[:] = busy
        for rank, busy_s in zip(ranks, busy, strict=True):
            rank.stepped(step + 1, busy_s)
        assert ranks[0].of(step + LAG - 1).tolist() == ahead  # what was loaded ahead stays dealt as it was
    return history


@pytest.mark.parametrize("first", [0, 7, 640])
@pytest.mark.parametrize("fixed", [0.0, 8.0])
def test_slow_rank_takes_less_until_all_work_for_as_long(fixed: float, first: int) -> None:
    *_, last = _play([1.0, 1.0, 3.0, 1.0], fixed, steps=12 * EVERY, first=first)
    busy = fixed + np.array(last) * [1.0, 1.0, 3.0, 1.0]
    assert last[2] < 10
    assert busy.max() <= 1.15 * busy.mean()


def test_alike_ranks_keep_even_shares() -> None:
    assert all(shares == [16, 16, 16, 16] for shares in _play([1.0, 1.02, 0.98, 1.0], 1.0, steps=4 * EVERY))
