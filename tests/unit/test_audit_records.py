"""The audit's file and its count: what is written is read back, what is not whole is not read, and nothing is miscounted."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from deepseek_trainer.checkpoint import layout
from deepseek_trainer.data.audit.frames import MAGIC, DamagedError
from deepseek_trainer.data.audit.records import Encoder, Header, Reader, Record, file_of
from deepseek_trainer.data.audit.tally import Tally
from deepseek_trainer.data.audit.writer import AuditFile
from deepseek_trainer.errors import UnavailableError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audits import Training

# ---- the file ---------------------------------------------------------------------------------


def header(**changes: object) -> Header:
    return replace(Header("uid", "g1-a1-0", 1, 1, 0, 1, {"step": 0}), **changes)  # type: ignore[arg-type]


@settings(max_examples=20)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 5)), max_size=8),
        max_size=12,
    )
)
def test_what_was_recorded_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[int, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("audit")
    log = AuditFile(folder, header())
    for step, uses in enumerate(steps, start=1):
        samples, epochs = np.array(uses, np.int64).reshape(-1, 2).T
        log.record(step, samples, epochs)
        if step % 3 == 0:
            log.sync()
    log.sync()
    reader = Reader(file_of(folder, "g1-a1-0", 0))
    assert reader.header == header()
    records = [record for record in reader if isinstance(record, Record)]
    read = [sorted(zip(record.samples.tolist(), record.epochs.tolist(), strict=True)) for record in records]
    assert read == [sorted(uses) for uses in steps]


def test_a_step_costs_33_bytes_and_a_sample_4(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1, samples=10**9, batch=1000).sync()
    before = job.file().stat().st_size
    job.steps(10).sync()
    assert job.file().stat().st_size - before == 10 * (33 + 4 * 1000)


def test_more_than_a_megabyte_is_not_kept_in_memory(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1, samples=10**9, batch=100_000).steps(3)
    assert job.file().stat().st_size > 1 << 20


def test_a_cut_at_any_byte_leaves_the_steps_before_it(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(3).sync()
    content = job.file().read_bytes()
    lengths, first = [], len(Training(tmp_path / "other", ranks=1).logs[0]._pending)
    for cut in range(len(content)):
        job.file().write_bytes(content[:cut])
        if cut < first:
            with pytest.raises(DamagedError, match=r"ends at byte|no audit"):
                Reader(job.file())
        else:
            lengths.append(len(list(Reader(job.file()))))
    assert lengths == sorted(lengths)
    assert set(lengths) == {0, 1, 2}


def test_any_flipped_byte_ends_what_can_be_read(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(2).sync()
    content = job.file().read_bytes()
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        job.file().write_bytes(flipped)
        try:
            assert len(list(Reader(job.file()))) < 2, f"byte {place} changes nothing"
        except DamagedError:
            continue


def test_a_frame_that_was_taken_out_is_missed(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(3).sync()
    content = job.file().read_bytes()
    frames, place = [content[: len(MAGIC)]], len(MAGIC)
    while place < len(content):
        (length,) = struct.unpack_from("<I", content, place)
        frames.append(content[place : place + 8 + length])
        place += 8 + length
    job.file().write_bytes(b"".join([*frames[:2], *frames[3:]]))
    assert list(Reader(job.file())) == []


def test_a_volume_without_room_is_told_with_the_file(tmp_path: Path) -> None:
    job = Training(tmp_path, ranks=1).steps(1)
    (tmp_path / layout.AUDIT).write_text("in the way")
    with pytest.raises(
        UnavailableError, match=r"the audit can't be written to .*rank-00000.ids: .*give the checkpoint"
    ):
        job.sync()


# ---- the count --------------------------------------------------------------------------------


def test_the_tally_counts_lost_repeated_and_strange_samples() -> None:
    tally = Tally(10, last_epoch=2)
    tally.add(1, np.array([0, 1, 2, 2, 11, -1]), np.zeros(6, np.int64))
    tally.add(2, np.array([3, 0, 4]), np.array([0, 0, 7]))
    tally.add(3, np.arange(10), np.full(10, 2))
    tally.add(4, np.array([5, 9]), np.array([0, 2]))
    tally.finish(complete=3)
    found = {number: (epoch.trained, epoch.lost, epoch.repeated) for number, epoch in tally.epochs.items()}
    assert found == {0: (4, 6, 3), 1: (0, 10, 0), 2: (10, 0, 1)}
    assert tally.strange == 3
    assert tally.repeated_examples == [(1, 0, 2), (2, 0, 0), (4, 0, 5), (4, 2, 9)]
    assert tally.lost_examples == [(0, sample) for sample in (4, 5, 6, 7, 8, 9)] + [(1, sample) for sample in range(4)]


def test_the_tally_forgets_epochs_that_are_over() -> None:
    tally = Tally(800_000, last_epoch=100)
    for epoch in range(60):
        tally.add(epoch, np.arange(5), np.full(5, epoch))
    assert len(tally._open) <= 3


def test_the_checksum_is_zlibs() -> None:
    """So that a file can be read by other means, years later."""
    encoder = Encoder(header())
    frame = encoder.record(Record(1, np.array([3]), np.array([0])))
    payload = struct.pack("<qI", 1, 1) + struct.pack("<qIB", 0, 1, 4) + struct.pack("<I", 3)
    crc = zlib.crc32(payload, zlib.crc32(json.dumps(asdict(header()), sort_keys=True).encode(), zlib.crc32(MAGIC)))
    assert frame == struct.pack("<II", len(payload), crc) + payload
