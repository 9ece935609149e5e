"""The loader: what it gives is a function of the step alone, whatever was made ahead; it ends, and passes on errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from deepseek_trainer.data.cuts import Stream
from deepseek_trainer.data.ledger import Batch, Ledger
from deepseek_trainer.data.loader import Loader, Step
from deepseek_trainer.data.samples import MicroBatch, Samples
from support.eventually import eventually
from support.stores import store_of

STEPS = 12
DATA = Samples(store_of([500]), Stream(500, 8), 8, micro_batch_size=2, budget=None, training=60, validation=2)
LEDGER = Ledger("f" * 64, samples=60, layout=DATA.layout, seed=3, global_batch=7)


def batches_of(step: int, count: int) -> list[Batch]:
    return replace(LEDGER, step=step).batches(count)


@contextmanager
def loading(
    first: int = 0, rank: int = 0, batches: Callable[[int, int], Iterable[Batch]] = batches_of, depth: int | None = None
) -> Iterator[Loader]:
    loader = Loader(
        DATA, batches, first=first, last=STEPS, rank=rank, world_size=2, device=torch.device("cpu"), depth=depth
    )
    with closing(loader):
        yield loader


def take(loader: Loader, number: int) -> tuple[Step, list[MicroBatch]]:
    step = loader.step(number)
    parts = [loader.micro_batch() for _ in range(step.micro_steps)]
    for places, micro_batch in parts:
        wanted = DATA.collate(step.batch.samples[places])
        assert torch.equal(micro_batch.inputs, wanted.inputs)
        assert torch.equal(micro_batch.labels, wanted.labels)
    return step, [micro_batch for _, micro_batch in parts]


def test_ranks_share_each_batch_and_know_how_much_it_is() -> None:
    with loading(rank=0) as first, loading(rank=1) as second:
        for number in range(STEPS):
            (step, mine), (other, theirs) = take(first, number), take(second, number)
            assert step.micro_steps == other.micro_steps
            assert (step.tokens, step.targets) == (other.tokens, other.targets) == (56, 56)
            rows = torch.cat([part.inputs for part in (*mine, *theirs)])
            assert sorted(rows.tolist()) == sorted(DATA.collate(batches_of(number, 1)[0].samples).inputs.tolist())


@pytest.mark.parametrize("depth", [1, 64])
def test_a_later_start_goes_on_as_if_nothing_had_been_made_ahead(depth: int) -> None:
    with loading(depth=depth) as loader:
        through = [take(loader, number)[1] for number in range(STEPS)]
    for first in (0, 5, STEPS - 1):
        with loading(first, depth=depth) as loader:
            for number in range(first, STEPS):
                again = take(loader, number)[1]
                assert [part.inputs.tolist() for part in again] == [part.inputs.tolist() for part in through[number]]


def test_no_more_is_made_ahead_than_allowed() -> None:
    made: list[int] = []

    def counted(step: int, count: int) -> Iterator[Batch]:
        for number in range(step, step + count):
            made.append(number)
            yield from batches_of(number, 1)

    with loading(batches=counted, depth=4) as loader:  # a step and its two micro-batches are three of them
        eventually(lambda: len(made) == 2, deadline_s=20, what="the second step is made")
        take(loader, 0)
        eventually(lambda: len(made) == 3, deadline_s=20, what="the third step is made")
        assert made == [0, 1, 2]


def test_closing_ends_the_thread_wherever_it_is() -> None:
    for depth in (1, 2, 3, 64):
        with loading(depth=depth) as loader:
            loader.step(0)
    assert not [thread for thread in threading.enumerate() if thread.name == "loader"]


def test_what_stops_the_loading_is_raised_where_the_data_is_missed() -> None:
    def failing(step: int, count: int) -> Iterator[Batch]:
        for number in range(step, step + count):
            if number == 2:
                raise OSError("the volume is gone")
            yield from batches_of(number, 1)

    with loading(batches=failing) as loader:
        take(loader, 0)
        take(loader, 1)
        for _ in range(2):
            with pytest.raises(OSError, match="the volume is gone"):
                loader.step(2)


def test_steps_are_taken_in_their_order_and_whole() -> None:
    with loading() as loader, pytest.raises(RuntimeError, match="step 3"):
        loader.step(3)
    with loading() as loader:
        loader.step(0)
        with pytest.raises(RuntimeError, match="step 1"):
            loader.step(1)
    with loading(STEPS - 1) as loader:
        take(loader, STEPS - 1)
        with pytest.raises(RuntimeError, match="no more steps"):
            loader.step(STEPS)


def test_a_batch_in_which_nothing_is_predicted_has_a_mean() -> None:
    nothing = replace(DATA, store=replace(DATA.store, targets=np.zeros(500, np.uint8)))
    loader = Loader(nothing, batches_of, first=0, last=1, rank=0, world_size=1, device=torch.device("cpu"))
    with closing(loader):
        assert loader.step(0).targets == 1
