"""Names in a job's checkpoint folder, and what can be known from them.

    step-00000040/                  a checkpoint; it counts once COMMITTED is in it, with the sha256 of manifest.json
      manifest.json  COMMITTED  .metadata  __<rank>_0.distcp
    step-00000040.g2.tmp/           being written (or left behind) by a process of generation 2
    step-00000040.failed/           starts that went on from it and failed soon, a file each; see probation
    resumes.jsonl                   one line each time training starts
    left-out.jsonl                  steps that are left out since a rollback; see leftout
    model/config.json               the architecture in the format of Hugging Face
    audit/                          which samples each start has trained, with data.audit; see data.audit

Nothing here decides; `save`, `load` and `retention` do.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"
MARK = "COMMITTED.next"
"""COMMITTED before it counts."""
VERIFIED, DAMAGED = "VERIFIED", "DAMAGED"
"""What a later reading came to: the content of COMMITTED, and what is wrong."""
RESUMES = "resumes.jsonl"
LEFT_OUT = "left-out.jsonl"
AUDIT = "audit"
MODEL = "model"
_SHARD = re.compile(r"__(\d+)_\d+\.distcp")
_CHECKPOINT = re.compile(r"step-(\d{8,})")
_TEMPORARY = re.compile(r"step-\d{8,}(?:\.\w+)?\.g(\d+)\.tmp")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
        step: optimizer steps that the weights contain; equal to the ledger's.
        ledger: `Ledger.to_json()`: which samples these weights were trained on.
        model: the model's shape and vocabulary; a checkpoint fits no other.
        files: size and sha256 of every other file of the checkpoint, by name.
        seconds: wall seconds from the step to the commit.
        blocked_seconds: of these, those in which no step was made; None in one of an older trainer.
        time: RFC 3339, UTC.
        start: the start of training that made it; "" in one of an older trainer.
        tokens: that these weights were trained on; None in one of an older trainer.
        loss: of the step, in training; None where it isn't known.
        moving: training stopped after it on purpose, to go on elsewhere.
    """

    version: int
    job: str
    step: int
    generation: int
    attempt: int
    world_size: int
    ledger: dict[str, Any]
    model: dict[str, Any]
    files: dict[str, dict[str, Any]]
    versions: dict[str, str]
    seconds: float
    time: str
    start: str = ""
    blocked_seconds: float | None = None
    tokens: int | None = None
    loss: float | None = None
    moving: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def bytes(self) -> int:
        return sum(file["bytes"] for file in self.files.values())


def checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def temporary_folder(folder: Path, step: int, generation: int, purpose: str = "") -> Path:
    """A name beside the checkpoint's own that says who uses it."""
    middle = f".{purpose}" if purpose else ""
    return folder / f"step-{step:08d}{middle}.g{generation}.tmp"


def failed_folder(checkpoint: Path) -> Path:
    """Where it is recorded that training failed soon after it went on from this checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.failed")


def home(name: str, size: int) -> int:
    """The rank that looks after a file of a checkpoint, of so many: the one that wrote it, where it is among them."""
    match = _SHARD.fullmatch(name)
    return int(match.group(1)) % size if match else 0


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything that has a checkpoint's name, newest first; committed or not."""
    found = [
        (int(match.group(1)), child)
        for child in (folder.iterdir() if folder.is_dir() else ())
        if (match := _CHECKPOINT.fullmatch(child.name)) and child.is_dir()
    ]
    return sorted(found, reverse=True)


def temporaries(folder: Path) -> list[tuple[int, Path]]:
    """(generation, folder) of everything that is being written or was left behind."""
    return [
        (int(match.group(1)), child)
        for child in (folder.iterdir() if folder.is_dir() else ())
        if (match := _TEMPORARY.fullmatch(child.name))
    ]


def is_marked(checkpoint: Path, mark: str) -> bool:
    """Whether a checkpoint has this mark: VERIFIED or DAMAGED, of what is committed there now."""
    try:
        return (checkpoint / mark).read_bytes().split()[:1] == (checkpoint / COMMITTED).read_bytes().split()
    except OSError:
        return False


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        OSError, ValueError, TypeError: it is missing or damaged.
    """
    return parse_manifest((checkpoint / MANIFEST).read_bytes())


def parse_manifest(content: bytes) -> Manifest:
    """The manifest with this content; what a newer trainer says in it beside is left out.

    Raises:
        ValueError, TypeError: it is damaged.
    """
    said = json.loads(content)
    if not isinstance(said, dict):
        raise ValueError("it is not an object")
    return manifest_of(said)


def manifest_of(said: dict[str, Any]) -> Manifest:
    """The manifest that says this; a field that isn't known is a newer trainer's."""
    return Manifest(**{name: value for name, value in said.items() if name in _MANIFEST})


@dataclass(frozen=True)
class Start:
    """One start of training: a line of resumes.jsonl. The last five are absent in those of an older trainer.

    Attributes:
        time: RFC 3339, UTC.
        job: its UID.
        step: that it goes on from; 0 from scratch.
        path: the checkpoint that it goes on from; None from scratch.
        start: its name, which no other has.
        parent: the start that made that checkpoint; "" where there is none, or it is not known.
        world_size: number of its ranks.
        audited: whether it keeps the samples that it trains, in audit/<start>/.
        planned: the start before stopped on purpose, with that checkpoint: no step was lost.
    """

    time: str
    job: str
    generation: int
    attempt: int
    step: int
    path: str | None
    start: str = ""
    parent: str = ""
    world_size: int = 0
    audited: bool = False
    planned: bool = False


def starts(folder: Path) -> list[Start]:
    """All starts of training on the folder, oldest first; lines that no trainer has finished are passed over."""
    resumes = folder / RESUMES
    found = []
    for line in resumes.read_text(encoding="utf-8").splitlines() if resumes.is_file() else ():
        try:
            said = json.loads(line)
            found.append(Start(**{name: said[name] for name in _START & said.keys()}))
        except (ValueError, TypeError, AttributeError):
            continue  # the torn last line of a process that was killed
    return found


_START = {field.name for field in fields(Start)}
_MANIFEST = {field.name for field in fields(Manifest)}


@dataclass(frozen=True)
class Reign:
    """Who may commit.

    Attributes:
        job: UID of the job that came to the folder last: one that was deleted and applied anew counts generations anew.
        generation: the newest of that job in which training has started.
    """

    job: str
    generation: int


def reign(folder: Path) -> Reign | None:
    """Who may commit to the folder, by the starts of training; None before the first."""
    newest: dict[str, int] = {}
    for start in starts(folder):
        newest[start.job] = max(start.generation, newest.get(start.job, 0))
    return Reign(*list(newest.items())[-1]) if newest else None  # in the order of their first starts
