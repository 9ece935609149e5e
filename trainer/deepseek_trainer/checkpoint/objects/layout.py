"""Names in a job's part of an object store, and what a listing of them says.

    starts/00000007.json                     one for each start of training, numbered, created where there was none
    step-00000040.00000007-9f2c11ab/         a save: of a step, by a start, with a name of its own
      __<rank>_<n>.distcp  .metadata         written before it counts
      manifest.json                          created last: keys, sizes and sha256 of all parts; or void, for good
      VERIFIED  DAMAGED                      what a later reading came to
      failed/<start>.json                    starts that went on from it and failed soon; see checkpoint.probation
    left-out/<step>-<token>.json             steps that are left out since a rollback; see checkpoint.leftout
    model/config.json                        the architecture in the format of Hugging Face
    audit/                                   which samples each start has trained, with data.audit; see data.audit

No key is written twice with another content (but for marks), so whoever still writes for a start that is over disturbs
nobody. Nothing here decides, and nothing makes a request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MANIFEST = "manifest.json"
VERIFIED, DAMAGED = "VERIFIED", "DAMAGED"
FAILED = "failed/"
MODEL = "model/config.json"
LEFT_OUT = "left-out/"
_START = re.compile(r"starts/(\d{8,})\.json")
_SAVE = re.compile(r"step-(\d{8,})\.(\d{8,})-(\w+)")


@dataclass(frozen=True, order=True)
class Save:
    """One save. The later one of two is the greater: of a later step, or of the same one by a later start.

    Attributes:
        start: number of the start that made it.
        url, endpoint: the job's part of the store.
    """

    step: int
    start: int
    token: str
    url: str = ""
    endpoint: str = ""

    @property
    def name(self) -> str:
        return f"step-{self.step:08d}.{self.start:08d}-{self.token}"

    def key(self, name: str) -> str:
        return f"{self.name}/{name}"

    def __str__(self) -> str:
        return f"{self.url}/{self.name}"


def save_named(name: str, url: str, endpoint: str) -> Save | None:
    """The save with this name; None: it is none of ours."""
    match = _SAVE.fullmatch(name)
    return Save(int(match[1]), int(match[2]), match[3], url, endpoint) if match else None


def start_key(number: int) -> str:
    return f"starts/{number:08d}.json"


@dataclass(frozen=True)
class View:
    """What one listing has shown.

    Attributes:
        keys: size of every object by its key.
    """

    url: str
    endpoint: str
    keys: Mapping[str, int]

    def last_start(self) -> int:
        """Number of the newest start on record; 0: there is none."""
        return max((int(match[1]) for key in self.keys if (match := _START.fullmatch(key))), default=0)

    def saves(self) -> list[Save]:
        """All of them, committed or not, newest first."""
        names = {key.partition("/")[0] for key in self.keys if "/" in key}
        found = (save_named(name, self.url, self.endpoint) for name in names)
        return sorted((save for save in found if save is not None), reverse=True)

    def of(self, save: Save) -> dict[str, int]:
        """The sizes of a save's objects, by their names in it."""
        start = f"{save.name}/"
        return {key.removeprefix(start): size for key, size in self.keys.items() if key.startswith(start)}

    def has(self, save: Save, name: str) -> bool:
        return save.key(name) in self.keys
