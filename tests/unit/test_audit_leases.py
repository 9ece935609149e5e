"""The audit in mode Dynamic: any history of leases is proven, and whatever isn't exactly once is found and named."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.data.audit.__main__ import main
from deepseek_trainer.data.audit.frames import MAGIC, DamagedError
from deepseek_trainer.data.audit.leases import LeaseTally, Said
from deepseek_trainer.data.audit.proof import Proof, Verdict, prove
from deepseek_trainer.data.audit.records import Encoder, Header, LeaseRecord, Reader
from deepseek_trainer.data.audit.spans import Spans
from deepseek_trainer.data.dynamic.runs import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audits import Training, commit, rewrite_runs
from support.leasing import ROWS, Leasing

EPOCH = sum(ROWS)


def judged(folder: Path) -> tuple[Verdict, Proof]:
    proof = prove(folder)
    return proof.verdict, proof


# ---- ranges and counts ------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=20), st.integers(0, 40))
def test_ranges_are_a_set_of_numbers(added: list[tuple[int, int]], below: int) -> None:
    spans, numbers = Spans(), set[int]()
    for first, count in added:
        met = {number for one in spans.add(first, first + count) for number in range(*one)}
        assert met == numbers & set(range(first, first + count))
        numbers |= set(range(first, first + count))
    assert {number for one in spans for number in range(*one)} == numbers
    assert {number for one in spans.holes(below) for number in range(*one)} == set(range(below)) - numbers
    assert all((number in spans) == (number in numbers) for number in range(45))
    assert all(stop < first for (_, stop), (first, _) in zip(list(spans), list(spans)[1:], strict=False))


def tally_of(*runs: Run, shards: int = 0) -> LeaseTally:
    tally = LeaseTally(shards)
    for step, run in enumerate(runs, start=1):
        tally.add(step, run)
    return tally


def test_what_is_whole_is_forgotten() -> None:
    """Memory goes by what is open: leases that are whole are one range together."""
    tally = tally_of(*(Run(lease, 0, 9, True) for lease in range(2000)), Run(2001, 0, 4, False))
    assert list(tally.whole) == [(0, 2000)]
    assert (len(tally._ends), tally.opened) == (0, 1)


COUNTED: dict[str, tuple[list[Run], Said, tuple[int, int, int, int]]] = {
    # lost, repeated, strange, endless
    "all of it": ([Run(0, 0, 5, False), Run(0, 5, 9, True)], Said(9, 0, 1, {}, frozenset()), (0, 0, 0, 0)),
    "parts in another order": ([Run(0, 5, 9, True), Run(0, 0, 5, False)], Said(9, 0, 1, {}, frozenset()), (0, 0, 0, 0)),
    "a hole": ([Run(0, 0, 4, False), Run(0, 6, 9, True)], Said(9, 0, 1, {}, frozenset()), (2, 0, 0, 0)),
    "twice": ([Run(0, 0, 6, False), Run(0, 4, 9, True)], Said(9, 0, 1, {}, frozenset()), (0, 2, 0, 0)),
    "again when it is done": ([Run(0, 0, 9, True), Run(0, 0, 3, False)], Said(9, 0, 1, {}, frozenset()), (0, 3, 0, 0)),
    "no end": ([Run(0, 0, 6, False)], Said(9, 0, 1, {}, frozenset()), (3, 0, 0, 1)),
    "no record of a lease": ([Run(1, 0, 9, True)], Said(18, 0, 2, {}, frozenset()), (9, 0, 0, 1)),
    "an empty shard without a record": ([Run(1, 0, 9, True)], Said(9, 0, 2, {}, frozenset()), (0, 0, 0, 1)),
    "two ends": (
        [Run(0, 0, 6, True), Run(1, 0, 6, True), Run(1, 6, 9, True)],
        Said(12, 0, 2, {}, frozenset()),
        (0, 3, 0, 0),
    ),
    "two ends of one that is open": (
        [Run(0, 5, 6, True), Run(0, 6, 9, True)],
        Said(9, 0, 1, {}, frozenset()),
        (5, 0, 6, 0),
    ),
    "open as far as the ledger says": ([Run(3, 0, 4, False)], Said(4, 0, 0, {3: 4}, frozenset()), (0, 0, 0, 0)),
    "open, less than it says": ([Run(3, 0, 4, False)], Said(6, 0, 0, {3: 6}, frozenset()), (2, 0, 0, 0)),
    "open, more than it says": ([Run(3, 0, 4, False)], Said(3, 0, 0, {3: 3}, frozenset()), (0, 0, 1, 0)),
    "done above the others": ([Run(3, 0, 4, True)], Said(4, 0, 0, {3: 4}, frozenset({3})), (0, 0, 0, 0)),
    "done, by the ledger only": ([Run(3, 0, 4, False)], Said(4, 0, 0, {3: 4}, frozenset({3})), (0, 0, 0, 1)),
    "not in the ledger": ([Run(3, 0, 4, True), Run(5, 0, 2, False)], Said(0, 0, 0, {}, frozenset()), (0, 0, 6, 0)),
    "rows that no shard has": (
        [Run(0, -1, 3, False), Run(0, 0, 2**21, False)],
        Said(0, 0, 0, {}, frozenset()),
        (0, 0, 4 + 2**21, 0),
    ),
}


@pytest.mark.parametrize(("runs", "said", "counts"), COUNTED.values(), ids=COUNTED)
def test_the_tally_beside_a_ledger(runs: list[Run], said: Said, counts: tuple[int, int, int, int]) -> None:
    tally = tally_of(*runs)
    found = tally.compare(said)
    assert (found.lost, tally.repeated, tally.strange + found.strange, found.endless) == counts


def test_an_epoch_with_fewer_rows_than_the_first_is_found() -> None:
    whole = [Run(0, 0, 9, True), Run(1, 0, 4, True)]
    assert not tally_of(*whole, Run(2, 0, 4, True), Run(3, 0, 9, True), shards=2).problems
    [problem] = tally_of(*whole, Run(2, 0, 4, True), Run(3, 0, 8, True), shards=2).problems
    assert problem.startswith("epoch 1 had 12 rows, epoch 0 13")


# ---- the file ---------------------------------------------------------------------------------


def test_the_format_of_a_record_is_kept() -> None:
    """So that a file can be read by other means, years later."""
    header = Header("uid", "g1-a1-0", 1, 1, 0, 1, {"mode": "Dynamic"})
    encoder = Encoder(header)
    frame = encoder.record(LeaseRecord(7, (Run(5, 2, 9, True),), cut=True))
    payload = struct.pack("<qIB", 7, 1, 1) + struct.pack("<qIIB", 5, 2, 9, 1)
    first = zlib.crc32(encoder.first[len(MAGIC) + 8 :], zlib.crc32(MAGIC))
    assert frame == struct.pack("<II", len(payload), zlib.crc32(payload, first)) + payload


def test_a_step_costs_21_bytes_and_a_run_17(tmp_path: Path) -> None:
    job = Leasing(tmp_path, ranks=1, rows=[10**5], batch=1000).sync()
    before = job.file().stat().st_size
    job.steps(10).sync()
    assert job.file().stat().st_size - before == 10 * (21 + 17)


def test_a_cut_at_any_byte_leaves_the_steps_before_it(tmp_path: Path) -> None:
    job = Leasing(tmp_path, ranks=1).steps(3).sync()
    content, seen = job.file().read_bytes(), set()
    for cut in range(len(content)):
        job.file().write_bytes(content[:cut])
        try:
            records = list(Reader(job.file()))
        except DamagedError:
            continue
        assert [record.step for record in records] == [1, 2, 3][: len(records)]
        seen.add(len(records))
    assert seen == {0, 1, 2}


# ---- the proof --------------------------------------------------------------------------------


def test_an_undisturbed_run_is_proven(tmp_path: Path) -> None:
    job = Leasing(tmp_path).steps(4).save().steps(7).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN, proof
    assert (proof.samples, proof.complete, proof.chain) == (66, 66 // EPOCH, job.ledger.chain)
    assert proof.shards["whole"] == job.ledger.low + len(job.ledger.done)


def test_what_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    """Three worlds; each had trained beyond its checkpoint, one goes on when another generation has begun."""
    zombie = Leasing(tmp_path).steps(3).save().steps(4).sync()
    Leasing(tmp_path, ranks=5, generation=2).steps(1).save().steps(2).sync()
    zombie.steps(9).sync()
    job = Leasing(tmp_path, ranks=3, generation=3).steps(2).save().steps(4).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN, proof
    assert (proof.step, proof.starts, proof.counted, proof.chain) == (10, 3, 3, job.ledger.chain)


def test_a_stream_is_proven_to_its_end(tmp_path: Path) -> None:
    Leasing(tmp_path, stream=True, rows=[9, 4, 20, 1]).steps(3).save().steps(1).sync()
    Leasing(tmp_path, ranks=3, stream=True, rows=[9, 4, 20, 1]).steps(12).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN, proof
    assert (proof.samples, proof.shards, proof.complete) == (34, {"whole": 4, "open": 0}, 0)


def test_a_checkpoint_of_nothing_new_changes_nothing(tmp_path: Path) -> None:
    """As when SIGTERM arrives while all wait for data."""
    Leasing(tmp_path).save()
    Leasing(tmp_path, generation=2).steps(3).save()
    job = Leasing(tmp_path, generation=3).save()
    verdict, proof = judged(tmp_path)
    assert (verdict, proof.chain) == (Verdict.PROVEN, job.ledger.chain), proof


def test_the_modes_follow_each_other_in_segments(tmp_path: Path) -> None:
    Training(tmp_path).steps(5).save().steps(2).sync()
    Leasing(tmp_path, generation=2).steps(4).save().steps(1).sync()
    Leasing(tmp_path, generation=3, fingerprint="e" * 64).steps(4).save()
    job = Training(tmp_path, generation=4).steps(9).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN, proof
    assert (proof.segments, proof.step, proof.chain) == (4, 22, job.ledger.chain)


def test_the_chain_of_a_step_is_that_of_the_cut_before_it(tmp_path: Path) -> None:
    job = Leasing(tmp_path).steps(4).save()
    first = job.ledger.chain
    second = job.steps(3).save().ledger.chain
    assert prove(tmp_path, at=4).chain_at == (4, "0" * 64, first)
    assert prove(tmp_path, at=6).chain_at == (6, first)
    assert prove(tmp_path, at=7).chain_at == (7, first, second)


Lie = Callable[[LeaseRecord], LeaseRecord]


def _in_runs(change: Callable[[Run], Run]) -> Lie:
    """Of the first run that has rows."""

    def lie(record: LeaseRecord) -> LeaseRecord:
        at = next(place for place, run in enumerate(record.runs) if run.stop > run.first)
        runs = [change(run) if place == at else run for place, run in enumerate(record.runs)]
        return replace(record, runs=tuple(runs))

    return lie


LIES: dict[str, tuple[Lie, str]] = {
    "a row left out": (_in_runs(lambda run: run._replace(stop=run.stop - 1)), "lost"),
    "a row too many": (_in_runs(lambda run: run._replace(stop=run.stop + 1)), "strange|repeated"),
    "rows moved by one": (_in_runs(lambda run: run._replace(first=run.first + 1, stop=run.stop + 1)), "lost"),
    "another lease": (_in_runs(lambda run: run._replace(lease=run.lease + 1)), "lost"),
    "a lease far away": (_in_runs(lambda run: run._replace(lease=run.lease + 10**9)), "lost"),
    "no run at all": (lambda record: replace(record, runs=()), "lost"),
    "each run twice": (lambda record: replace(record, runs=record.runs * 2), "repeated"),
    "another end": (_in_runs(lambda run: run._replace(ends=not run.ends)), "lost|strange|repeated|problem"),
}


@pytest.mark.parametrize(("lie", "says"), LIES.values(), ids=LIES)
@pytest.mark.parametrize("at", [0, 3, 5])
def test_what_is_not_exactly_once_is_found(
    tmp_path: Path, lie: Lie, says: str, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Leasing(tmp_path).steps(3).save().steps(3).save()
    rewrite_runs(job.file(), lambda records: [*records[:at], lie(records[at]), *records[at + 1 :]])
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.NOT_PROVEN, proof
    assert main([str(tmp_path)]) == 1
    assert re.search(f"^({says}) ", capsys.readouterr().out, re.MULTILINE)


LEDGERS: dict[str, tuple[Callable[[Leasing], dict[str, object]], str]] = {
    "a watermark too high": (lambda job: {"low": job.ledger.low + 1, "open": []}, "lost"),
    "a watermark too low": (lambda job: {"low": 0, "done": [], "open": []}, "strange"),
    "an open lease forgotten": (lambda job: {"open": [list(one) for one in job.ledger.open[1:]]}, "strange"),
    "rows of an open lease that were not trained": (
        lambda job: {"open": [[lease, rows + 1] for lease, rows in job.ledger.open]},
        "lost",
    ),
    "more samples": (lambda job: {"samples": job.ledger.samples + 1}, "lost"),
    "another chain": (lambda job: {"chain": "e" * 64}, "problem"),
    "another end of the source": (lambda job: {"shards": 99}, "problem"),
    "leases that are none": (lambda job: {"open": "all"}, "no evidence"),
}


@pytest.mark.parametrize(("change", "says"), LEDGERS.values(), ids=LEDGERS)
def test_a_ledger_that_says_something_else_is_found(
    tmp_path: Path,
    change: Callable[[Leasing], dict[str, object]],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = Leasing(tmp_path).steps(5).save()
    path = layout.checkpoint_folder(tmp_path, 5)
    manifest = layout.read_manifest(path)
    commit(path, manifest.to_json() | {"ledger": manifest.ledger | change(job)})
    assert main([str(tmp_path)]) == (2 if says == "no evidence" else 1)
    assert re.search(f"^{says} ", capsys.readouterr().out, re.MULTILINE)


UNKNOWN: dict[str, tuple[Callable[[Leasing], object], str]] = {
    "a rank's file is missing": (lambda job: job.file(1).unlink(), r"steps 1 to 9: .*rank-00001.ids can't be read"),
    "a step is left out": (
        lambda job: rewrite_runs(job.file(), lambda records: [*records[:4], *records[5:]]),
        r"steps 5 to 9: .* has step 6 where 5 belongs",
    ),
    "ranks that don't agree about a checkpoint": (
        lambda job: rewrite_runs(job.file(), lambda records: [replace(record, cut=False) for record in records]),
        r"steps 5 to 9: the ranks don't agree whether a checkpoint was made before step 5",
    ),
}


@pytest.mark.parametrize(("damage", "says"), UNKNOWN.values(), ids=UNKNOWN)
def test_without_evidence_there_is_no_verdict(tmp_path: Path, damage: Callable[[Leasing], object], says: str) -> None:
    damage(Leasing(tmp_path).steps(4).save().steps(5).save())
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.UNKNOWN, proof
    assert re.search(says, proof.gaps[0]), proof.gaps
    assert proof.chain is None


def test_a_rank_that_forgot_a_checkpoint_has_another_chain(tmp_path: Path) -> None:
    job = Leasing(tmp_path, ranks=1).steps(4).save().steps(5).save()
    rewrite_runs(job.file(), lambda records: [replace(record, cut=False) for record in records])
    assert judged(tmp_path)[0] is Verdict.NOT_PROVEN


EVENTS = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 5)),
    st.tuples(st.just("save"), st.just(0)),
    st.tuples(st.just("restart"), st.integers(1, 5)),
    st.tuples(st.just("new generation"), st.integers(1, 5)),
    st.tuples(st.just("zombie"), st.integers(1, 9)),
)


@settings(max_examples=15)
@given(
    rows=st.lists(st.integers(0, 30), min_size=1, max_size=9).filter(any),
    batch=st.integers(1, 40),
    stream=st.booleans(),
    events=st.lists(EVENTS, min_size=1, max_size=25),
    lie=st.data(),
)
def test_any_history_is_proven_and_any_lie_in_it_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int],
    batch: int,
    stream: bool,
    events: list[tuple[str, int]],
    lie: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("job")
    generation = 1
    zombies: list[Leasing] = []
    job = Leasing(folder, rows=rows, batch=batch, stream=stream)
    for event, number in events:
        match event:
            case "steps":
                job.steps(number)
            case "save":
                job.save()
            case "zombie":
                for zombie in zombies:
                    zombie.steps(number).sync()
            case _:
                zombies.append(job)
                generation += event == "new generation"
                job = Leasing(folder, number, generation=generation, rows=rows, batch=batch, stream=stream)
    job.steps(1).save()
    proof = prove(folder)
    assert proof.verdict is Verdict.PROVEN, proof
    assert (proof.samples, proof.chain) == (job.ledger.samples, job.ledger.chain)

    trained = [(path, at) for path in sorted(job.file().parent.iterdir()) for at in _with_rows(path)]
    if not trained:
        return
    path, at = lie.draw(st.sampled_from(trained))
    change, _ = lie.draw(st.sampled_from([LIES[name] for name in LIES if name != "another end"]))
    rewrite_runs(path, lambda records: [*records[:at], change(records[at]), *records[at + 1 :]])
    assert prove(folder).verdict is Verdict.NOT_PROVEN


def _with_rows(path: Path) -> list[int]:
    records = [record for record in Reader(path) if isinstance(record, LeaseRecord)]
    return [at for at, record in enumerate(records) if any(run.stop > run.first for run in record.runs)]


def test_a_proof_is_told_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Leasing(tmp_path).steps(9).save()
    assert main([str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"][4] == [
        "shards",
        f"{said['shards']['whole']} whole, {said['shards']['open']} open; 2 epochs complete",
    ]
