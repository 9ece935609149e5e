"""Samples of a token store: in each mode every token is used once, and a row says all that a model needs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from deepseek_trainer.data.cuts import Stream
from deepseek_trainer.data.samples import IGNORED, MicroBatch, Samples, split
from deepseek_trainer.data.store import TokenStore
from deepseek_trainer.errors import DataError
from hypothesis import given
from hypothesis import strategies as st
from support.stores import store_of

FRACTION = 0.1
documents = st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda lengths: sum(lengths) > 50)


def streamed(store: TokenStore, length: int) -> Samples:
    return split(store, Stream(store.info.tokens, length), length, FRACTION)


def everything(data: Samples) -> np.ndarray:
    return np.arange(data.training + data.validation)


def predicted(batch: MicroBatch) -> list[tuple[int, int]]:
    """Each input and what is to be predicted there."""
    there = batch.labels != IGNORED
    return list(zip(batch.inputs[there].tolist(), batch.labels[there].tolist(), strict=True))


@given(documents, st.integers(8, 20))
def test_a_stream_predicts_each_token_but_the_first_once(lengths: list[int], length: int) -> None:
    store = store_of(lengths)
    data = streamed(store, length)

    whole = data.collate(everything(data))

    tokens = store.tokens.tolist()
    assert sorted(predicted(whole)) == sorted(pairwise(tokens))
    assert data.targets(everything(data)).sum() == len(tokens) - 1
    assert whole.positions is None


@given(st.integers(2, 500), st.floats(0.001, 0.49))
def test_held_out_samples_are_spread_over_the_data(count: int, fraction: float) -> None:
    store = store_of([count * 8 + 1])
    data = split(store, Stream(store.info.tokens, 8), 8, fraction)

    places = data._places(everything(data))

    assert sorted(places) == list(range(count))
    assert (np.diff(places[: data.training]) > 0).all(), "neighbours in the data are neighbours in the numbering"
    held_out = np.diff(np.sort(places[data.training :]))
    assert all(abs(gap - count / data.validation) < 1 for gap in held_out)


def test_a_row_is_padded_to_a_multiple_of_eight_and_not_beyond_the_length() -> None:
    data = streamed(store_of([50]), 20)  # rows of 20, 20 and 9 tokens
    short = everything(data)[data.lengths(everything(data)) == 9]

    alone, all_of_them = data.collate(short), data.collate(everything(data))

    assert alone.inputs.shape == (1, 16)
    assert alone.inputs[0].tolist() == [*range(41, 50), *[0] * 7]
    assert alone.labels[0].tolist() == [*range(42, 50), 0, *[IGNORED] * 7]
    assert all_of_them.inputs.shape == (3, 20)
    assert all_of_them.inputs.dtype == all_of_them.labels.dtype == torch.int64


def test_too_little_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"lower trainer\.training\.sequenceLength"):
        streamed(store_of([21]), 20)


def test_samples_that_are_not_there_are_an_error() -> None:
    data = streamed(store_of([50]), 20)
    for sample in (-1, 3):
        with pytest.raises(IndexError):
            data.collate(np.array([sample]))
