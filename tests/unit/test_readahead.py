"""What is trained was asked for before, block by block, and not much more than that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deepseek_trainer.data import readahead
from deepseek_trainer.data.cuts import Stream
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.readahead import ReadAhead
from deepseek_trainer.data.samples import Samples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.stores import store_of

LENGTH = 8
BYTES = 4
"""Of a token of such a store."""


def samples(training: int) -> Samples:
    tokens = (training + 1) * LENGTH + 1
    data = Samples(store_of([tokens]), Stream(tokens, LENGTH), LENGTH, 4, None, training, 1)
    assert data.store.tokens.itemsize == BYTES
    return data


class Asked:
    """How often each token was asked for."""

    def __init__(self, data: Samples) -> None:
        self.times = np.zeros(data.store.info.tokens, np.int64)

    def __call__(self, offset: int, length: int) -> None:
        self.times[offset // BYTES : (offset + length) // BYTES] += 1


@settings(max_examples=40)
@given(
    training=st.integers(30, 900),
    block=st.integers(1, 20),
    window=st.integers(1, 12),
    batch=st.integers(1, 50),
    first=st.integers(0, 40),
)
def test_what_is_trained_was_asked_for(training: int, block: int, window: int, batch: int, first: int) -> None:
    data = samples(training)
    start = Ledger("f" * 64, training, data.layout, 0, batch, block, window)
    order = start.order(0)
    spans = [order.span(number) for number in range(order.windows)]
    assume(order.windows > 1 and min(end - begin for begin, end in spans) >= batch)
    asked = Asked(data)
    ahead = ReadAhead(data, asked)
    for step in range(first, first + 30):
        here = replace(start, step=step)
        ahead.follow(here)
        starts, ends = data.extents(here.batch().samples)
        assert all(asked.times[begin:end].all() for begin, end in zip(starts.tolist(), ends.tolist(), strict=True))


def test_each_block_is_asked_for_once_an_epoch_and_little_by_little() -> None:
    # Blocks are further apart than what is read along with them.
    training, block = 2**17, 2**13
    data = samples(training)
    start = Ledger("f" * 64, training, data.layout, 0, 512, block, 4)
    asked = Asked(data)
    ahead = ReadAhead(data, asked)
    new = []
    for step in range(training // 512):
        before = asked.times.sum()
        ahead.follow(replace(start, step=step))
        new.append(int(asked.times.sum() - before))
    window = 4 * block * LENGTH
    assert max(new[1:]) < window * 0.4, "a window is asked for at once"
    assert sum(new[: len(new) // 4]) == pytest.approx(2 * window, rel=0.1), "one window ahead, no more"
    assert (asked.times > 2).mean() < 0.001, "a block is read again in the same epoch"
    assert sum(new) == pytest.approx(training * LENGTH + window, rel=0.1)


def test_a_mapped_store_is_read_ahead_and_small_data_left_alone(tmp_path: Path) -> None:
    data = samples(500)
    data.store.tokens.tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", np.uint32, mode="r")
    data = replace(data, store=replace(data.store, tokens=mapped))
    ledger = Ledger("f" * 64, data.training, data.layout, 0, 20, 16, 4)
    ahead = readahead.of(data, ledger)
    assert ahead is not None
    for step in range(60):
        ahead.follow(replace(ledger, step=step))
    assert readahead.of(data, replace(ledger, window_blocks=100)) is None
    assert readahead.of(samples(500), ledger) is None, "in memory already"
