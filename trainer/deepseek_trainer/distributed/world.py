"""The process group: who else trains, on what device, and how ranks agree.

Reads torchrun's environment; without it the process is a world of one. Every wait in here ends: a peer that stays
silent for longer than the timeout, or whose connection breaks, is an UnavailableError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch._C._distributed_c10d import HashStore
from torch.distributed import Store  # type: ignore[attr-defined]  # exported by a star

from deepseek_trainer.config import ConfigError
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.contract import Env
from deepseek_trainer.errors import TrainerError, UnavailableError, first_line

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 600
"""Longer than any step, save or evaluation; a peer that needs longer is taken for dead."""
CONTROL_TIMEOUT = timedelta(hours=2)
"""For what one rank does while the others wait: preparing the data, verifying a checkpoint."""


@dataclass(frozen=True)
class World:
    """This process' place.

    Attributes:
        device: where the model and the batches are.
        control: a gloo group of all ranks, for objects and long waits.
        timeout: how long a collective of a step may take.
        alike: how many neighbouring ranks get the same rows, because they share each matrix or each sequence.
        parts: of these, how many have a part each of a sequence.
        stages: how many ranks of a pipeline work on them one after the other; those of a stage are neighbours.
        end: which of these has the last stage.
    """

    rank: int
    local_rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup
    timeout: timedelta = timedelta(seconds=DEFAULT_TIMEOUT_S)
    alike: int = 1
    parts: int = 1
    stages: int = 1
    end: int = 0

    def laid_out(self, mesh: Mesh) -> World:
        """The same, as its ranks lie in a mesh."""
        alike, end = mesh.tensor * mesh.context, mesh.place_of(mesh.stages - 1)
        return replace(self, alike=alike, parts=mesh.context, stages=mesh.pipeline, end=end)

    @property
    def leader(self) -> bool:
        return self.rank == 0

    @property
    def data_size(self) -> int:
        """Into how many parts a batch is dealt."""
        return self.stage_size // self.alike

    @property
    def data_rank(self) -> int:
        """Which of them is this rank's."""
        return self.rank % self.stage_size // self.alike

    @property
    def stage_size(self) -> int:
        """How many ranks have the same layers, or share them."""
        return self.size // self.stages

    @property
    def counts(self) -> bool:
        """Whether this rank speaks for those that get the same rows: what they have in common counts once.

        In a pipeline it is in the last stage, which knows the loss.
        """
        return self.rank % self.alike == 0 and self.rank // self.stage_size == self.end

    @property
    def adds(self) -> bool:
        """Whether this rank speaks for those that compute the same: of a part of a sequence the loss counts once."""
        return self.rank % (self.alike // self.parts) == 0 and self.rank // self.stage_size == self.end

    @property
    def averaged(self) -> int:
        """Over how many ranks gradients are averaged: those that compute different things with the same layers."""
        return self.data_size * self.parts

    @property
    def store(self) -> Store:
        """What the ranks of this start met in; for any thread."""
        return dist.distributed_c10d._get_default_store()

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank; a barrier. The value must be picklable."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def slowest(self, seconds: float) -> list[float]:
        """For each part of a batch the most seconds that one of its ranks took; NaN where one doesn't know. On every rank."""
        shape = (self.stages, -1, self.alike)
        taken: list[float] = np.reshape(self.gather(seconds), shape).max(axis=(0, 2)).tolist()
        return taken

    def apart(self) -> World:
        """The same ranks with a control group of their own: for another thread, whose collectives must not mix. A collective."""
        control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
        assert control is not None  # noqa: S101  this rank is in the group of all ranks
        return replace(self, control=control)

    def agree(self, work: Callable[[], T], *, on: Callable[[World], bool]) -> list[T | None]:
        """Runs work on some ranks while the others wait; fails on all ranks if it failed on one.

        Args:
            on: which ranks work.

        Returns:
            The results by rank; None for ranks that didn't work.

        Raises:
            TrainerError: the first failed rank's error, with its type.
        """
        result: T | None = None
        error: BaseException | None = None
        if on(self):
            try:
                result = work()
            except (TrainerError, ConfigError) as caught:
                error = caught
            except Exception as caught:
                error = UnavailableError(f"rank {self.rank}: {type(caught).__name__}: {caught}")
        outcomes = self.gather((result, error))
        failed = next((failure for _, failure in outcomes if failure is not None), None)
        if failed is not None:
            raise failed
        return [value for value, _ in outcomes]

    def lead(self, work: Callable[[], T]) -> T:
        """Runs work on rank 0 and gives its result to every rank; raises on all what it raised."""
        result: Any = self.agree(work, on=lambda world: world.leader)[0]
        return result

    def numbers(self, *values: int) -> NDArray[np.int64]:
        """Every rank's numbers, on every rank, without a wait for the device; int64, shape (size, len(values))."""
        table = torch.zeros((self.size, len(values)), dtype=torch.int64)
        table[self.rank] = torch.tensor(values, dtype=torch.int64)
        work = dist.all_reduce(table, group=self.control, async_op=True)
        assert work is not None  # noqa: S101  it is asynchronous
        work.wait(self.timeout)
        return table.numpy()

    def total(self, *values: float) -> list[float]:
        """The sums of the values over all ranks, in fp64."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]


@contextmanager
def join(backend: str, environ: Mapping[str, str]) -> Iterator[World]:
    """Joins the process group and leaves it again.

    Args:
        backend: auto, nccl or gloo; auto takes nccl where CUDA is.
        environ: torchrun's variables, and how long a collective may take.

    Raises:
        ConfigError: nccl is asked for where no GPU is, or the time for a collective is no number.
        UnavailableError: the peers could not be reached.
    """
    rank, size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
    local_rank = int(environ.get("LOCAL_RANK", "0"))
    timeout = collective_timeout(environ)
    name = _backend(backend)
    device = torch.device("cuda", local_rank) if name == "nccl" else torch.device("cpu")
    if name == "nccl":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            name,
            rank=rank,
            world_size=size,
            store=None if "MASTER_ADDR" in environ else HashStore(),
            timeout=timeout,
            device_id=device if name == "nccl" else None,
        )
        control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(f"rank {rank} of {size}: could not reach its peers: {first_line(error)}") from error
    assert control is not None  # noqa: S101  this rank is in the group of all ranks
    try:
        yield World(rank, local_rank, size, device, control, timeout)
    finally:
        dist.destroy_process_group()


def collective_timeout(environ: Mapping[str, str]) -> timedelta:
    """How long a collective may take, as the launcher says.

    Raises:
        ConfigError: it isn't a positive number of seconds.
    """
    text = environ.get(Env.COLLECTIVE_TIMEOUT, str(DEFAULT_TIMEOUT_S))
    if not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"{Env.COLLECTIVE_TIMEOUT} is {text!r}: it must be a whole number of seconds, 1 or more")
    return timedelta(seconds=int(text))


def lost_peer(error: BaseException) -> bool:
    """Whether an error means that a peer went away or stayed silent, rather than a defect of this process."""
    text = str(error).lower()
    signs = ("connection closed by peer", "connection reset", "gloo", "nccl", "timed out", "broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in signs)
    )


def _backend(name: str) -> str:
    if name == "auto":
        return "nccl" if torch.cuda.is_available() else "gloo"
    if name == "nccl" and not torch.cuda.is_available():
        raise ConfigError(
            "backend: nccl needs a GPU and this process sees none; ask for one in the workers' resources, or take gloo"
        )
    return name
