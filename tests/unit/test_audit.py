"""The audit: what is written down is read back; whatever is not exactly once is found, and what was rolled back is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.checkpoint.layout import Start
from deepseek_trainer.data.audit.__main__ import main
from deepseek_trainer.data.audit.proof import Proof, Verdict, prove
from deepseek_trainer.data.audit.records import Reader, Record
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audits import SAMPLES, Training, commit, rewrite


def judged(folder: Path) -> tuple[Verdict, Proof]:
    proof = prove(folder)
    return proof.verdict, proof


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


def _change_its_manifest(checkpoint: Path) -> None:
    text = (checkpoint / layout.MANIFEST).read_text()
    (checkpoint / layout.MANIFEST).write_text(text.replace('"step": 6', '"step": 7'))


@pytest.mark.parametrize("damage", [lambda path: (path / layout.COMMITTED).unlink(), _change_its_manifest])
def test_a_checkpoint_that_is_not_whole_is_not_judged(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    Training(tmp_path).steps(3).save().steps(3).save()
    damage(layout.checkpoint_folder(tmp_path, 6))
    verdict, proof = judged(tmp_path)
    assert (verdict, proof.step) == (Verdict.PROVEN, 3)
    job = Training(tmp_path, generation=2, fall_back_to=3).steps(5).save()
    assert prove(tmp_path).chain == job.ledger.chain


def test_a_checkpoint_that_was_refused_at_a_start_is_not_judged(tmp_path: Path) -> None:
    """A bit of its weights has flipped, which its size doesn't tell: it lies there until training has come past it."""
    Training(tmp_path).steps(3).save().steps(9).save()
    job = Training(tmp_path, generation=2, fall_back_to=3)
    assert prove(tmp_path).step == 3
    job.steps(2).save()
    verdict, proof = judged(tmp_path)
    assert (verdict, proof.step, proof.chain) == (Verdict.PROVEN, 5, job.ledger.chain)
    Training(tmp_path, generation=1)  # a process of the old generation starts once more; it can't commit
    assert prove(tmp_path).step == 5


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
    path = layout.checkpoint_folder(job.folder, job.ledger.step)
    manifest = layout.read_manifest(path)
    commit(path, manifest.to_json() | {"ledger": manifest.ledger | {"chain": "e" * 64}})


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
    said = capsys.readouterr().out
    assert re.search(says, said)
    assert len(said.splitlines()) == 1


def test_the_brief_answer_fits_into_a_pods_last_words(tmp_path: Path) -> None:
    training = Training(tmp_path, ranks=1, samples=10**4, batch=500).steps(11).save()
    rewrite(
        training.file(), lambda found: [Record(1, found[0].samples.repeat(9), found[0].epochs.repeat(9)), *found[1:]]
    )
    for number in range(12):
        Training(tmp_path, generation=number + 2).steps(1).save().file().unlink()
    last_words = tmp_path / "termination-log"
    assert main([str(tmp_path), "--brief-to", str(last_words), "--json"]) == 1
    assert len(last_words.read_bytes()) <= 4096
    said = json.loads(last_words.read_text())
    assert said["verdict"] == "not proven"
    assert said["rows"][0] == ["verdict", "NOT proven"]


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
    st.tuples(st.just("steps"), st.integers(1, 5)),
    st.tuples(st.just("save"), st.just(0)),
    st.tuples(st.just("restart"), st.integers(1, 7)),
    st.tuples(st.just("new generation"), st.integers(1, 7)),
    st.tuples(st.just("zombie"), st.integers(1, 9)),
)


@settings(max_examples=25)
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
    return any(isinstance(record, Record) and len(record.samples) for record in Reader(path))


def test_a_start_of_an_older_trainer_is_read(tmp_path: Path) -> None:
    line = {"time": "", "job": "u", "generation": 1, "attempt": 1, "step": 0, "path": None}
    (tmp_path / layout.RESUMES).write_text(json.dumps(line) + "\n")
    assert layout.starts(tmp_path) == [Start("", "u", 1, 1, 0, None)]
