"""The gradient of a step, and whether it may change the weights."""

from __future__ import annotations

from functools import partial

import torch

from deepseek_trainer.data.feed import Feed, Ledger, Step
from deepseek_trainer.distributed import sharding
from deepseek_trainer.errors import RollbackError
from deepseek_trainer.optim.loss import objective, summed_objective
from deepseek_trainer.start import Run


def accumulate(run: Run, feed: Feed, step: Step) -> float:
    """This rank's part of the gradient of the whole batch, by the loss scale; its part of the mean loss."""
    scale = run.update.scale
    summed = torch.zeros((), dtype=torch.float64, device=run.world.device)
    spec = run.config.trainer
    weight = scale * run.world.averaged / step.targets  # FSDP takes the mean over the ranks
    if run.pipeline is not None:
        summed = run.pipeline.gradient(
            [feed.micro_batch() for _ in range(step.micro_steps)],
            partial(
                objective,
                z_loss=spec.training.z_loss,
                further_weight=spec.model.multi_token.loss_weight,
                context=run.context,
            ),
            weight=weight,
            routing=run.routing,
            tick=run.progress.pulse.tick,
        )
        return float(summed) / step.targets if run.world.adds else 0.0
    for i in range(step.micro_steps):
        sharding.sync_on_last(run.model, run.config.trainer.training, last=i == step.micro_steps - 1)
        micro_batch = feed.micro_batch()
        run.progress.pulse.tick()  # before and after what waits for the others
        with run.waits.part("forward"):
            loss, minimized = summed_objective(
                run.model,
                micro_batch,
                z_loss=spec.training.z_loss,
                routing=run.routing,
                further_weight=spec.model.multi_token.loss_weight,
                context=run.context,
            )
        with run.waits.part("backward"):
            (minimized * weight).backward()
        summed += loss.detach()
        run.progress.pulse.tick()
    return float(summed) / step.targets if run.world.adds else 0.0


def refused(run: Run, ledger: Ledger, *, loss: float, grad_norm: float) -> str | None:
    """Why the step that was just computed must not change the weights; None: it may.

    Raises:
        TrainerError: training can't go on with it.
        RollbackError: it goes on from the last checkpoint, without it; that is on record.
    """
    overflow = run.update.overflowed(loss, grad_norm)
    if overflow is not None:
        return run.guard.leaves_out(overflow)
    try:
        return run.guard.refuses(ledger.step + 1, loss, grad_norm)
    except RollbackError as error:
        place, writer, steps, why = run.home, run.writer, error.steps, str(error)
        assert place is not None and writer is not None  # noqa: S101, PT018 - the config has been validated
        run.world.lead(lambda: place.leave_out(writer.uid, ledger.to_json(), steps, why))
        raise
