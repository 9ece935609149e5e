"""A file of frames that is only ever appended to: whatever is changed in it ends what can be read of it.

    magic                  8 bytes
    frame, frame, …        length (uint32), crc32 (uint32), payload; little-endian

Each checksum goes on from the one before it, so that a frame that was changed, left out, put elsewhere or cut off ends
the file.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

MAGIC = b"dsjaud1\n"
_FRAME = struct.Struct("<II")
_CHUNK_BYTES = 1 << 18
_LARGEST_FRAME = 1 << 30


class DamagedError(Exception):
    """A file can't be read any further; the message says where and why."""


class FrameWriter:
    """Makes the bytes of one file, in order; it keeps the checksum."""

    def __init__(self) -> None:
        self._crc = zlib.crc32(MAGIC)

    def frame(self, payload: bytes) -> bytes:
        """The next frame."""
        self._crc = zlib.crc32(payload, self._crc)
        return _FRAME.pack(len(payload), self._crc) + payload


class FrameReader:
    """Reads one file from its beginning. It holds no file open between two reads: a job may have thousands of ranks."""

    def __init__(self, path: Path) -> None:
        """Raises: DamagedError: the file is missing, or is none of ours."""
        self.path = path
        self._offset = 0
        self._buffer, self._at = b"", 0
        self._crc = zlib.crc32(MAGIC)
        if self._take(len(MAGIC)) != MAGIC:
            raise DamagedError(f"{self.name} is no audit of this version")

    def frame(self) -> bytes:
        """The payload of the next frame.

        Raises:
            DamagedError: there is none: the file ends here, or is torn or altered.
        """
        place = self.place
        length, crc = _FRAME.unpack(self._take(_FRAME.size))
        if length > _LARGEST_FRAME:
            raise DamagedError(f"{self.name} is altered at byte {place}")
        payload = self._take(length)
        self._crc = zlib.crc32(payload, self._crc)
        if self._crc != crc:
            raise DamagedError(f"{self.name} is torn or altered at byte {place}")
        return payload

    @property
    def place(self) -> int:
        """The byte that is read next."""
        return self._offset - len(self._buffer) + self._at

    @property
    def name(self) -> str:
        """The file, with the start of training that it is of."""
        return f"{self.path.parent.name}/{self.path.name}"

    def _take(self, count: int) -> bytes:
        if len(self._buffer) - self._at < count:
            self._fill(count)
        taken = self._buffer[self._at : self._at + count]
        if len(taken) < count:
            raise DamagedError(f"{self.name} ends at byte {self._offset}")
        self._at += count
        return taken

    def _fill(self, count: int) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                more = file.read(max(count, _CHUNK_BYTES))
        except OSError as error:
            raise DamagedError(f"{self.name} can't be read: {error.strerror or error}") from error
        self._offset += len(more)
        self._buffer, self._at = self._buffer[self._at :] + more, 0
