"""What a cut takes in and refuses, what is given out after it, and how large the ledger gets."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from deepseek_trainer.data.dynamic.contents import Contents
from deepseek_trainer.data.dynamic.contents import of as shard_contents
from deepseek_trainer.data.dynamic.dealing import dealt
from deepseek_trainer.data.dynamic.leases import Desk, Lease, LeaseBook
from deepseek_trainer.data.dynamic.ledger import LeaseLedger, UnfitError
from deepseek_trainer.data.dynamic.runs import ROWS_MAX, Run, append, ids, link
from deepseek_trainer.data.ledger import GENESIS, Ledger
from deepseek_trainer.data.store import StoreInfo
from deepseek_trainer.errors import DataError
from torch.distributed import HashStore  # type: ignore[attr-defined]  # exported by a star


def ledger(**changes: Any) -> LeaseLedger:
    return replace(LeaseLedger("f" * 64, "stream:32:shards:1", 0, 8, shards=4), **changes)


def json_of(ledger: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(ledger.to_json()))
    return made


def test_a_cut_moves_the_watermark_over_what_is_done() -> None:
    first = ledger().cut(3, [Run(1, 0, 5, True), Run(0, 0, 4, False), Run(3, 0, 2, False)], {0: "a", 3: "c"})
    assert (first.low, first.done, first.open, first.top) == (0, ((1, 5),), ((0, 4), (3, 2)), 4)
    assert (first.samples, first.step, first.epoch, first.marks) == (11, 3, 0, ((0, "a"), (3, "c")))

    second = first.cut(9, [Run(0, 4, 6, True), Run(2, 0, 0, True)])
    assert (second.low, second.done, second.open, second.marks) == (3, (), ((3, 2),), ((3, "c"),))

    third = second.cut(10, [Run(3, 2, 7, True)])
    assert (third.low, third.epoch, third.samples, third.top) == (4, 1, 18, 4)


@pytest.mark.parametrize(
    "run",
    [
        Run(0, 0, 3, False),  # again
        Run(0, 5, 6, False),  # a hole
        Run(1, 0, 5, True),  # it is done
        Run(2, 1, 2, True),  # not from its beginning
    ],
)
def test_what_does_not_fit_is_in_no_checkpoint(run: Run) -> None:
    begun = ledger().cut(1, [Run(1, 0, 5, True), Run(0, 0, 4, False)])
    with pytest.raises(UnfitError, match=f"lease {run.lease}"):
        begun.cut(2, [run])
    with pytest.raises(UnfitError):
        replace(begun, low=1, done=(), open=()).cut(2, [Run(0, 4, 5, False)])


def test_two_ranks_cannot_both_have_trained_a_row() -> None:
    with pytest.raises(UnfitError):
        ledger().cut(1, [Run(0, 0, 4, False), Run(0, 0, 2, False)])


def test_the_chain_is_of_the_samples_of_a_cut_whoever_trained_them() -> None:
    runs = [Run(1, 0, 2, True), Run(0, 0, 2, False)]
    samples = np.array([0, 1, ROWS_MAX, ROWS_MAX + 1], dtype=">i8").tobytes()
    expected = hashlib.sha256(bytes.fromhex(GENESIS) + samples).hexdigest()
    assert ledger().cut(1, runs).chain == ledger().cut(1, runs[::-1]).chain == expected
    assert link(expected, []) == expected
    assert ids(runs).tolist() == [ROWS_MAX, ROWS_MAX + 1, 0, 1]


def test_runs_that_go_on_are_one() -> None:
    runs: list[Run] = []
    for run in (Run(0, 0, 2, False), Run(0, 2, 4, True), Run(5, 3, 4, False), Run(5, 4, 6, False), Run(6, 0, 0, True)):
        append(runs, run)
    assert runs == [Run(0, 0, 4, True), Run(5, 3, 6, False), Run(6, 0, 0, True)]


def test_the_book_has_what_the_ledger_leaves_in_order() -> None:
    saved = ledger().cut(1, [Run(1, 0, 5, True), Run(0, 0, 4, False), Run(4, 0, 1, False)], {0: "a", 4: "e"})
    book = LeaseBook(ledger().continued_from(json_of(saved)))
    expected = [Lease(0, 4, "a"), Lease(2), Lease(3), Lease(4, 1, "e"), Lease(5), Lease(6)]
    assert [book[place] for place in range(6)] == expected


def test_each_lease_is_given_out_once_in_a_start_and_again_in_the_next() -> None:
    store = HashStore()
    first, second, other = (Desk(LeaseBook(ledger()), store, name) for name in ("a", "a", "b"))
    assert [first.take().number, second.take().number, first.take().number] == [0, 1, 2]
    assert [lease.number for lease in second.coming(2)] == [3, 4]
    assert other.take().number == 0


@pytest.mark.parametrize(
    ("shares", "available", "ended", "expected"),
    [
        ([4, 4], [9, 4], False, [4, 4]),
        ([4, 4], [9, 1], False, [7, 1]),
        ([4, 4], [5, 2], False, None),
        ([4, 4], [5, 2], True, [5, 2]),
        ([4, 4], [0, 0], True, [0, 0]),
        ([3, 3, 2], [0, 5, 9], False, [0, 5, 3]),
        ([1, 7], [20, 0], False, [8, 0]),
    ],
)
def test_a_batch_is_whole_where_there_are_rows_for_it(
    shares: list[int], available: list[int], ended: bool, expected: list[int] | None
) -> None:
    rows = dealt(np.array(shares), np.array(available), ended=ended)
    assert (None if rows is None else rows.tolist()) == expected


def test_the_ledger_stays_small_however_long_the_job_trains() -> None:
    rng, now = random.Random(0), ledger()
    for step in range(300):
        book = LeaseBook(now)
        held = [book[place] for place in range(16)]  # eight ranks, two shards each
        runs = [Run(one.number, one.offset, one.offset + 7, rng.random() < 0.7) for one in held if rng.random() < 0.6]
        now = now.cut(step, runs, {run.lease: "m" * 64 for run in runs})
    assert now.low > 1000
    assert len(json.dumps(now.to_json())) < 4096


def test_bad_records_are_counted_over_the_job_and_some_are_named() -> None:
    info = StoreInfo("f" * 64, 100, 10, 512, "uint16", 0.0, {})
    bad = [{"file": "a.jsonl", "place": f"line {n}", "reason": "not JSON", "count": 1} for n in range(4)]
    contents = Contents().with_more(shard_contents(info, bad) for _ in range(2))
    assert (contents.tokens, contents.documents, contents.quarantined, len(contents.examples)) == (200, 20, 8, 5)
    contents.require_few_bad(8)
    with pytest.raises(DataError, match=r"8 bad records so far, .* allows 7; the first: a\.jsonl, line 0: not JSON"):
        contents.require_few_bad(7)
    said = contents.report()
    assert said is not None
    assert (said.quarantined, Contents().report()) == (8, None)


def test_another_mode_is_other_data() -> None:
    by_position = Ledger("f" * 64, 100, "stream:32", 0, 8, step=7, chain="1" * 64)
    with pytest.raises(DataError, match=r"data\.mode was Deterministic, now Dynamic; put it back"):
        ledger().continued_from(json_of(by_position))
    leased = ledger().continued_from(json_of(by_position), allow_change=True)
    assert (leased.step, leased.from_step, leased.samples, leased.low) == (7, 7, 0, 0)
    assert leased.segments[0].position == 56
    leased = leased.cut(9, [Run(0, 0, 16, False)])

    back = replace(by_position, step=0).continued_from(json_of(leased), allow_change=True)
    assert (back.step, back.from_step, back.position) == (9, 9, 0)
    assert [segment.position for segment in back.segments] == [56, 16]
    assert back.segments[1].trained_on["mode"] == "Dynamic"
    with pytest.raises(DataError, match=r"data\.mode was Dynamic, now Deterministic"):
        by_position.continued_from(json_of(leased))


@pytest.mark.parametrize("gone", ["low", "done", "marks", "contents", "chain"])
def test_a_ledger_that_lacks_something_is_not_guessed(gone: str) -> None:
    saved = json_of(ledger().cut(1, [Run(0, 0, 4, False)]))
    del saved[gone]
    with pytest.raises(DataError, match="can't be read"):
        ledger().continued_from(saved)


def test_other_shards_are_refused_in_the_user_s_words() -> None:
    with pytest.raises(
        DataError, match=r"shards and samples \(data.dynamic, .* was stream:32:shards:1, now stream:32:shards:2"
    ):
        ledger(layout="stream:32:shards:2").continued_from(json_of(ledger(step=1)))
