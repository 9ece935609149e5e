"""The training loop of the tasks that predict the next token (pretrain, finetune), to be read from top to bottom.

What it keeps true, for any number of ranks and any history of faults:
- the gradient of a step is that of its global batch in one process: losses are summed and divided by the tokens
  of the whole batch, however unevenly the batch is dealt;
- weights, optimizer and ledger are saved and go back together;
- after a resume, each step is bit for bit what it would have been (same number of ranks; else to rounding).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing, nullcontext

from deepseek_trainer import gradient, start
from deepseek_trainer.checkpoint import probation
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data.feed import Feed
from deepseek_trainer.distributed.world import World, lost_peer
from deepseek_trainer.errors import PreemptedError
from deepseek_trainer.evaluate import validation_loss
from deepseek_trainer.logs import fields
from deepseek_trainer.progress import Progress
from deepseek_trainer.signals import StopSignal
from deepseek_trainer.start import Run
from deepseek_trainer.telling import Outcome

log = logging.getLogger(__name__)


def train(config: RunConfig, world: World, progress: Progress, stop: StopSignal, environ: Mapping[str, str]) -> None:
    """Trains to the last step, from the newest checkpoint if there is one. A collective.

    Raises:
        ConfigError, DataError: the config, the data or a checkpoint is wrong.
        UnavailableError: the volume failed, or a newer generation has taken over.
        PreemptedError: SIGTERM arrived and the state was saved.
        TrainerError: a step would do harm, and the guard has no other answer; RollbackError: it goes back.
    """
    training = config.trainer.training
    run, ledger, found = start.set_up(config, world, progress, environ)
    saver = start.saver(run, start.resume(run, ledger, found))
    stop.defer()
    with (
        closing(run.tell),
        closing(run.profiler),
        closing(run.data.feed(ledger, waits=run.waits, progress=progress, audit=run.audit)) as feed,
        probation.watched(
            found.path if found else None,
            run.writer.start if run.writer else "",
            lambda: feed.ledger.step,
            lost_peer,
            run.home.record_failure if run.home else None,
        ),
        saver or nullcontext(),
    ):
        progress.update(data=feed.report())
        progress.started()
        if config.trainer.task == "finetune" and found is None:
            _evaluate(run, feed)  # what the weights are worth before the first step

        last, signs = feed.ledger.step >= training.steps, [0.0, 0.0, 0.0]
        run.profiler.stepped(feed.ledger.step)
        while not last:
            rate = run.update.begin(feed.ledger.step)
            run.waits.begin(feed.ledger.step)
            step = feed.next(lambda: stop.requested)
            if step is None:  # a stream is at its end, or SIGTERM came while all waited for it
                last, stopping = feed.ended, not feed.ended
            else:
                loss = gradient.accumulate(run, feed, step)
                # The ranks agree on the loss, on whether to stop after this step, and on how the last save went.
                with run.waits.collective():
                    grad_norm = run.update.clip()
                    own = saver.signs() if saver else ()
                    loss, told_to_stop, *signs = world.total(loss, float(stop.requested), *own)

                refused = gradient.refused(run, feed.ledger, loss=loss, grad_norm=grad_norm)
                if refused is None:
                    run.update.apply(feed.ledger.step)
                else:
                    run.update.leave()
                with run.waits.collective():
                    load = run.routing.balance(moves=refused is None)
                feed.trained()  # a step that was left out has consumed its samples, too

                feed.paced(run.tell.step(feed.ledger, Outcome(step.tokens, loss, rate, grad_norm, refused, load)))
                run.profiler.stepped(feed.ledger.step)
                last, stopping = feed.ledger.step == training.steps, bool(told_to_stop)

            number = feed.ledger.step
            if last or (not stopping and _due(number, config.trainer.evaluation.every_steps)):
                _evaluate(run, feed)
            if saver and (last or stopping):
                saver.finish(feed, moving=not last)
            elif saver:
                saver.stepped(feed, signs)
            if stopping and not last:
                kept = f"step {number}" if saver else "nothing, as the job has no checkpoint"
                raise PreemptedError(f"SIGTERM: stopped after step {number}; saved: {kept}")

        ledger = feed.ledger
    progress.update(phase="finished", eta_seconds=0.0)
    log.info("finished %s", fields(step=ledger.step, samples=ledger.position, chain=ledger.chain))


def _evaluate(run: Run, feed: Feed) -> None:
    run.progress.update(phase="evaluating")
    with run.update.evaluated_weights():
        tick = run.progress.pulse.tick
        loss = validation_loss(
            run.model, feed.held_out(), run.world, pipeline=run.pipeline, context=run.context, tick=tick
        )
        samples = run.sampler.sample(run.model, feed.ledger.step, tick=tick) if run.sampler is not None else []
    run.tell.evaluated(feed.ledger, loss, run.data.unigram_entropy, samples)
    run.progress.update(phase="training", validation_loss=loss)
    run.progress.started()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
