"""From `spec.data` to an open token store, once a folder: found in the cache, or made there.

    <cache>/
      <shape>-<content>/   a store; content is a hash of all that was read, so a changed file never meets an old store
      known/<state>.json   which store belongs to files of this size, time and inode, so that they needn't be read again
      .<shape>-<state>/    a preparation under way: whoever comes goes on with it, and two may work at it at once
      .<shape>-<state>-…/  one that is over, and on its way out

`shape` is all that is known without reading the files: their names and sizes, how they are read, the tokenizer. Where
no store has it, none can have the content, and the files are read once, for the tokens and the hash together.
A damaged store is set aside, with the reason in the log, and made again. Whoever has a store clears the preparation away,
as the one who made it may have been killed before; who still works at it then takes the store as well.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deepseek_trainer import durable
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import chat as chat_
from deepseek_trainer.data import parts, preparation, processes, records, sources, store, tokenizer
from deepseek_trainer.data.parts import Made, Said
from deepseek_trainer.data.preparation import Preparation, weights_of
from deepseek_trainer.data.processes import Executor
from deepseek_trainer.errors import DataError, UnavailableError

log = logging.getLogger(__name__)

_TRIES = 3
_CLOCK_S = 2.0
"""A file that changed so shortly before it was looked at may change again without a trace in its times."""
_TRAIN_ON_BYTES = 2**28
"""Of larger corpora, a vocabulary is trained on parts that lie evenly in them."""
_TEXT_BYTES_PER_TOKEN = 6
"""More than any vocabulary reaches: what is surely needed is never overestimated."""


class _PartLost(Exception):
    """A part that was made isn't there, or not whole."""


def prepare(
    config: RunConfig,
    environ: Mapping[str, str],
    execute: Executor | None = None,
    *,
    piece_bytes: int = sources.PIECE_BYTES,
) -> Path:
    """The folder of the run's token store, whole and verified.

    Args:
        execute: who makes the parts; what it leaves undone is done here.
        piece_bytes: how much a part has of files that can be cut; another number is another store.

    Raises:
        DataError: the text can't be had or read.
        ConfigError: the tokenizer can't be had.
        UnavailableError: the cache folder can't be written.
    """
    with named_errors(config):
        wanted = preparation.plan(config, environ, piece_bytes)
        problem: Exception | None = None
        for _ in range(_TRIES):
            try:
                folder = _known(wanted) or _equal(wanted) or _make(wanted, execute)
                _clear_away(wanted.work)
                return folder
            except _PartLost:
                lost = sum(parts.load(part) is None for part in wanted.parts)
                log.warning("of the parts in %s %d are damaged or gone; made again", wanted.work, lost)
            except (FileNotFoundError, DataError) as error:
                if isinstance(error, DataError) and wanted.work.exists():
                    if config.data.on_bad_record == "Fail":
                        _clear_away(wanted.work)  # these files will never be good
                    raise
                problem = error  # perhaps another preparer has finished, and cleared away what this one worked at
        raise problem or UnavailableError(
            f"dataCache {config.data_cache}: what is written there is gone or damaged when it is read; is the volume sound?"
        )


@contextlib.contextmanager
def named_errors(config: RunConfig) -> Iterator[None]:
    """Errors in here name the data, or the cache folder."""
    dataset = config.data.dataset
    name = config.data.corpus or config.data.path or (dataset.name if dataset else "")
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}" if name not in str(error) else str(error)) from error
    except OSError as error:
        raise _cache_error(config, error) from error


def _known(wanted: Preparation) -> Path | None:
    """The store that was made of these very files."""
    try:
        noted_at = wanted.note.stat().st_mtime
        folder = wanted.cache / str(json.loads(wanted.note.read_bytes())["store"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    changed_at = max((max(file.state[1:3]) for file in wanted.source.files), default=0) / 1e9
    return _whole(folder) if changed_at + _CLOCK_S < noted_at else None


def _equal(wanted: Preparation) -> Path | None:
    """The store of files with the same content. The files are read only where one has their shape."""
    if not any(wanted.cache.glob(f"{wanted.shape[:16]}-*")):
        return None
    folder = wanted.folder([records.read(part.piece, part.reading.columns)[0] for part in wanted.parts])
    found = _whole(folder)
    if found is not None:
        _remember(wanted, folder)
    return found


def _whole(folder: Path) -> Path | None:
    """The folder, if it has a store that is not damaged; a damaged one is set aside."""
    if not folder.exists():
        return None
    problem = store.check(folder)
    if problem is None:
        return folder
    aside = folder.with_name(f"{folder.name}.bad-{os.getpid()}")
    log.warning("token store %s is damaged: %s; set aside as %s and made again", folder, problem, aside.name)
    folder.rename(aside)
    return None


def _make(wanted: Preparation, execute: Executor | None) -> Path:
    spec = wanted.config.trainer.tokenizer
    wanted.work.mkdir(parents=True, exist_ok=True)
    log.info("preparing data=%s tokenizer=%s parts=%d", wanted.source.name, spec.kind, len(wanted.parts))
    _require_space(wanted)
    provide_tokenizer(wanted)
    said = _make_parts(wanted, execute)
    folder = wanted.folder([part.digest for part in said])
    bad = [entry for part in said for entry in part.bad]
    may_skip = wanted.config.data.max_bad_records
    if sum(entry["count"] for entry in bad) > may_skip:
        raise parts.refusal(bad, may_skip)
    if _whole(folder) is None:  # else another preparer was faster
        store.write_store(folder, wanted.work / tokenizer.FILE, _loaded(wanted, said), bad)
    _remember(wanted, folder)
    return folder


def _make_parts(wanted: Preparation, execute: Executor | None) -> list[Said]:
    """Has all parts made: by `execute` first, and what is missing then, or damaged, here."""
    executors = [execute] if execute else []
    said: list[Said | None] = []
    for executor in [*executors, processes.run, processes.run]:
        todo = [part for part in wanted.parts if not part.path.exists()]
        # Another preparer may be at it: each begins somewhere else, so that they share the work.
        first = secrets.randbelow(len(todo)) if todo else 0
        executor(parts.make, [*todo[first:], *todo[:first]])
        said = [parts.look(part) for part in wanted.parts]
        if None not in said:
            break
    found = [one for one in said if one is not None]
    if len(found) < len(said):
        raise _PartLost
    return found


def _loaded(wanted: Preparation, said: Sequence[Said]) -> Iterator[Made]:
    """What the parts became; a text of which a piece is bad is left out as a whole."""
    lost = {
        part.piece.name for part, one in zip(wanted.parts, said, strict=True) if one.bad and part.piece.kind == "text"
    }
    for part in wanted.parts:
        if part.piece.name in lost:
            continue
        made = parts.load(part)
        if made is None:
            raise _PartLost
        yield made


def provide_tokenizer(wanted: Preparation) -> None:
    """Puts what the parts are encoded with into the work folder, if it isn't there."""
    target = wanted.work / tokenizer.FILE
    if target.exists():
        return
    size = sum(part.piece.bytes for part in wanted.parts)
    chosen = wanted.parts[:: math.ceil(size / _TRAIN_ON_BYTES) or 1]
    texts = (text for part in chosen for text in parts.texts(part))
    chat = wanted.config.data.chat
    marks = (chat_.BEGIN, chat_.USER, chat_.ASSISTANT) if chat and chat.template == "DeepSeek" else ()
    made = tokenizer.make(wanted.config.trainer.tokenizer, texts, weights_of(wanted.config), marks=marks)
    durable.replace_bytes(target, made.to_str(pretty=True).encode())


def _remember(wanted: Preparation, folder: Path) -> None:
    wanted.note.parent.mkdir(exist_ok=True)
    durable.replace_json(wanted.note, {"store": folder.name})


def _clear_away(work: Path) -> None:
    """Removes a work folder at once for all who work there, and what was left of earlier ones."""
    with contextlib.suppress(OSError):  # there is none, or a volume that is only read
        work.rename(work.with_name(f"{work.name}-{secrets.token_hex(4)}"))  # nobody can add to it under that name
    for gone in work.parent.glob(f"{work.name}-*"):
        shutil.rmtree(gone, ignore_errors=True)


def _require_space(wanted: Preparation) -> None:
    """Refuses a volume that is surely too small: parts and store are on it at the same time."""
    needed = 2 * 2 * sum(part.piece.bytes for part in wanted.parts) // _TEXT_BYTES_PER_TOKEN
    there = sum(part.path.stat().st_size for part in wanted.parts if part.path.exists())
    free = shutil.disk_usage(wanted.cache).free
    if free < needed - there:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cache_error(config: RunConfig, error: OSError) -> UnavailableError:
    where = f"dataCache {config.data_cache}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(
            f"{where}; a token store needs about as much as its text has, and as much again while it is made: "
            "enlarge the volume, or remove what is not needed"
        )
    return UnavailableError(f"{where}; is the volume mounted, and writable for the workers' user?")
