"""The run's samples, prepared if need be, and the same on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import samples, store
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.processes import Executor
from deepseek_trainer.data.samples import Samples
from deepseek_trainer.distributed.world import World
from deepseek_trainer.errors import DataError
from deepseek_trainer.raycluster import executor


def open_samples(config: RunConfig, world: World, environ: Mapping[str, str]) -> Samples:
    """Opens the data on every rank. A collective.

    Rank 0 prepares the store first, on the job's Ray nodes where it has some. Then each other node's first rank looks: on
    a shared folder it finds that one, else it prepares its own, which its node's ranks open.

    Raises:
        DataError: the ranks have different data, or it can't be read.
    """

    def prepared(execute: Executor | None = None) -> Path:
        folder = prepare(config, environ, execute)
        samples.of(config, store.open_store(folder))  # what it is cut by, too
        return folder

    first = world.lead(lambda: prepared(executor.of(environ)))
    others = world.agree(prepared, on=lambda world: world.local_rank == 0 and not world.leader)
    opened = store.open_store(others[world.rank - world.local_rank] or first)  # of this node's first rank
    require_same(world, opened.info.fingerprint)
    return samples.of(config, opened)


def require_same(world: World, fingerprint: str) -> None:
    """Sees that all ranks mean the same data. A collective.

    Raises:
        DataError: they don't.
    """
    fingerprints = world.gather(fingerprint)
    if len(set(fingerprints)) > 1:
        raise DataError(
            f"the ranks have different data: fingerprints {', '.join(sorted({f[:12] for f in fingerprints}))}; "
            "put dataCache on a volume that all workers share, or give all nodes the same files"
        )
