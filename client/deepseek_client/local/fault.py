"""The loss of a machine, on request: one worker disappears midway, with everything that runs in it."""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_operator.api.names import State
from deepseek_operator.decide.types import Observation, Progress


@dataclass(frozen=True, slots=True)
class KillOne:
    """Due once: when a little more than half of the steps are done and the newest checkpoint is behind.

    The victim is the worker of the highest slot, and all must be ready: else it would be the highest of those that
    happen to be. With a step beyond the checkpoint there is something to lose, so that the resume can be told from a
    lucky continuation.
    """

    percent: int = 55
    """Not a round half: checkpoints fall on round steps, and some work is to be lost."""

    def victim(self, observation: Observation) -> tuple[str, Progress] | None:
        """The pod to take and the progress at this moment; None while it is not time."""
        progress = observation.progress
        if progress is None or progress.step is None or not progress.total_steps or progress.checkpoint is None:
            return None
        training = progress.phase == "training" and observation.job.status.state == State.RUNNING
        midway = self.percent * progress.total_steps <= 100 * progress.step < 100 * progress.total_steps
        if not training or not midway or progress.step <= int(progress.checkpoint["step"]):
            return None
        living = [pod for pod in observation.pods if not pod.terminating]
        if not living or not all(pod.phase == "Running" and pod.ready for pod in living):
            return None
        return max(living, key=lambda pod: pod.slot).name, progress
