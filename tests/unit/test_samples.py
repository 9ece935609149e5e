"""Samples of a token store: in each mode every token is used once, and a row says all that a model needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import samples
from deepseek_trainer.data.samples import IGNORED, MicroBatch, Samples
from deepseek_trainer.data.store import TokenStore
from deepseek_trainer.errors import DataError
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.stores import store_of

documents = st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda lengths: sum(lengths) > 80)
LENGTHS = st.integers(8, 20)
STREAM: dict[str, Any] = {"mode": "Stream"}
MASKED: dict[str, Any] = {"mode": "Stream", "documentMask": True}
PACKED: dict[str, Any] = {"mode": "Packed"}
BUCKETED: dict[str, Any] = {"mode": "Bucketed"}


def cut(store: TokenStore, length: int, batching: dict[str, Any] = STREAM, fraction: float = 0.1) -> Samples:
    config = {
        "job": "j",
        "trainer": {"training": {"steps": 1, "sequenceLength": length, "microBatchSize": 4}},
        "data": {"corpus": "gcide", "validationFraction": fraction, "batching": batching},
        "dataCache": "/nowhere",
    }
    return samples.of(RunConfig.model_validate(config), store)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def stored(scratch: Path, lengths: list[int], **options: Any) -> TokenStore:
    """A store with a folder of its own."""
    return store_of(lengths, folder=Path(tempfile.mkdtemp(dir=scratch)), **options)


def everything(data: Samples) -> NDArray[np.int64]:
    return np.arange(data.training + data.validation)


def predicted(batch: MicroBatch) -> list[tuple[int, int]]:
    """Each input and what is to be predicted there."""
    there = batch.labels != IGNORED
    return list(zip(batch.inputs[there].tolist(), batch.labels[there].tolist(), strict=True))


def within_documents(store: TokenStore) -> list[tuple[int, int]]:
    """Each token and the next one of the same document."""
    texts = [store.tokens[begin:end].tolist() for begin, end in pairwise(store.documents.tolist())]
    return [pair for text in texts for pair in pairwise(text)]


def texts_of(batch: MicroBatch) -> list[list[int]]:
    """What sees one another: runs of inputs whose positions count up, without padding."""
    rows, width = batch.inputs.shape
    positions = torch.arange(width).repeat(rows, 1) if batch.positions is None else batch.positions
    found: list[list[int]] = []
    for row in range(rows):
        for token, position in zip(batch.inputs[row].tolist(), positions[row].tolist(), strict=True):
            if position == 0:
                found.append([])
            assert position == len(found[-1]), "positions count up from 0"
            found[-1].append(token)
    return [text for tokens in found if (text := [token for token in tokens if token])]


@given(documents, LENGTHS)
def test_a_stream_predicts_each_token_but_the_first_once(lengths: list[int], length: int) -> None:
    data = cut(store_of(lengths), length)

    whole = data.collate(everything(data))

    tokens = data.store.tokens.tolist()
    assert sorted(predicted(whole)) == sorted(pairwise(tokens))
    assert data.targets(everything(data)).sum() == len(tokens) - 1
    assert whole.positions is None


@settings(max_examples=40)
@given(st.sampled_from([MASKED, PACKED, BUCKETED]), documents, LENGTHS)
def test_along_documents_each_token_but_their_first_is_predicted_once(
    scratch: Path, batching: dict[str, Any], lengths: list[int], length: int
) -> None:
    store = stored(scratch, lengths)
    data = cut(store, length, batching)

    whole = data.collate(everything(data))

    assert sorted(predicted(whole)) == sorted(within_documents(store))
    assert data.targets(everything(data)).sum() == len(within_documents(store))
    assert data.lengths(everything(data)).max() <= length
    place = {int(token): i for i, token in enumerate(store.tokens) if token}
    number = np.searchsorted(store.documents, np.arange(store.info.tokens), side="right")
    for text in texts_of(whole):
        assert {number[place[token]] for token in text} == {number[place[text[0]]]}, "two documents see each other"
        assert [b - a for a, b in pairwise(text)] == [1] * (len(text) - 1)


@settings(max_examples=15)
@given(documents, LENGTHS)
def test_a_document_that_fits_into_a_row_is_in_one(scratch: Path, lengths: list[int], length: int) -> None:
    store = stored(scratch, lengths)
    for batching in (PACKED, BUCKETED):
        data = cut(store, length, batching)
        texts = {tuple(text) for text in texts_of(data.collate(everything(data)))}
        for begin, end in pairwise(store.documents.tolist()):
            if 1 < end - begin <= length + 1:
                assert tuple(store.tokens[begin : end - 1].tolist()) in texts


def test_only_what_is_asked_for_is_predicted(scratch: Path) -> None:
    store = stored(scratch, [10, 3, 12, 5], loss_on=(1, 2, 11, 20))
    for batching, wanted in ((STREAM, [2, 3, 12, 21]), (PACKED, [2, 3, 12, 21]), (BUCKETED, [2, 3, 12, 21])):
        data = cut(store, 8, batching)
        assert sorted(label for _, label in predicted(data.collate(everything(data)))) == wanted
        counted = [len(predicted(data.collate(everything(data)[[sample]]))) for sample in everything(data)]
        assert data.targets(everything(data)).tolist() == counted


@given(st.integers(2, 500), st.floats(0.001, 0.49))
def test_held_out_samples_are_spread_over_the_data(count: int, fraction: float) -> None:
    data = cut(store_of([count * 8 + 1]), 8, fraction=fraction)

    places = data._places(everything(data))

    assert sorted(places) == list(range(count))
    assert (np.diff(places[: data.training]) > 0).all(), "neighbours in the data are neighbours in the numbering"
    held_out = np.diff(np.sort(places[data.training :]))
    assert all(abs(gap - count / data.validation) < 1 for gap in held_out)


def test_a_row_is_padded_to_a_multiple_of_eight_and_not_beyond_the_length() -> None:
    data = cut(store_of([50]), 20)  # rows of 20, 20 and 9 tokens
    short = everything(data)[data.lengths(everything(data)) == 9]

    alone, all_of_them, none = data.collate(short), data.collate(everything(data)), data.collate(short[:0])

    assert alone.inputs.shape == (1, 16)
    assert alone.inputs[0].tolist() == [*range(41, 50), *[0] * 7]
    assert alone.labels[0].tolist() == [*range(42, 50), 0, *[IGNORED] * 7]
    assert all_of_them.inputs.shape == (3, 20)
    assert all_of_them.inputs.dtype == all_of_them.labels.dtype == torch.int64
    assert none.inputs.shape == (1, 8)
    assert not predicted(none)


def test_an_index_is_made_once_and_anew_when_it_is_not_whole(scratch: Path) -> None:
    store = stored(scratch, [5, 9, 30, 4, 4, 12])
    before = cut(store, 8, PACKED)
    (index,) = store.folder.iterdir()
    rows = before.collate(everything(before)).inputs
    stamps = {path: path.stat().st_mtime_ns for path in index.iterdir()}

    assert cut(store, 8, PACKED).layout == before.layout
    assert {path: path.stat().st_mtime_ns for path in index.iterdir()} == stamps

    with (index / "starts.bin").open("r+b") as file:
        file.truncate(8)
    again = cut(store, 8, PACKED)
    assert torch.equal(again.collate(everything(again)).inputs, rows)
    assert [path.name for path in store.folder.iterdir()] == [index.name], "nothing is left over"


def test_many_that_write_one_index_all_have_it(scratch: Path) -> None:
    store = stored(scratch, [5, 9, 30, 4, 4, 12] * 200)
    with ThreadPoolExecutor(8) as pool:
        cuts = list(pool.map(lambda _: cut(store, 8, PACKED), range(16)))
    assert len({(data.training, data.layout) for data in cuts}) == 1
    assert len(list(store.folder.iterdir())) == 1


def test_each_mode_and_length_is_a_layout_of_its_own(scratch: Path) -> None:
    store = stored(scratch, [20] * 10)
    layouts = [cut(store, length, mode).layout for mode in (STREAM, MASKED, PACKED, BUCKETED) for length in (8, 16)]
    assert len(set(layouts)) == 8


@pytest.mark.parametrize("batching", [STREAM, MASKED, PACKED, BUCKETED])
def test_too_little_text_is_refused(scratch: Path, batching: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"lower trainer\.training\.sequenceLength"):
        cut(stored(scratch, [21]), 20, batching)


def test_documents_without_tokens_are_refused(scratch: Path) -> None:
    store = stored(scratch, [1] * 30)
    with pytest.raises(DataError, match="no text"):
        cut(store, 8, PACKED)
    assert not list(store.folder.iterdir())


def test_samples_that_are_not_there_are_an_error() -> None:
    data = cut(store_of([50]), 20)
    for sample in (-1, 3):
        with pytest.raises(IndexError):
            data.collate(np.array([sample]))
