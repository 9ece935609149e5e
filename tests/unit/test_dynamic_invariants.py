"""Exactly-once data in Dynamic mode over random histories of faults, on the product's own package, its ranks as threads.

`DEEPSEEKJOB_SCHEDULES=2000 pytest tests/unit/test_dynamic_invariants.py` tries more of them. The last part
breaks the product on purpose: each way must be found.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import preparation
from deepseek_trainer.data.dynamic import opening
from deepseek_trainer.data.dynamic.ahead import Ahead
from deepseek_trainer.data.dynamic.leases import Desk, Lease, LeaseBook
from deepseek_trainer.data.dynamic.ledger import LeaseLedger
from deepseek_trainer.data.dynamic.shards import Cutting, open_shard
from deepseek_trainer.data.dynamic.turns import Turns
from deepseek_trainer.data.parts import Part
from deepseek_trainer.raycluster import executor
from support import leased
from support.eventually import eventually
from support.leased import BATCH, Job, config_of, rows_of, text_of
from torch.distributed import HashStore  # type: ignore[attr-defined]  # exported by a star

SCHEDULES = int(os.environ.get("DEEPSEEKJOB_SCHEDULES", "12"))
pytestmark = pytest.mark.timeout(max(600, 2 * SCHEDULES))
SHARD = 1024


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    leased.quicken(monkeypatch.setattr)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A source of a dozen shards, with its tokenizer."""
    folder = tmp_path_factory.mktemp("source")
    rng = random.Random(0)
    for name, lines in (("a", 150), ("b", 40), ("c", 1), ("d", 100)):
        (folder / f"{name}.jsonl").write_text(text_of(rng, lines))
    made = config_of(folder, folder / "cache", dynamic={"shardBytes": SHARD})
    Job(made).start(1, rng=rng, steps=1)
    return made


@pytest.fixture(scope="module")
def expected(config: RunConfig) -> Expected:
    return Expected(config)


def play(job: Job, rng: random.Random, *, starts: int, meanwhile: Callable[[], object] = lambda: None) -> Counter[str]:
    """Starts of random worlds that end in random ways; what happened."""
    happened: Counter[str] = Counter()
    for _ in range(starts):
        if job.ended:
            break
        ranks, steps = rng.randint(1, 4), rng.randint(1, 8)
        way = rng.choice(["planned", "killed: next", "killed: trained", "killed: cut", "overtaken", "torn"])
        begin = job.newest[0].get("step", 0)
        victim, at, where = rng.randrange(ranks), begin + rng.randint(0, steps), way.removeprefix("killed: ")
        if way == "torn" and len(job.commits) > 1:
            job.commits.pop()  # damaged: the one before it is the newest that is whole

        def kill(rank: int, step: int, here: str, dies: tuple[int, int, str] = (victim, at, where)) -> bool:
            return (rank, step, here) == dies

        job.start(
            ranks,
            rng=rng,
            steps=steps,
            every=rng.randint(1, 4),
            kill=kill,
            commits=way != "overtaken",
            meanwhile=meanwhile,
        )
        happened[way] += 1
    return happened


class Expected:
    """What a ledger says was trained, row by row, by what the model was shown."""

    def __init__(self, config: RunConfig) -> None:
        wanted = preparation.plan(config, {}, SHARD)
        self.parts = wanted.parts
        self.rows = rows_of(wanted.parts)
        self._data = opening.LeaseData(config, leased.alone(), wanted)
        self._turns = Turns(wanted.parts, f"{self._data.fingerprint}:{self._data.ledger.seed}")
        self._cutting = Cutting.of(config, self._data.fingerprint)
        self._shown: dict[int, list[bytes]] = {}

    def of(self, ledger: LeaseLedger) -> Counter[bytes]:
        whole = {lease: None for lease in range(ledger.low)} | dict(ledger.done) | dict(ledger.open)
        return Counter(row for lease, rows in whole.items() for row in self._of(lease)[:rows])

    def epoch(self, number: int) -> Counter[bytes]:
        """All that is trained in an epoch."""
        shards = self._data.ledger.shards
        return Counter(row for lease in range(number * shards, (number + 1) * shards) for row in self._of(lease))

    def _of(self, lease: int) -> list[bytes]:
        """The rows of a lease, in training order."""
        if lease not in self._shown:
            shard = open_shard(Lease(lease), self._turns.part(lease), self._cutting)
            order = shard.order
            self._shown[lease] = list(leased.shown(shard.rows.collate(order))) if len(order) else []
        return self._shown[lease]


def require_exactly_once(job: Job, expected: Expected) -> None:
    """What the weights were shown is what the ledger says, each row once; and what is open is what ranks can hold."""
    if not job.commits:
        return
    ledger, weights = leased.ledger_of(job.newest, job.config), job.newest[1]
    assert weights == expected.of(ledger)
    assert sum(weights.values()) == ledger.samples
    assert len(ledger.done) + len(ledger.open) <= 16


def test_an_epoch_has_every_row_but_those_that_are_held_out(expected: Expected) -> None:
    epochs = [expected.epoch(number) for number in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert epochs[0] <= expected.rows
    held_out = expected.rows - epochs[0]
    assert 0.05 < sum(held_out.values()) / sum(expected.rows.values()) < 0.2


def test_any_history_trains_each_row_once_an_epoch(expected: Expected, config: RunConfig) -> None:
    happened: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        rng, job = random.Random(seed), Job(config)
        for _ in range(rng.randint(1, 5)):
            happened += play(job, rng, starts=1)
            require_exactly_once(job, expected)
    assert len(happened) == 6, happened


@pytest.mark.parametrize("how", ["makes them", "does nothing", "fails"])
def test_shards_may_be_tokenised_ahead_or_not(
    how: str, config: RunConfig, expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Part] = []

    def execute(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
        asked.extend(parts)
        if how == "fails":
            raise OSError("the driver can't be started")
        for part in parts if how == "makes them" else ():
            work(part)

    monkeypatch.setattr(executor, "of", lambda environ: execute)
    job = Job(config.model_copy(update={"data_cache": str(tmp_path)}))
    job.start(2, rng=random.Random(0), steps=12)
    require_exactly_once(job, expected)
    assert len({part.path for part in asked}) == len(asked) <= len(expected.parts), "each once"


def test_what_is_leased_next_is_left_to_the_ranks(expected: Expected, tmp_path: Path) -> None:
    parts = [replace(part, folder=str(tmp_path)) for part in expected.parts]
    desk = Desk(LeaseBook(LeaseLedger("f" * 64, "", 0, 1, len(parts))), HashStore(), "start")
    asked: list[Part] = []
    desk.take()
    ahead = Ahead(
        desk,
        lambda lease: parts[lease] if lease < len(parts) else "waiting",
        lambda _, more: asked.extend(more),
        left=3,
    )
    eventually(lambda: asked, deadline_s=10, what="shards that are tokenised ahead")
    ahead.close()
    assert asked == parts[4:]


def test_what_a_stream_has_forgotten_meanwhile_is_removed(expected: Expected, tmp_path: Path) -> None:
    parts = [replace(part, folder=str(tmp_path)) for part in expected.parts]
    desk = Desk(LeaseBook(LeaseLedger("f" * 64, "", 0, 1, 0)), HashStore(), "start")
    forgotten, made = set[int](), list[Part]()

    def execute(work: Callable[[Part], None], asked: Sequence[Part]) -> None:
        forgotten.update((0, 2))  # the ranks have trained on them while they were made
        for part in asked:
            part.path.touch()
        made.extend(asked)

    ahead = Ahead(
        desk,
        lambda lease: parts[lease] if lease < len(parts) and lease not in forgotten else "waiting",
        execute,
        left=0,
    )
    left = {part.path for place, part in enumerate(parts) if place not in (0, 2)}
    eventually(lambda: made and set(tmp_path.iterdir()) == left, deadline_s=10, what="no more files than are needed")
    ahead.close()
    assert made == parts


def test_a_stream_is_trained_to_its_end_whatever_happens(tmp_path: Path) -> None:
    for seed in range(max(3, SCHEDULES // 4)):
        rng = random.Random(seed)
        folder = tmp_path / str(seed) / "data"
        folder.mkdir(parents=True)
        files = rng.randint(1, 6)
        job = Job(config_of(folder, tmp_path / str(seed) / "cache", dynamic={"shardBytes": SHARD, "stream": True}))
        producer = _arriving(folder, files, rng)
        next(producer)
        while not job.ended:
            play(job, rng, starts=1, meanwhile=partial(next, producer, None))
        ledger, weights = leased.ledger_of(job.newest, job.config), job.newest[1]
        data = [piece for path in sorted(folder.glob("*.jsonl")) for piece in _parts(job.config, path)]
        rows = rows_of(data)
        assert set(weights.values()) == {1}, f"seed {seed}"
        assert weights <= rows
        assert sum((rows - weights).values()) <= len(data) + 0.1 * sum(rows.values()), "only some are held out"
        done, cutting = dict(ledger.done), Cutting.of(job.config, ledger.fingerprint)
        left = [part for lease, part in enumerate(data) if lease >= ledger.low and lease not in done]
        assert not any(open_shard(Lease(0), part, cutting).rows.training for part in left), "only what has no rows"
        assert ledger.open == ()
        assert ledger.step <= -(-ledger.samples // BATCH) + 1


def _arriving(folder: Path, files: int, rng: random.Random) -> Iterator[None]:
    for number in range(files):
        (folder / ".next").write_text(text_of(rng, rng.randint(1, 80)))
        (folder / ".next").rename(folder / f"{number:03}.jsonl")
        yield
        for _ in range(rng.randint(0, 2)):
            yield
    (folder / "_SUCCESS").touch()
    yield


def _parts(config: RunConfig, path: Path) -> Any:
    one = config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})
    wanted = preparation.plan(one, {}, SHARD)
    (work,) = Path(config.data_cache).glob(".*/tokenizer.json")
    return [
        replace(part, folder=str(work.parent), number=10**9 + 1000 * int(path.stem) + part.number)
        for part in wanted.parts
    ]


# ---- the product, broken in one way ---------------------------------------------------------------------------------

Patch = Callable[[Any, str, Any], None]
lease_of, real_cut = LeaseBook.__getitem__, LeaseLedger.cut


def what_was_leased_counts_as_done(patch: Patch) -> None:
    def cut(self: LeaseLedger, step: int, runs: Any, marks: Any = None) -> LeaseLedger:
        after = real_cut(self, step, runs, marks)
        return replace(after, low=after.top, done=(), open=())

    patch(LeaseLedger, "cut", cut)


def an_open_lease_begins_anew(patch: Patch) -> None:
    patch(LeaseBook, "__getitem__", lambda self, place: lease_of(self, place)._replace(offset=0))


def each_lease_is_given_out_twice(patch: Patch) -> None:
    patch(LeaseBook, "__getitem__", lambda self, place: lease_of(self, place // 2))


def a_cut_takes_whatever_it_is_told(patch: Patch) -> None:
    def cut(self: LeaseLedger, step: int, runs: Any, marks: Any = None) -> LeaseLedger:
        rows = sum(run.stop - run.first for run in runs)
        return replace(self, step=step, samples=self.samples + rows)

    patch(LeaseLedger, "cut", cut)


MUTANTS = [
    what_was_leased_counts_as_done,
    an_open_lease_begins_anew,
    each_lease_is_given_out_twice,
    a_cut_takes_whatever_it_is_told,
]


def many_histories(config: RunConfig, expected: Expected) -> None:
    for seed in range(6):
        rng, job = random.Random(seed), Job(config)
        for _ in range(4):
            play(job, rng, starts=1)
            require_exactly_once(job, expected)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_product_that_is_broken_is_found(
    mutant: Callable[[Patch], None], config: RunConfig, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch.setattr)
    with pytest.raises((AssertionError, RuntimeError)):
        many_histories(config, expected)
