"""Waiting that says, once in a while, for whom or what; and that ends at a deadline with the same words."""

from __future__ import annotations

from collections.abc import Callable

from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

from deepseek_trainer.agent.log import EventLog

LOG_EVERY_S = 10.0


class Patience:
    """One wait of many steps, with a deadline."""

    def __init__(
        self, timeout_s: float, log: EventLog, pause: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._timeout_s = timeout_s
        self._log = log
        self._pause = pause
        self._clock = clock
        self._began = clock()
        self._logged = self._began

    def wait(self, seconds: float, what: Callable[[], str]) -> None:
        """Waits a moment for `what()`.

        Raises:
            RendezvousTimeoutError: the deadline has passed; the message says what was awaited.
        """
        now = self._clock()
        if now - self._began >= self._timeout_s:
            raise RendezvousTimeoutError(f"waited {self._timeout_s:g} s for {what()}")
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            self._log.info("waiting", awaited=what(), seconds=round(now - self._began))
        self._pause(seconds)
