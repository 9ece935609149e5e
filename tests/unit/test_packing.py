"""Packing documents into rows, and cutting a batch of rows into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from deepseek_trainer.data import buckets, packing
from hypothesis import given
from hypothesis import strategies as st


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[int]:
    """What is in each row, when pieces are placed one by one."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, filled in enumerate(rows) if filled + length <= capacity]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += length
        else:
            rows.append(length)
    return rows


@given(st.integers(8, 50).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), min_size=1))))
def test_rows_are_those_of_placing_pieces_one_by_one(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    owners = packing.rows(np.array(lengths), capacity)

    filled = np.bincount(owners, weights=lengths).astype(int).tolist()
    assert sorted(filled) == sorted(best_fit_decreasing(lengths, capacity))
    first = [owners.tolist().index(row) for row in range(len(filled))]
    assert first == sorted(first), "rows are in the order of their first pieces"


widths = st.lists(st.integers(1, 16).map(lambda eights: 8 * eights), min_size=1, max_size=60)


@given(widths, st.integers(1, 9), st.integers(8, 512))
def test_micro_batches_are_the_batch_once_within_the_budget(found: list[int], world_size: int, budget: int) -> None:
    by_rank = [
        buckets.micro_batches(np.array(found), rank=rank, world_size=world_size, budget=budget)
        for rank in range(world_size)
    ]

    assert len({len(mine) for mine in by_rank}) == 1, "each rank makes as many micro-steps"
    parts = [part for mine in by_rank for part in mine if len(part)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(found)))
    assert all(len(part) == 1 or len(part) * max(found[i] for i in part) <= budget for part in parts)


def test_micro_batches_cost_each_rank_alike() -> None:
    found = np.maximum(8, np.random.default_rng(1).lognormal(5, 0.8, 512).astype(np.int64) // 8 * 8).clip(max=1024)
    padded = [
        sum(
            len(part) * int(found[part].max())
            for part in buckets.micro_batches(found, rank=rank, world_size=4, budget=8192)
        )
        for rank in range(4)
    ]
    assert max(padded) < 1.05 * min(padded)
    assert sum(padded) < 1.1 * found.sum()
