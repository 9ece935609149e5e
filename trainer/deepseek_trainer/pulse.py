"""The pulse of a training process: where it is at this moment, in a small mapped file that its agent reads.

Every rank has one, unlike the report, which is rank 0's alone and is written once a second. A write is a copy of some
dozens of bytes into memory, so it is made at every step and at every part of one, without a system call. Records
go into two slots in turn, each with a checksum: a reader never sees half of one, even of a writer that was stopped
in the middle. The agent names the file in `DEEPSEEKJOB_PULSE_FILE`, anew for every start. Importable without torch;
a user's script may use it, in every rank:

    pulse = PulseWriter.from_environment()
    pulse.enter("training")
    for step in range(first, steps):
        for batch in batches:
            ...
            pulse.tick()  # a part of a step, between collectives: tells the rank that is behind from those that wait
        with pulse.waiting():  # around every collective: what is left of the step is this rank's own work
            dist.all_reduce(...)
        pulse.stepped(step + 1)

A rank that is slow makes all others wait for it, and its own step takes as long as theirs: only the own work tells it
from them. Let the host wait for the collective inside of `waiting` (on a GPU synchronise before and after it, in some
steps), or the wait is counted as work. DDP waits inside of `backward`, after its last bucket: let a communication hook
note the time of each bucket, and after `backward` call `waited` with what has passed since the last one.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from deepseek_trainer.contract import Env, Phase

PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
Part = Literal["forward", "backward", "optimizer"]
"""Of a step's own work."""
_RECORD = struct.Struct("<qqqq12d")
_CHECKSUM = struct.Struct("<I")
_SLOT_BYTES = 256
_FILE_BYTES = 2 * _SLOT_BYTES


class Pulse(NamedTuple):
    """One record. Moments are of `time.monotonic()`, which all processes of a machine share."""

    step: int
    """Optimizer steps done, as in the report; -1 before this process has done one."""
    phase: Phase
    ticks: int
    """Parts of steps, changes of phase and steps since the process began: ranks of one job count alike."""
    moment: float
    """When the last step ended; NaN before the first one of this process."""
    touched: float
    """When anything of this was written last."""
    step_s: float
    """Wall seconds of the last step, without evaluations and checkpoints; NaN before the first one."""
    busy_s: float
    """Seconds of it that were this rank's own work and not waiting for others; NaN where that is not measured."""
    data_s: float = math.nan
    """Seconds of its own work in which it waited for its data; NaN where that is not measured."""
    forward_s: float = math.nan
    """Seconds of its own work that were the forward passes of the last step in which parts were measured; NaN: of none.
    With `backward_s` and `optimizer_s` likewise, and `waited_s` in which it waited for others."""
    backward_s: float = math.nan
    optimizer_s: float = math.nan
    waited_s: float = math.nan
    resident_bytes: float = math.nan
    """Host memory of the process, as it was seen last; NaN where that is not measured."""
    allocated_bytes: float = math.nan
    """The most of a GPU's memory that tensors had since the process began; NaN without a GPU."""
    reserved_bytes: float = math.nan
    """The most that torch's allocator held for them: what is beyond the former is fragments and a cache."""


class PulseWriter:
    """Writes the pulse of this process."""

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """With path None (not under the agent) every call is a no-op.

        Raises:
            OSError: the file can't be made.
        """
        self._clock = clock
        self._map = None if path is None else _map(path)
        self._serial = 0
        self._began = clock()
        self._waited_s: float | None = None
        self._loading_s: float | None = None
        self._parts_s: dict[Part, float] = defaultdict(float)
        self._pulse = Pulse(-1, "starting", 0, math.nan, self._began, math.nan, math.nan, math.nan)
        self._write()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> PulseWriter:
        """The writer of this process, whatever its rank."""
        path = environ.get(Env.PULSE_FILE, "")
        return cls(Path(path) if path else None)

    def enter(self, phase: Phase) -> None:
        """This rank is in that phase from now on; the next step begins now. Nothing when it is in it already."""
        if phase != self._pulse.phase:
            self._begin(self._clock())
            self._touch(self._began, phase=phase)

    def tick(self) -> None:
        """A part of a step is done."""
        self._touch(self._clock())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done in here is waiting for other ranks, and no work of this one's own."""
        began = self._clock()
        try:
            yield
        finally:
            self.waited(self._clock() - began)

    def waited(self, seconds: float) -> None:
        """Of the present step, so long was waiting for other ranks."""
        self._waited_s = (self._waited_s or 0.0) + seconds

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What is done in here is waiting for data: work of this rank's own, as others have to wait for it, too."""
        began = self._clock()
        try:
            yield
        finally:
            self._loading_s = (self._loading_s or 0.0) + self._clock() - began

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is done in here is no part of the step, though it is between its begin and its end."""
        self.tick()
        began = self._clock()
        try:
            yield
        finally:
            self._began += self._clock() - began
            self.tick()

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """What is done in here is that part of the step, but for what of it is waiting, for other ranks or for data."""
        began = self._clock() - self._elsewhere_s
        try:
            yield
        finally:
            self._parts_s[name] += self._clock() - self._elsewhere_s - began

    @property
    def _elsewhere_s(self) -> float:
        """Of the present step, so long was waiting, up to now."""
        return (self._waited_s or 0.0) + (self._loading_s or 0.0)

    def memory(self, *, resident: float, allocated: float = math.nan, reserved: float = math.nan) -> None:
        """What this process takes, in bytes; written with the next step."""
        self._pulse = self._pulse._replace(resident_bytes=resident, allocated_bytes=allocated, reserved_bytes=reserved)

    def stepped(self, step: int) -> Pulse:
        """An optimizer step has ended, and the next one begins. Its own work is known if it waited anywhere."""
        now = self._clock()
        step_s = now - self._began
        busy_s = math.nan if self._waited_s is None else step_s - self._waited_s
        data_s = math.nan if self._loading_s is None else self._loading_s
        parts = {f"{name}_s": seconds for name, seconds in self._parts_s.items()}
        if self._waited_s is not None:
            parts["waited_s"] = self._waited_s
        self._touch(now, step=step, moment=now, step_s=step_s, busy_s=busy_s, data_s=data_s, **parts)
        self._begin(now)
        return self._pulse

    def _begin(self, now: float) -> None:
        """The next step begins."""
        self._began, self._waited_s, self._loading_s = now, None, None
        self._parts_s.clear()

    def _touch(self, now: float, **changes: object) -> None:
        self._pulse = self._pulse._replace(ticks=self._pulse.ticks + 1, touched=now, **changes)  # type: ignore[arg-type]
        self._write()

    def _write(self) -> None:
        if self._map is None:
            return
        self._serial += 1
        pulse = self._pulse
        record = _RECORD.pack(
            self._serial,
            pulse.step,
            PHASES.index(pulse.phase),
            pulse.ticks,
            *pulse[3:],
        )
        start = self._serial % 2 * _SLOT_BYTES
        content = record + _CHECKSUM.pack(zlib.crc32(record))
        self._map[start : start + len(content)] = content


def read(path: Path) -> Pulse | None:
    """The newest whole record of a file; None when there is none yet, or it is no pulse."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES)
    except OSError:
        return None
    found = [record for start in (0, _SLOT_BYTES) if (record := _parse(content[start : start + _SLOT_BYTES]))]
    return max(found)[1] if found else None


def _parse(slot: bytes) -> tuple[int, Pulse] | None:
    """Serial number and pulse of a slot; None when it is not whole."""
    end = _RECORD.size + _CHECKSUM.size
    if len(slot) < end or _CHECKSUM.unpack(slot[_RECORD.size : end])[0] != zlib.crc32(slot[: _RECORD.size]):
        return None
    serial, step, phase, *rest = _RECORD.unpack(slot[: _RECORD.size])
    return (serial, Pulse(step, PHASES[phase], *rest)) if 0 <= phase < len(PHASES) else None


def _map(path: Path) -> mmap.mmap:
    with path.open("w+b") as file:
        file.truncate(_FILE_BYTES)
        return mmap.mmap(file.fileno(), _FILE_BYTES)
