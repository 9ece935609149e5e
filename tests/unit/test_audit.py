"""The audit: what is written down is read back; whatever is not exactly once is found, and what was rolled back is not."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from deepseek_trainer.checkpoint import layout, load
from deepseek_trainer.checkpoint.layout import Manifest, Start
from deepseek_trainer.data.audit.__main__ import main
from deepseek_trainer.data.audit.proof import Proof, Verdict, prove
from deepseek_trainer.data.audit.records import MAGIC, DamagedError, Encoder, Header, Reader, Record, file_of
from deepseek_trainer.data.audit.tally import Tally
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.deal import micro_batches
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.errors import UnavailableError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audits import rewrite

SAMPLES, BATCH = 20, 6


class Training:
    """A job's training without a model: the trainer's own ledger, writer and records, on as many ranks as asked for.

    It goes on from the newest committed checkpoint, as the trainer does, unless it is told of another.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int = 2,
        *,
        generation: int = 1,
        samples: int = SAMPLES,
        batch: int = BATCH,
        audited: bool = True,
        fall_back_to: int | None = None,
        fingerprint: str = "f" * 64,
    ) -> None:
        self.folder, self.ranks, self.generation = folder, ranks, generation
        self.ledger = Ledger(fingerprint, samples, "stream:32", 0, batch)
        found = self._found(fall_back_to)
        if found is not None:
            self.ledger = self.ledger.continued_from(found.manifest.ledger, allow_change=True)
        self.start = load.record_start(
            folder,
            job="uid-1",
            generation=generation,
            attempt=generation,
            found=found,
            world_size=ranks,
            audited=audited,
        )
        ledger = self.ledger.to_json()
        self.logs = [
            AuditLog(
                folder / layout.AUDIT,
                Header.of(self.start, rank, ledger),
            )
            for rank in range(ranks)
        ]

    def _found(self, step: int | None) -> load.Found | None:
        newest = [path for at, path in layout.checkpoints(self.folder) if step is None or at == step]
        return load.Found(newest[0], layout.read_manifest(newest[0])) if newest else None

    def steps(self, count: int = 1) -> Training:
        for _ in range(count):
            batch = self.ledger.batch()
            self.ledger = self.ledger.advance(batch)
            for rank, log in enumerate(self.logs):
                mine = micro_batches(
                    np.arange(len(batch.samples)), rank=rank, world_size=self.ranks, micro_batch_size=2
                )
                places = np.concatenate(mine)
                log.record(self.ledger.step, batch.samples[places], batch.epochs[places])
        return self

    def sync(self) -> Training:
        if self.start.audited:
            for log in self.logs:
                log.sync()
        return self

    def save(self) -> Training:
        self.sync()
        step = self.ledger.step
        manifest = Manifest(
            *(1, "job", step, self.generation, self.generation, self.ranks, self.ledger.to_json(), {}, {}, {}, 0.1, ""),
            start=self.start.start,
        )
        path = layout.checkpoint_folder(self.folder, step)
        path.mkdir(parents=True, exist_ok=True)
        (path / layout.MANIFEST).write_text(json.dumps(manifest.to_json()))
        (path / layout.COMMITTED).touch()
        return self

    def file(self, rank: int = 0) -> Path:
        return file_of(self.folder / layout.AUDIT, self.start.start, rank)


def judged(folder: Path) -> tuple[Verdict, Proof]:
    proof = prove(folder)
    return proof.verdict, proof


# ---- the file ---------------------------------------------------------------------------------


def header(**changes: object) -> Header:
    return replace(Header("uid", "g1-a1-0", 1, 1, 0, 1, {"step": 0}), **changes)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 5)), max_size=8),
        max_size=12,
    )
)
def test_what_was_recorded_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[int, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("audit")
    log = AuditLog(folder, header())
    for step, uses in enumerate(steps, start=1):
        samples, epochs = np.array(uses, np.int64).reshape(-1, 2).T
        log.record(step, samples, epochs)
        if step % 3 == 0:
            log.sync()
    log.sync()
    reader = Reader(file_of(folder, "g1-a1-0", 0))
    assert reader.header == header()
    read = [sorted(zip(record.samples.tolist(), record.epochs.tolist(), strict=True)) for record in reader]
    assert read == [sorted(uses) for uses in steps]


def test_a_step_costs_33_bytes_and_a_sample_4(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1, samples=10**9, batch=1000).sync()
    before = job.file().stat().st_size
    job.steps(10).sync()
    assert job.file().stat().st_size - before == 10 * (33 + 4 * 1000)


def test_more_than_a_megabyte_is_not_kept_in_memory(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1, samples=10**9, batch=100_000).steps(3)
    assert job.file().stat().st_size > 1 << 20


def test_a_cut_at_any_byte_leaves_the_steps_before_it(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(3).sync()
    content = job.file().read_bytes()
    lengths, first = [], len(Training(tmp_path / "other", ranks=1).logs[0]._pending)
    for cut in range(len(content)):
        job.file().write_bytes(content[:cut])
        if cut < first:
            with pytest.raises(DamagedError, match=r"ends at byte|no audit"):
                Reader(job.file())
        else:
            lengths.append(len(list(Reader(job.file()))))
    assert lengths == sorted(lengths)
    assert set(lengths) == {0, 1, 2}


def test_any_flipped_byte_ends_what_can_be_read(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(2).sync()
    content = job.file().read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        job.file().write_bytes(flipped)
        try:
            assert len(list(Reader(job.file()))) < 2, f"byte {place} changes nothing"
        except DamagedError:
            continue


def test_a_frame_that_was_taken_out_is_missed(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(3).sync()
    content = job.file().read_bytes()
    frames, place = [content[: len(MAGIC)]], len(MAGIC)
    while place < len(content):
        (length,) = struct.unpack_from("<I", content, place)
        frames.append(content[place : place + 8 + length])
        place += 8 + length
    job.file().write_bytes(b"".join([*frames[:2], *frames[3:]]))
    assert list(Reader(job.file())) == []


def test_a_volume_without_room_is_told_with_the_file(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(1)
    (tmp_path / layout.AUDIT).write_text("in the way")
    with pytest.raises(
        UnavailableError, match=r"the audit can't be written to .*rank-00000.ids: .*give the checkpoint"
    ):
        job.sync()


# ---- the count --------------------------------------------------------------------------------


def test_the_tally_counts_lost_repeated_and_strange_samples() -> None:
    tally = Tally(10, last_epoch=2)
    tally.add(1, np.array([0, 1, 2, 2, 11, -1]), np.zeros(6, np.int64))
    tally.add(2, np.array([3, 0, 4]), np.array([0, 0, 7]))
    tally.add(3, np.arange(10), np.full(10, 2))
    tally.add(4, np.array([5, 9]), np.array([0, 2]))
    tally.finish(complete=3)
    found = {number: (epoch.trained, epoch.lost, epoch.repeated) for number, epoch in tally.epochs.items()}
    assert found == {0: (4, 6, 3), 1: (0, 10, 0), 2: (10, 0, 1)}
    assert tally.strange == 3
    assert tally.repeated_examples == [(1, 0, 2), (2, 0, 0), (4, 0, 5), (4, 2, 9)]
    assert tally.lost_examples == [(0, sample) for sample in (4, 5, 6, 7, 8, 9)] + [(1, sample) for sample in range(4)]


def test_the_tally_forgets_epochs_that_are_over() -> None:
    tally = Tally(8_000_000, last_epoch=100)
    for epoch in range(60):
        tally.add(epoch, np.arange(5), np.full(5, epoch))
    assert len(tally._open) <= 3


# ---- the proof --------------------------------------------------------------------------------


def test_an_undisturbed_run_is_proven(tmp_path: Path) -> None:
    job = Training(tmp_path).steps(11).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN
    assert (proof.samples, proof.complete, proof.chain) == (66, 3, job.ledger.chain)
    assert proof.epoch == {"number": 3, "trained": 6, "due": 6, "samples": 20}


def test_what_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    """Two restarts within a generation, then a new world; each had trained beyond its checkpoint."""
    Training(tmp_path).steps(3).save().steps(4).sync()
    Training(tmp_path).steps(1).save().steps(2).sync()
    job = Training(tmp_path, ranks=5, generation=2).steps(4).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN
    assert (proof.step, proof.starts, proof.counted, proof.chain) == (8, 3, 3, job.ledger.chain)


def test_what_a_frozen_process_of_an_old_generation_writes_later_does_not_count(tmp_path: Path) -> None:
    zombie = Training(tmp_path).steps(3).save().steps(2)
    job = Training(tmp_path, ranks=3, generation=2).steps(9).save()
    zombie.steps(20).sync()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN
    assert (proof.step, proof.chain) == (12, job.ledger.chain)


def test_a_checkpoint_that_an_old_generation_still_committed_counts_with_its_own_records(tmp_path: Path) -> None:
    """It had passed its fence when the next generation began, and committed after that one had looked."""
    old = Training(tmp_path).steps(3).save().steps(4)
    Training(tmp_path, ranks=3, generation=2).steps(2).sync()
    old.save()
    Training(tmp_path, ranks=3, generation=3).steps(2).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN
    assert (proof.step, proof.starts, proof.counted) == (9, 3, 2)


def test_a_fall_back_past_a_damaged_checkpoint_is_one(tmp_path: Path) -> None:
    Training(tmp_path).steps(3).save().steps(3).save()
    (layout.checkpoint_folder(tmp_path, 6) / layout.COMMITTED).unlink()
    job = Training(tmp_path, generation=2, fall_back_to=3).steps(5).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN
    assert proof.chain == job.ledger.chain


def test_other_data_begins_its_epochs_anew(tmp_path: Path) -> None:
    """The unfinished epoch of the data before is not lost: it is over."""
    Training(tmp_path).steps(5).save().steps(2).sync()
    Training(tmp_path, generation=2, fingerprint="e" * 64, samples=11, batch=4).steps(2).save().steps(1).sync()
    job = Training(tmp_path, generation=3, fingerprint="e" * 64, samples=11, batch=4).steps(6).save()
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.PROVEN, proof
    assert (proof.segments, proof.complete, proof.chain) == (2, 3, job.ledger.chain)
    _drop_a_sample(job)
    assert judged(tmp_path)[1].lost == 1


def test_a_torn_tail_after_the_checkpoint_is_harmless(tmp_path: Path) -> None:
    job = Training(tmp_path).steps(5).save().steps(2).sync()
    job.file().write_bytes(job.file().read_bytes()[:-7])
    assert judged(tmp_path)[0] is Verdict.PROVEN


def test_ranks_without_a_sample_have_a_record(tmp_path: Path) -> None:
    Training(tmp_path, ranks=9).steps(4).save()
    assert judged(tmp_path)[0] is Verdict.PROVEN


Break = Callable[[Training], object]


def _swap_steps(job: Training) -> None:
    """Samples of one step where those of another belong."""
    for rank in range(job.ranks):
        rewrite(
            job.file(rank), lambda records: [replace(records[1], step=1), replace(records[0], step=2), *records[2:]]
        )


def _drop_a_sample(job: Training) -> None:
    def drop(records: list[Record]) -> list[Record]:
        return [Record(records[0].step, records[0].samples[1:], records[0].epochs[1:]), *records[1:]]

    rewrite(job.file(), drop)


def _put_twice(job: Training) -> None:
    def twice(records: list[Record]) -> list[Record]:
        first, second = records[:2]
        more = Record(2, np.append(second.samples, first.samples[0]), np.append(second.epochs, first.epochs[0]))
        return [first, more, *records[2:]]

    rewrite(job.file(), twice)


def _twice_in_one_step(job: Training) -> None:
    rewrite(job.file(), lambda found: [Record(1, found[0].samples.repeat(2), found[0].epochs.repeat(2)), *found[1:]])


def _alter(job: Training) -> None:
    """One sample is another one."""

    def other(records: list[Record]) -> list[Record]:
        samples = records[3].samples.copy()
        samples[0] = (samples[0] + 1) % SAMPLES
        return [*records[:3], replace(records[3], samples=samples), *records[4:]]

    rewrite(job.file(1), other)


def _strange_sample(job: Training) -> None:
    rewrite(job.file(), lambda found: [Record(1, found[0].samples + 10**6, found[0].epochs), *found[1:]])


def _other_chain(job: Training) -> None:
    path = layout.checkpoint_folder(job.folder, job.ledger.step) / layout.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["ledger"]["chain"] = "e" * 64
    path.write_text(json.dumps(manifest))


NOT_PROVEN: dict[str, tuple[Break, tuple[int, int, int]]] = {
    "steps in another order": (_swap_steps, (0, 0, 0)),
    "a sample left out": (_drop_a_sample, (1, 0, 0)),
    "a sample again in another step": (_put_twice, (0, 1, 0)),
    "samples twice in one step": (_twice_in_one_step, (0, 3, 0)),
    "one record altered": (_alter, (1, 1, 0)),
    "samples that the data does not have": (_strange_sample, (3, 0, 3)),
    "another chain in the checkpoint": (_other_chain, (0, 0, 0)),
}


@pytest.mark.parametrize(("damage", "counts"), NOT_PROVEN.values(), ids=NOT_PROVEN)
def test_what_is_not_exactly_once_is_found(
    tmp_path: Path, damage: Break, counts: tuple[int, int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(Training(tmp_path).steps(11).save())
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.NOT_PROVEN
    assert (proof.lost, proof.repeated, proof.strange) == counts
    assert proof.problems, "the chain is another one"
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("verdict     NOT proven\n")


def _flip(job: Training) -> None:
    content = bytearray(job.file().read_bytes())
    content[len(content) // 2] ^= 1
    job.file().write_bytes(content)


def _forget_starts(job: Training) -> None:
    (job.folder / layout.RESUMES).unlink()


def _of_another_rank(job: Training) -> None:
    job.file(0).write_bytes(job.file(1).read_bytes())


def _one_rank_more(job: Training) -> None:
    job.file(2).write_bytes(job.file(1).read_bytes())


def _a_step_left_out(job: Training) -> None:
    rewrite(job.file(), lambda records: [*records[:4], *records[5:]])


UNKNOWN: dict[str, tuple[Break, str]] = {
    "a rank's file is missing": (
        lambda job: job.file(1).unlink(),
        r"steps 1 to 11: g1-a1-\w+/rank-00001.ids can't be read",
    ),
    "a file ends too early": (
        lambda job: job.file().write_bytes(job.file().read_bytes()[:-1]),
        r"steps 11 to 11: g1-a1-\w+/rank-00000.ids ends at byte",
    ),
    "a bit has flipped": (_flip, r"rank-00000.ids is torn or altered at byte"),
    "a step is left out": (_a_step_left_out, r"steps 5 to 11: .* has step 6 where 5 belongs"),
    "nobody knows the starts": (_forget_starts, r"steps 1 to 11: resumes.jsonl doesn't tell which start"),
    "a file of another rank": (_of_another_rank, r"is of another rank or start"),
    "a rank too many": (_one_rank_more, r"had 2 ranks, but there is rank-00002.ids"),
}


@pytest.mark.parametrize(("damage", "says"), UNKNOWN.values(), ids=UNKNOWN)
def test_without_evidence_there_is_no_verdict(
    tmp_path: Path, damage: Break, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(Training(tmp_path).steps(11).save())
    verdict, proof = judged(tmp_path)
    assert verdict is Verdict.UNKNOWN
    [gap] = proof.gaps
    assert re.search(says, gap), gap
    assert proof.chain is None
    assert main([str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["verdict"] == "unknown"


def test_steps_from_before_the_audit_was_asked_for_are_told(tmp_path: Path) -> None:
    Training(tmp_path, audited=False).steps(4).save()
    Training(tmp_path).steps(7).save()
    verdict, proof = judged(tmp_path)
    assert (verdict, proof.audited) == (Verdict.UNKNOWN, 7)
    assert "data.audit was not on in start" in proof.gaps[0]


def test_repeated_samples_are_certain_even_where_evidence_is_missing(tmp_path: Path) -> None:
    _put_twice(Training(tmp_path).steps(4).save())
    later = Training(tmp_path).steps(4).save()
    later.file().unlink()
    verdict, proof = judged(tmp_path)
    assert (verdict, proof.repeated, len(proof.gaps)) == (Verdict.NOT_PROVEN, 1, 1)


@pytest.mark.parametrize(("make", "says"), [(False, "is no folder"), (True, "no checkpoint in .* is whole")])
def test_nothing_to_judge_is_one_line(
    tmp_path: Path, make: bool, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "job"
    if make:
        Training(folder).steps(3).sync()
    assert main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert re.search(says, said)
    assert len(said.splitlines()) == 1


def test_the_chain_of_an_earlier_step_can_be_asked_for(tmp_path: Path) -> None:
    job = Training(tmp_path).steps(5)
    chain = job.ledger.chain
    job.steps(5).save()
    assert prove(tmp_path, at=5).chain_at == (5, chain)
    assert prove(tmp_path, at=11).chain_at is None


def test_a_proof_writes_nothing(tmp_path: Path) -> None:
    Training(tmp_path).steps(5).save()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prove(tmp_path).verdict is Verdict.PROVEN
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


Event = tuple[str, int]
EVENTS = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 9)),
    st.tuples(st.just("save"), st.just(0)),
    st.tuples(st.just("restart"), st.integers(1, 7)),
    st.tuples(st.just("new generation"), st.integers(1, 7)),
    st.tuples(st.just("zombie"), st.integers(1, 9)),
)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 40),
    batch=st.integers(1, 50),
    events=st.lists(EVENTS, min_size=1, max_size=25),
    lie=st.data(),
)
def test_any_history_is_proven_and_any_lie_in_it_is_found(
    tmp_path_factory: pytest.TempPathFactory, samples: int, batch: int, events: list[Event], lie: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("job")
    generation = 1
    zombies: list[Training] = []
    job = Training(folder, samples=samples, batch=batch)
    for event, number in events:
        match event:
            case "steps":
                job.steps(number)
            case "save":
                job.save() if job.ledger.step > job.start.step else job
            case "zombie":
                for zombie in zombies:
                    zombie.steps(number).sync()
            case _:
                zombies.append(job)
                generation += event == "new generation"
                job = Training(folder, number, generation=generation, samples=samples, batch=batch)
    job.steps(1).save()
    proof = prove(folder)
    assert proof.verdict is Verdict.PROVEN, proof
    assert (proof.samples, proof.chain) == (job.ledger.position, job.ledger.chain)

    counted = [path for path in (folder / layout.AUDIT / job.start.start).glob("rank-*") if _has_samples(path)]
    path = lie.draw(st.sampled_from(sorted(counted)))

    def alter(records: list[Record]) -> list[Record]:
        filled = [i for i, record in enumerate(records) if len(record.samples)]
        at = lie.draw(st.sampled_from(filled))
        record = records[at]
        moved = record.samples.copy()
        moved[lie.draw(st.integers(0, len(moved) - 1))] += lie.draw(st.sampled_from([-1, 1]))
        return [*records[:at], replace(record, samples=np.abs(moved)), *records[at + 1 :]]

    rewrite(path, alter)
    assert prove(folder).verdict is Verdict.NOT_PROVEN


def _has_samples(path: Path) -> bool:
    return any(len(record.samples) for record in Reader(path))


def test_the_checksum_is_zlibs() -> None:
    """So that a file can be read by other means, years later."""
    encoder = Encoder(header())
    frame = encoder.record(Record(1, np.array([3]), np.array([0])))
    payload = struct.pack("<qI", 1, 1) + struct.pack("<qIB", 0, 1, 4) + struct.pack("<I", 3)
    crc = zlib.crc32(payload, zlib.crc32(json.dumps(asdict(header()), sort_keys=True).encode(), zlib.crc32(MAGIC)))
    assert frame == struct.pack("<II", len(payload), crc) + payload


def test_a_start_of_an_older_trainer_is_read(tmp_path: Path) -> None:
    line = {"time": "", "job": "u", "generation": 1, "attempt": 1, "step": 0, "path": None}
    (tmp_path / layout.RESUMES).write_text(json.dumps(line) + "\n")
    assert layout.starts(tmp_path) == [Start("", "u", 1, 1, 0, None)]
