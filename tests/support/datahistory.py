"""A random history of a job's data, drawn from its seed alone: lives of trainings, what ends them, what happens between.

What must be true all the while is in support.datachecks. I7 and I9 are true by the way a life begins: from the folder and
the config, and from nothing that another life, a coordinator or a reader ahead has left.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint import layout
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.errors import DataError, FencedError, TrainerError
from support.datachecks import Checks, must
from support.datajob import BrokenError, Config, Killed, Points, Training

LIVES_MAX = 400


class History:
    """One job, from its first start until it has succeeded."""

    def __init__(self, seed: int, folder: Path, points: Points) -> None:
        """Args: folder: of its checkpoints, empty."""
        self.draw, self.folder, self.points = random.Random(seed), folder, points
        self.config = _first_config(self.draw)
        self.checks = Checks(self.config.ledger)
        self.generation, self.uid = 1, "uid"
        self.good: set[int] = set()
        """Steps of the committed checkpoints that nobody has damaged."""
        self.owed: int | None = None
        """The step that the next start has to go on from, where SIGTERM promised it."""
        self.frozen: list[Training] = []
        self.counts: Counter[str] = Counter()

    def play(self) -> Counter[str]:
        """To the end; what has happened, by kind."""
        for _ in range(LIVES_MAX):
            if self._live():
                return self.counts
            self._between_lives()
        raise BrokenError("I6: the job doesn't end")

    # ---- a life ----

    def _live(self) -> bool:
        """From a start to an end; whether it was the success of the job."""
        training = self._start()
        if training is None:
            return False
        for _ in range(self.draw.choice([1, 2, 5, 30])):
            if training.finished:
                break
            if self.draw.random() < 0.2:
                training.read_ahead(self.draw.randint(1, 4))
            training.train()
            if self.draw.random() < 0.1:
                self._wake()
            if training.due:
                self._save(training)
        if training.finished:
            self.checks.check(training.weights, training.ledger)
            return True
        training.train()  # a process that saves has made a step
        endings = [self._killed, self._sigterm, self._killed_while_saving, self._freezes, self._overtaken]
        self.draw.choices(endings, [4, 2, 3, 2, 1])[0](training)
        return False

    def _start(self) -> Training | None:
        """None where it refuses to, as it must."""
        newest = max(self.good, default=None)
        committed = any((path / layout.COMMITTED).exists() for _, path in layout.checkpoints(self.folder))
        ranks, where = self.draw.randint(1, 9), {"generation": self.generation, "uid": self.uid}
        try:
            training = Training(self.folder, self.config, ranks=ranks, **where)  # type: ignore[arg-type]
        except DataError as error:
            refused = str(error)
        else:
            must(newest is not None or not committed, "I10: starts over, though checkpoints were committed")
            at = training.resumed_step
            must(at == (newest or 0), f"I4, I10: goes on from step {at}, where {newest} is the newest whole one")
            must(self.owed in (None, at), f"I13: step {self.owed} was saved at SIGTERM, and {at} is gone on from")
            self.owed = None
            self.checks.check(training.weights, training.ledger)
            self.counts["starts"] += 1
            return training
        must(newest is None, f"I10: refuses to start, though step {newest} is whole: {refused}")
        must(committed, f"I10: refuses to start without a committed checkpoint: {refused}")
        shutil.rmtree(self.folder)  # the user's choice: to start over
        self.folder.mkdir()
        self.frozen.clear()
        self.counts["stopped loudly"] += 1
        return None

    # ---- how lives end ----

    def _killed(self, training: Training) -> None:
        """In a step: what it has read ahead, dealt and computed is gone with it."""
        training.read_ahead(self.draw.randint(0, 8))
        self.counts["killed"] += 1

    def _sigterm(self, training: Training) -> None:
        self._save(training)
        self.owed = training.ledger.step
        self.counts["SIGTERM"] += 1

    def _killed_while_saving(self, training: Training) -> None:
        def kill() -> None:
            raise Killed

        self.points.arm(self.draw.randint(0, 12 + training.ranks), kill)
        try:
            training.save()
        except Killed:
            self.counts["killed while saving"] += 1
        self.points.disarm()
        self._look(training)

    def _freezes(self, training: Training) -> None:
        self.frozen.append(training)
        self.counts["frozen"] += 1

    def _overtaken(self, training: Training) -> None:
        """The next generation starts while this one saves; which of the two is earlier, nobody knows."""
        newer: list[Training] = []

        def start() -> None:
            newer.append(Training(self.folder, self.config, ranks=2, generation=self.generation + 1, uid=self.uid))

        self.points.arm(self.draw.randint(0, 12), start)
        try:
            training.save()
        except TrainerError:
            self.counts["overtaken"] += 1
        self.points.disarm()
        self._look(training)
        for other in newer:
            self.generation += 1
            self.checks.check(other.weights, other.ledger)

    def _wake(self) -> None:
        """A frozen process goes on as if nothing had happened; its generation is over."""
        if not self.frozen:
            return
        old = self.frozen.pop(self.draw.randrange(len(self.frozen)))
        if not old.finished:
            old.train()
        before = self._names()
        try:
            old.save()
        except FencedError:
            self.counts["fenced"] += 1
        else:
            raise BrokenError(f"I5: generation {old.generation} committed while {self.generation} trains")
        must(before == self._names(), "I5: a generation that is over has changed the folder")

    # ---- what happens between lives ----

    def _between_lives(self) -> None:
        self.generation += self.draw.choice([0, 1, 1, 2])
        # Started anew in their pods, the processes of the same generation are gone.
        self.frozen = [old for old in self.frozen if (old.uid, old.generation) != (self.uid, self.generation)]
        if self.draw.random() < 0.05:
            self.uid, self.generation = f"{self.uid}+", 1
            self.counts["applied anew"] += 1
        if self.good and self.draw.random() < 0.25:
            self._damage()
        if self.good and self.draw.random() < 0.15:
            self._change()

    def _damage(self) -> None:
        """A checkpoint, mostly the newest, loses or changes a byte, or a file."""
        step = max(self.good) if self.draw.random() < 0.7 else self.draw.choice(sorted(self.good))
        files = sorted(path for path in layout.checkpoint_folder(self.folder, step).iterdir() if path.stat().st_size)
        path, kind = self.draw.choice(files), self.draw.choice(["bit", "cut", "gone"])
        content = bytearray(path.read_bytes())
        if kind == "bit":
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
        elif kind == "cut":
            del content[self.draw.randrange(len(content)) :]
        path.write_bytes(content)
        if kind == "gone":
            path.unlink()
        self.good.discard(step)
        self.owed = None
        self.counts[f"damage: {kind}"] += 1

    def _change(self) -> None:
        """The user asks for other data: refused, until it is allowed."""
        number, old = len(self.checks.begun), self.config.ledger
        # Its fingerprint is the config's own, so that no change is undone by going back to an older checkpoint.
        changes: list[dict[str, Any]] = [
            {},
            {"seed": old.seed + 1},
            {"global_batch": old.global_batch + 1},
            {"samples": old.samples + 1},
            {"layout": f"packed:{number}"},
            {"block_samples": old.block_samples + 1, "window_blocks": old.window_blocks + 1},
        ]
        ledger = replace(old, **{"fingerprint": f"{number:064x}"} | self.draw.choice(changes))
        changed = replace(self.config, number=number, ledger=ledger, allow_change=False)
        before = self._contents()
        try:
            Training(self.folder, changed, ranks=1, generation=self.generation, uid=self.uid)
        except DataError as error:
            refused = str(error)
        else:
            raise BrokenError("I12: a run on other data was not refused")
        must("the data was" in refused, f"I12: no difference in: {refused}")
        must(before == self._contents(), "I12: a refusal has changed the folder")
        self.counts["refused"] += 1
        if self.draw.random() < 0.5:
            self.config = replace(changed, allow_change=True)
            self.checks.begun.append(ledger)
            self.counts["segments"] += 1

    # ---- what there is in the folder ----

    def _save(self, training: Training) -> None:
        training.save()
        self._look(training)
        must(training.ledger.step in self.good, "I10: what was just saved isn't there")
        self.counts["saves"] += 1

    def _look(self, training: Training) -> None:
        """Which checkpoints there are after a save, whole or not."""
        before = max(self.good, default=0)
        there = {step: path for step, path in layout.checkpoints(self.folder) if (path / layout.COMMITTED).exists()}
        mine = there.get(training.ledger.step)
        # Where one that is damaged is still at its place, the process was killed before.
        if mine and training.saves_in(mine):
            self.good.add(training.ledger.step)
        self.good &= there.keys()
        must(max(self.good, default=0) >= before, "I10: the newest good checkpoint was deleted")

    def _names(self) -> list[str]:
        return sorted(path.name for _, path in layout.checkpoints(self.folder))

    def _contents(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


def _first_config(draw: random.Random) -> Config:
    samples, batch = draw.choice([1, 7, 30, 97, 256, 400]), draw.choice([1, 3, 8, 13, 32, 64])
    shuffle = draw.choice([(256, 1024), (4, 3), (5, 8), (16, 2), (1, 1)])
    epochs = draw.choice([0.6, 1, 1.5, 3])
    return Config(
        number=0,
        ledger=Ledger(f"{0:064x}", samples, "stream:32", draw.randrange(3), batch, *shuffle),
        micro_batch_size=draw.choice([1, 2, 4, 9]),
        steps=min(60, max(2, round(samples * epochs / batch))),
        save_every=draw.choice([1, 2, 3, 7]),
        keep=draw.choice([1, 2, 3]),
    )
