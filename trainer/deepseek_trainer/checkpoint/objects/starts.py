"""The starts of training on record: numbered objects, each created where none was. The newest one is who may commit.

A number is given once, so starts are in one order for all. A start that is behind (of an older generation, or of a job that
was deleted while another one took its place) is refused right here; one that was first and is overtaken later is refused at
its next commit, when it sees a newer number.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from deepseek_trainer.checkpoint.interval import Past
from deepseek_trainer.checkpoint.layout import Start
from deepseek_trainer.checkpoint.objects.layout import View, start_key
from deepseek_trainer.checkpoint.objects.manifests import opened, signed
from deepseek_trainer.checkpoint.objects.store import Store
from deepseek_trainer.config import ConfigError
from deepseek_trainer.errors import DataError, FencedError

READS = 8
"""Starts that are read at a time."""


@dataclass(frozen=True)
class Record:
    """A start, and what of those before it has to be known.

    Attributes:
        number: its place among all starts; 0: there was none.
        job: UID of its job.
        first: time of that job's first start; RFC 3339, UTC.
        start: its name.
        count: starts of that job, with this one.
        moves: of these, the planned ones; see `Start.planned`.
        former: UIDs of the jobs that were here before that one.
    """

    number: int = 0
    job: str = ""
    generation: int = 0
    first: str = ""
    start: str = ""
    count: int = 0
    moves: int = 0
    former: tuple[str, ...] = ()


def on_record(store: Store, view: View) -> list[Start]:
    """All starts, oldest first; one that is damaged is passed over."""

    def read(number: int) -> Start | None:
        try:
            said = opened(store.read(start_key(number)) or b"")
            return Start(**{field.name: said[field.name] for field in fields(Start) if field.name in said})
        except (ValueError, TypeError):
            return None

    with ThreadPoolExecutor(READS) as pool:
        found = pool.map(read, range(1, view.last_start() + 1))
        return [start for start in found if start is not None]


def newest(store: Store, view: View) -> Record:
    """The last start on record.

    Raises:
        DataError: it is damaged.
    """
    number = view.last_start()
    if not number:
        return Record()
    content = store.read(start_key(number)) or b""
    try:
        said = {"moves": 0} | opened(content)  # an older trainer doesn't say it
        kept = {field.name: said[field.name] for field in fields(Record) if field.name != "number"}
        return Record(number, **(kept | {"former": tuple(said["former"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{store.url}/{start_key(number)} is damaged: {error}; suspend the job, delete that object, and resume it"
        ) from error


def require_current(last: Record, job: str, generation: int, where: str) -> None:
    """Raises FencedError if a newer generation, or a newer job, has started there."""
    if last.number and last.job != job and job in last.former:
        raise FencedError(f"this job must not train on {where}: another one (UID {last.job}) has taken its place")
    if last.job == job and last.generation > generation:
        raise FencedError(
            f"generation {generation} must not train on {where}: generation {last.generation} trains there"
        )


def record(store: Store, last: Record, start: Start) -> int | None:
    """Puts a start on record; its number. None: another one was first, and all is to be looked at again.

    Raises:
        ConfigError: the store takes no notice of the condition.
    """
    mine = last.job == start.job
    former = last.former if mine or not last.number else (*last.former, last.job)
    number = last.number + 1
    content: dict[str, Any] = asdict(start) | {
        "first": last.first if mine else start.time,
        "count": last.count + 1 if mine else 1,
        "moves": (last.moves if mine else 0) + start.planned,
        "former": list(former),
    }
    if not store.create(start_key(number), signed(content)):
        return None
    if store.create(start_key(number), signed(content | {"start": ""})):
        raise ConfigError(
            f"checkpoint.objectStore: {store.url}: the store writes over an object that was to be created only if there is "
            "none (If-None-Match), so two starts could both commit; take a store, or a version of it, that knows conditional "
            "writes"
        )
    return number


def past(last: Record, job: str) -> Past:
    """What the job has gone through, when its present start is the last one on record."""
    if last.job != job:
        return Past()
    failures = last.count - 1 - last.moves
    try:
        began = datetime.fromisoformat(last.first)
    except ValueError:
        return Past(failures)
    return Past(failures, max(0.0, (datetime.now(UTC) - began).total_seconds()))
