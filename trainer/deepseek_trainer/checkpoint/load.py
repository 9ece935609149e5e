"""Loading: the newest checkpoint whose every byte is what was committed, read by any number of ranks.

Walks from the newest to the oldest and says why each one is passed over. Uncommitted ones are what a killed process
leaves and are no loss. If there are committed ones and none is whole, training does not quietly start over.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from deepseek_trainer import durable
from deepseek_trainer.checkpoint import dcp, layout, probation, retention
from deepseek_trainer.checkpoint.layout import Manifest, Start
from deepseek_trainer.checkpoint.memory.tier import Committed, Memory
from deepseek_trainer.checkpoint.verify import UNCOMMITTED, claim, difference, verify
from deepseek_trainer.config import ConfigError, ResumeFrom
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError

log = logging.getLogger(__name__)

Where = TypeVar("Where")
"""A folder, or a save in an object store; as text it is what people are told."""


@dataclass(frozen=True)
class Found(Generic[Where]):
    """A checkpoint that was verified.

    Attributes:
        passed_over: newer ones that were committed, each with the reason why it was refused; newest first.
        kept: see `Checked.kept`.
    """

    path: Where
    manifest: Manifest
    passed_over: tuple[str, ...] = ()
    kept: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    """What hashing the files of a checkpoint came to.

    Attributes:
        problem: what is wrong with it; "" when nothing is.
        kept: by name of the files that were hashed in a node's memory, and not on the volume, that node's lowest rank.
    """

    problem: str
    kept: Mapping[str, int] = field(default_factory=dict)


Check = Callable[[Path, Manifest], Checked]
"""Hashes the files of a checkpoint, whose manifest is what was committed."""


def on_volume(checkpoint: Path, manifest: Manifest) -> Checked:
    """Hashes them where they were committed."""
    return Checked(difference(checkpoint, manifest.files))


def begin(
    folder: Path,
    *,
    job: str,
    generation: int,
    attempt: int,
    world_size: int,
    audited: bool = False,
    fits: Callable[[Found[Path]], None] = lambda found: None,
    check: Check = on_volume,
) -> tuple[Found[Path] | None, Start]:
    """The checkpoint that training goes on from, and the start that is now on record; nobody older commits after it.

    Whoever was let through the fence before has its checkpoint in a temporary folder or without its mark. Both are
    taken from it once the start is on record; what it has committed until then is looked at again.

    Args:
        fits: raises if training can't go on from what was found.

    Raises:
        DataError: there are committed checkpoints, and all are damaged.
        UnavailableError: one can't be read, and nobody knows whether it is whole.
    """
    while True:
        before = _committed(folder)
        found = newest_whole(folder, check)
        if found is not None:
            fits(found)
        known = layout.starts(folder)
        start = new_start(
            job=job,
            generation=generation,
            attempt=attempt,
            found=found,
            before=known[-1].start if known else "",
            world_size=world_size,
            audited=audited,
        )
        record_start(folder, start)
        retention.clean(folder, generation=generation)
        if _committed(folder) <= before:
            return found, start


def newest_whole(folder: Path, check: Check = on_volume) -> Found[Path] | None:
    """The newest verified checkpoint that isn't marked bad; None when none was ever committed.

    Raises:
        DataError: there are committed checkpoints, and all are damaged or bad.
        UnavailableError: one can't be read, and nobody knows whether it is whole.
    """
    refused: list[str] = []
    for _, checkpoint in layout.checkpoints(folder):
        if not (checkpoint / layout.COMMITTED).exists():
            log.warning("skipping checkpoint=%s reason=%r", checkpoint.name, UNCOMMITTED)
            continue
        problem, manifest = probation.verdict(checkpoint) or "", None
        if not problem:
            problem, manifest = claim(checkpoint)
        if manifest is not None:
            checked = check(checkpoint, manifest)
            if not checked.problem:
                return Found(checkpoint, manifest, tuple(refused), checked.kept)
            problem = checked.problem
        log.warning("skipping checkpoint=%s reason=%r", checkpoint.name, problem)
        refused.append(f"{checkpoint.name}: {problem}")
    if refused:
        raise DataError(none_whole(folder, refused))
    return None


def none_whole(where: object, refused: list[str]) -> str:
    """What to say where every checkpoint was refused."""
    return (
        f"no checkpoint in {where} is whole: {'; '.join(refused)}; restore one from a backup, empty the place to start over, "
        "or trust one from which training failed (dsj checkpoints JOB --trust STEP)"
    )


def of_another(wanted: ResumeFrom) -> Found[Path]:
    """Another job's checkpoint, verified.

    Raises:
        DataError: there is none, or it isn't whole.
        UnavailableError: it can't be read, and nobody knows whether it is whole.
    """
    folder, field = Path(wanted.directory), "checkpoint.resumeFrom"
    if wanted.step is None:
        newest = newest_whole(folder)
        if newest is None:
            raise DataError(f"{field}: {folder} has no checkpoint; correct subPath, or remove {field}")
        return newest
    checkpoint = layout.checkpoint_folder(folder, wanted.step)
    problem, manifest = verify(checkpoint)
    if manifest is None:
        raise DataError(
            f"{field}: {checkpoint} can't be used: {problem}; correct step, or remove it for the newest one"
        )
    return Found(checkpoint, manifest)


def require_same_model(
    found: Found[Any],
    model: dict[str, Any],
    remedy: str = "put it back as it was, or start over in an empty checkpoint folder",
) -> None:
    """Raises ConfigError with the differences if the checkpoint is of another model."""
    saved = found.manifest.model
    changes = [
        f"{name} was {saved.get(name)}, now {model.get(name)}"
        for name in sorted({*saved, *model})
        if saved.get(name) != model.get(name)
    ]
    if changes:
        raise ConfigError(f"trainer.model: {found.path} is of another model: {'; '.join(changes)}; {remedy}")


def read_into(state: dict[str, Any], found: Found[Path], world: World, memory: Memory | None = None) -> frozenset[str]:
    """As `read_parts`, of a folder. A collective."""
    folder, files = found.path, found.manifest.files
    committed = Committed(str(folder), dcp.in_folder(folder), lambda name: difference(folder, {name: files[name]}))
    return read_parts(state, found, world, committed, memory)


def read_parts(
    state: dict[str, Any], found: Found[Any], world: World, committed: Committed, memory: Memory | None = None
) -> frozenset[str]:
    """Reads a checkpoint into `state` (of `state.collect`), resharded to this world. A collective.

    Args:
        memory: of the nodes, where files of it may be; from now on it keeps this one. None: all are where it was committed.

    Returns:
        Parts beside weights and optimizer that it doesn't have, or of another size: they are left as they are.

    Raises:
        ConfigError: it is of another optimizer.
    """
    files = found.manifest.files
    source = committed.opened if memory is None else memory.source(committed, files, found.kept)
    known = world.lead(lambda: dcp.sizes(committed.where, source))
    each = world.gather({name: _lacking(part, f"{name}.", known) for name, part in state.items()})
    lacking = {
        name: [tensor for own in each for tensor in own[name]] for name in state
    }  # a pipeline's ranks ask for others
    if lacking.get("optimizer"):
        raise ConfigError(
            f"trainer.optimizer.kind: {found.path} is of another optimizer, it has no {lacking['optimizer'][0]}; put it back as "
            "it was, or take the weights alone into a new job (checkpoint.resumeFrom)"
        )
    left = frozenset(name for name in state if lacking[name] and name not in ("model", "optimizer"))
    wanted = {name: part for name, part in state.items() if name not in left}
    world.agree(lambda: dcp.read(wanted, committed.where, source, world.control), on=lambda world: True)
    if memory is not None:
        memory.committed(files)
    if left:
        log.warning("checkpoint=%s has nothing of %s: it begins anew", found.path.name, ", ".join(sorted(left)))
    return left


def _lacking(part: Any, prefix: str, known: Mapping[str, torch.Size | None]) -> list[str]:
    """The tensors of a part of the state that a checkpoint doesn't have like this."""
    if isinstance(part, torch.Tensor):
        name = prefix.removesuffix(".")
        return [] if name in known and known[name] == part.shape else [name]
    if not isinstance(part, dict):
        return []
    return [name for key, inner in part.items() for name in _lacking(inner, f"{prefix}{key}.", known)]


def record_start(folder: Path, start: Start) -> None:
    """Appends to resumes.jsonl that training starts; from then on older generations can't commit."""
    folder.mkdir(parents=True, exist_ok=True)
    durable.append_line(folder / layout.RESUMES, json.dumps(asdict(start)))


def new_start(
    *,
    job: str,
    generation: int,
    attempt: int,
    found: Found[Any] | None,
    before: str = "",
    world_size: int,
    audited: bool = False,
) -> Start:
    """A start of training at this moment, under a name of its own.

    Args:
        found: the checkpoint that it goes on from; None: from scratch.
        before: name of the last start there; "" if there is none, or it isn't known.
        audited: see `Start.audited`.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    step, path, parent = (found.manifest.step, str(found.path), found.manifest.start) if found else (0, None, "")
    name = f"g{generation}-a{attempt}-{secrets.token_hex(4)}"
    planned = found is not None and found.manifest.moving and bool(parent) and parent == before
    return Start(now, job, generation, attempt, step, path, name, parent, world_size, audited, planned)


def _committed(folder: Path) -> set[Path]:
    return {path for _, path in layout.checkpoints(folder) if (path / layout.COMMITTED).exists()}
