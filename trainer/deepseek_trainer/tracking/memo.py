"""What is remembered of a series that lies elsewhere, where nothing can be taken back: its run, and its last step.

A start that goes on from an earlier step leaves out the records up to that one: they are there, with the same values on as
many ranks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.tracking.record import Place, Record


@dataclass
class Memo:
    """Of one kind of log, in a file beside the others.

    Attributes:
        run: the run's id there; None: there is none yet.
        told: the last step that earlier starts have told; -1: none.
    """

    path: Path
    job: str
    run: str | None
    told: int

    @classmethod
    def of(cls, place: Place, kind: str, after: int | None) -> Memo:
        """A run of another job, and one that starts over, is another run."""
        path = place.directory / f"{kind}.json"
        try:
            found = json.loads(path.read_bytes())
            if after is not None and found["run"]:
                return cls(path, place.uid, str(found["run"]), int(found["step"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or none that could be read: then it is a new run
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path, place.uid, None, -1 if after is None else after)

    def new(self, records: Sequence[Record]) -> list[Record]:
        """Those that aren't there yet."""
        return [one for one in records if one.step > self.told]

    def keep(self, step: int) -> None:
        """It was told up to this step."""
        durable.replace_json(self.path, {"run": self.run, "step": step, "uid": self.job})
