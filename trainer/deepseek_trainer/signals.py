"""SIGTERM: the pod is going away.

Before training starts there is nothing to save, and the process ends where it is. From then on the signal is only
noted; the loop asks at the end of each step, the ranks agree, and all save together.
"""

from __future__ import annotations

import signal
from types import FrameType

from deepseek_trainer.errors import PreemptedError


class StopSignal:
    """Notes SIGTERM; made once, in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        signal.signal(signal.SIGTERM, self._receive)

    def defer(self) -> None:
        """From now on, note the signal instead of ending the process."""
        self._deferred = True
        if self.requested:
            raise PreemptedError("SIGTERM before the first step: nothing to save")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self._deferred:
            raise PreemptedError("SIGTERM before the first step: nothing to save")
