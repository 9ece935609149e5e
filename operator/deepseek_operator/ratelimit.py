"""A token bucket: the one limit on how fast anything is done, shared by the API client and the retry queue."""

from __future__ import annotations

from collections.abc import Callable


class TokenBucket:
    """Hands out rate tokens a second, and at most burst at once. Not thread-safe: one event loop uses it."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def reserve(self) -> float:
        """Takes one token and returns the seconds to wait until it is there (0 when it is)."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)
