"""What a run tells of its steps: a line in the log, the report for those who watch, and the run's log, from the same numbers.

Every rank calls this after each step: its own figures go into its pulse; what is the job's is told by rank 0.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from deepseek_trainer.config import RunConfig
from deepseek_trainer.contract import Experts, Report
from deepseek_trainer.data.feed import Ledger
from deepseek_trainer.distributed.world import World
from deepseek_trainer.footprint import Scale
from deepseek_trainer.logs import fields
from deepseek_trainer.model.balance import Load
from deepseek_trainer.optim.guard import Guard
from deepseek_trainer.plan import utilization
from deepseek_trainer.plan.utilization import Utilization
from deepseek_trainer.progress import Progress, finite
from deepseek_trainer.sampling import Sample
from deepseek_trainer.tracking.runlog import RunLog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        grad_norm: before it was clipped.
        refused: why it left the weights as they were; None: it didn't.
        load: how its tokens were spread over the experts; None: there are none.
    """

    tokens: int
    loss: float
    learning_rate: float
    grad_norm: float
    refused: str | None
    load: Load | None


class Telling:
    """Of one start of training."""

    def __init__(
        self,
        config: RunConfig,
        world: World,
        progress: Progress,
        guard: Guard,
        speed: Utilization | None,
        written: RunLog | None,
    ) -> None:
        """Args: written: the run's log; None: there is none, or it is another rank's."""
        self._steps, self._progress, self._guard, self._speed = config.trainer.training.steps, progress, guard, speed
        self._memory, self._written = Scale(world.device), written

    def step(self, ledger: Ledger, outcome: Outcome) -> float:
        """A step has ended; the seconds of it that were this rank's own work, NaN where that was not measured."""
        progress, load = self._progress, outcome.load
        progress.pulse.memory(**self._memory.look()._asdict())
        pace = progress.stepped(ledger.step, outcome.tokens)
        mfu = None if self._speed is None else self._speed.at(pace.tokens_per_second)
        log.info(
            fields(
                step=ledger.step,
                loss=outcome.loss,
                lr=outcome.learning_rate,
                grad_norm=outcome.grad_norm,
                tokens_per_second=round(pace.tokens_per_second),
                mfu=mfu,
                data_wait=pace.data_wait,
                epoch=ledger.epoch,
                expert_max_violation=load and load.max_violation,
                expert_dropped=load and load.dropped,
            )
        )
        if outcome.refused is not None:
            log.warning("left out %s: %s", fields(step=ledger.step, left_out=self._guard.skipped), outcome.refused)
        progress.update(
            phase="training",
            step=ledger.step,
            loss=finite(outcome.loss),
            learning_rate=outcome.learning_rate,
            grad_norm=finite(outcome.grad_norm),
            skipped_steps=self._guard.skipped,
            tokens_per_second=pace.tokens_per_second,
            mfu=mfu,
            eta_seconds=(self._steps - ledger.step) * pace.step_s,
            data_wait=pace.data_wait,
            step_seconds=pace.parts,
            memory=pace.memory,
            epoch=ledger.epoch,
            position=ledger.position,
            chain=ledger.chain,
            experts=None if load is None else Experts(**asdict(load)),
        )
        if self._written is not None and (self._written.is_due(ledger.step) or ledger.step == self._steps):
            self._written.tell(ledger.step, _figures(progress.report, progress.last_step_s))
        return pace.busy_s

    def evaluated(
        self, ledger: Ledger, loss: float | None, unigram_entropy: float | None, samples: Sequence[Sample]
    ) -> None:
        """What an evaluation has come to; without a loss nothing is held out yet."""
        if loss is not None:
            log.info("evaluated %s", fields(step=ledger.step, validation_loss=loss, unigram_entropy=unigram_entropy))
        for one in samples:
            log.info("sampled %s", fields(step=ledger.step, prompt=_quoted(one.prompt), text=_quoted(one.text)))
        if self._written is not None and (samples or loss is not None):
            texts = {f"samples/{number}": one.prompt + one.text for number, one in enumerate(samples)}
            self._written.tell(ledger.step, {"validation/loss": loss}, texts)

    def close(self) -> None:
        """Nothing more is told."""
        if self._written is not None:
            self._written.close()


def _quoted(text: str) -> str:
    """In one line."""
    return json.dumps(text, ensure_ascii=False)


def _figures(report: Report, step_s: float) -> dict[str, float | None]:
    """Of a step, by the names that they have in the run's log."""
    parts, memory = report.step_seconds, report.memory
    return {
        "train/loss": report.loss,
        "train/learning_rate": report.learning_rate,
        "train/gradient_norm": report.grad_norm,
        "train/epoch": report.epoch,
        "train/skipped_steps": report.skipped_steps,
        "speed/tokens_per_second": report.tokens_per_second,
        "speed/mfu": report.mfu,
        "time/step_seconds": step_s,
        **{f"time/{name}_seconds": value for name, value in parts or ()},
        **{f"memory/{name}_bytes": value for name, value in memory or ()},
        "experts/max_violation": report.experts and report.experts.max_violation,
        "experts/dropped": report.experts and report.experts.dropped,
    }


def speed(config: RunConfig, world: World, model: Any, parameters: int) -> Utilization | None:
    """How busy the devices are at a throughput; None where that is not known.

    Args:
        model: its configuration.
        parameters: of the whole model.
    """
    told = config.trainer.logging.peak_tflops
    product = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None
    length = config.trainer.training.sequence_length
    return utilization.of(
        model,
        parameters=parameters,
        length=length,
        ranks=world.size,
        product=product,
        peak=None if told is None else told * 1e12,
    )
