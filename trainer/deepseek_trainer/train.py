"""The training loop of the tasks that predict the next token (pretrain, finetune), to be read from top to bottom.

What it keeps true, for any number of ranks and any history of faults:
- the gradient of a step is that of its global batch in one process: losses are summed and divided by the tokens
  of the whole batch, however unevenly the batch is dealt;
- weights, optimizer and ledger are saved and go back together;
- after a resume, each step is bit for bit what it would have been (same number of ranks; else to rounding).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deepseek_trainer import numerics
from deepseek_trainer.checkpoint import home, layout, load, probation, save, state
from deepseek_trainer.checkpoint.home import AnyWriter, Begun, Home
from deepseek_trainer.checkpoint.memory import tier
from deepseek_trainer.checkpoint.saver import Saver
from deepseek_trainer.config import DataSpec, RunConfig
from deepseek_trainer.contract import PASSED_OVER_LENGTH, PASSED_OVER_MAX, Env, Experts, RestoredBytes
from deepseek_trainer.data import modes
from deepseek_trainer.data.audit.records import Header
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.feed import Data, Feed, Ledger, Step
from deepseek_trainer.distributed import mesh, sharding
from deepseek_trainer.distributed.choice import mesh_of
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, lost_peer
from deepseek_trainer.errors import PreemptedError, RollbackError
from deepseek_trainer.evaluate import validation_loss
from deepseek_trainer.logs import fields
from deepseek_trainer.model import build, origin
from deepseek_trainer.model.balance import Load, Routing
from deepseek_trainer.model.origin import Origin
from deepseek_trainer.optim.guard import Guard
from deepseek_trainer.optim.loss import summed_objective
from deepseek_trainer.optim.update import Update
from deepseek_trainer.progress import Pace, Progress
from deepseek_trainer.signals import StopSignal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What one start of training works with; everything that stays the same from step to step."""

    config: RunConfig
    world: World
    progress: Progress
    data: Data
    model: Any
    update: Update
    guard: Guard
    routing: Routing
    waits: Waits
    home: Home | None
    """Where checkpoints are; None: nothing is saved."""
    writer: AnyWriter | None
    audit: AuditLog | None
    """None: what is trained is not written down."""


def train(config: RunConfig, world: World, progress: Progress, stop: StopSignal, environ: Mapping[str, str]) -> None:
    """Trains to the last step, from the newest checkpoint if there is one. A collective.

    Raises:
        ConfigError, DataError: the config, the data or a checkpoint is wrong.
        UnavailableError: the volume failed, or a newer generation has taken over.
        PreemptedError: SIGTERM arrived and the state was saved.
        TrainerError: a step would do harm, and the guard has no other answer; RollbackError: it goes back.
    """
    training = config.trainer.training
    run, ledger, found = _set_up(config, world, progress, environ)
    saver = _saver(run, _resume(run, ledger, found))
    stop.defer()
    with (
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
        while not last:
            rate = run.update.begin(feed.ledger.step)
            run.waits.begin(feed.ledger.step)
            step = feed.next(lambda: stop.requested)
            if step is None:  # a stream is at its end, or SIGTERM came while all waited for it
                last, stopping = feed.ended, not feed.ended
            else:
                loss = _accumulate(run, feed, step)
                # The ranks agree on the loss, on whether to stop after this step, and on how the last save went.
                with run.waits.collective():
                    grad_norm = run.update.clip()
                    own = saver.signs() if saver else ()
                    loss, told_to_stop, *signs = world.total(loss, float(stop.requested), *own)

                refused = _refused(run, feed.ledger, loss=loss, grad_norm=grad_norm)
                if refused is None:
                    run.update.apply(feed.ledger.step)
                else:
                    run.update.leave()
                with run.waits.collective():
                    load = run.routing.balance(moves=refused is None)
                feed.trained()  # a step that was left out has consumed its samples, too

                pace = progress.stepped(feed.ledger.step, step.tokens)
                _tell(run, feed.ledger, loss=loss, lr=rate, grad_norm=grad_norm, pace=pace, refused=refused, load=load)
                feed.paced(pace.busy_s)
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


def _set_up(
    config: RunConfig, world: World, progress: Progress, environ: Mapping[str, str]
) -> tuple[Run, Ledger, load.Found | None]:
    """Data, model and optimizer, the ledger before the first step, and the checkpoint to go on from, if there is one."""
    spec, training = config.trainer, config.trainer.training
    numerics.set_up(training, world.device)
    sizes = mesh_of(spec, world, environ)
    world = replace(world, alike=sizes.tensor)
    progress.update(phase="preparing", total_steps=training.steps)
    data = modes.open_data(config, world, progress, environ)
    source = origin.of(spec, vocab_size=data.vocab_size, device=world.device)
    ledger = data.ledger
    place = home.of(config.checkpoint, tier.opened(config.checkpoint, world, environ)) if config.checkpoint else None
    writer, found, audit = None, None, None
    if place is not None:
        begun = _begin(place, _writer(config, place, world, environ, source.identity()), ledger, config.data)
        found, writer = begun.found, begun.writer
        world.lead(lambda: place.keep_configuration(source.config))
        ledger = _continued(ledger, found, config.data)
        audit = _audit(begun.start, world, config, ledger)
    other = None if found is not None or place is None else _other(config, place, world, source.identity())
    model = source.bare()
    parameters = build.parameter_count(model)
    waits = Waits(progress.pulse, world.device)
    numerics.convert(model, training)
    sharding.shard(model, world, mesh.groups(sizes, world), training, waits)
    _fill(model, source, world, drawn=found is None and other is None, offloaded=training.cpu_offload)
    routing = Routing(model, source.config, spec.model.experts, world.device)
    log.info(
        "set up %s",
        fields(
            job=config.job,
            task=spec.task,
            model=source.name,
            parameters=parameters,
            ranks=world.size,
            mesh=sizes,
            device=world.device.type,
            **data.facts,
            unigram_entropy=data.unigram_entropy,
        ),
    )
    progress.update(unigram_entropy=data.unigram_entropy)
    update, guard = Update(model, spec, world, waits), Guard(training.guard, _left_out(place, writer, ledger, world))
    run = Run(config, world, progress, data, model, update, guard, routing, waits, place, writer, audit)
    if other is not None:
        _begin_with(run, other)
    return run, ledger, found


def _other(config: RunConfig, place: Home, world: World, model: dict[str, Any]) -> load.Found | None:
    """The checkpoint of another job that this one begins with, if it is to; the same on every rank."""
    wanted = config.checkpoint.resume_from if config.checkpoint is not None else None
    if wanted is None:
        return None

    def find() -> load.Found:
        other = place.another(wanted)
        load.require_same_model(other, model, "set trainer.model as that job has it, or remove checkpoint.resumeFrom")
        return other

    return world.lead(find)


def _begin_with(run: Run, other: load.Found) -> None:
    """Takes weights, and the optimizer's state if it is to, from another job; everything else begins anew."""
    assert run.home is not None and run.config.checkpoint is not None  # noqa: S101, PT018
    assert run.config.checkpoint.resume_from is not None  # noqa: S101
    if run.config.checkpoint.resume_from.optimizer:
        saved = state.collect(run.model, run.update.optimizer)
        run.home.read_into(saved, other, run.world)
        state.restore(run.model, run.update.optimizer, saved)
    else:
        weights = state.weights(run.model)
        run.home.read_into(weights, other, run.world)
        state.restore_weights(run.model, weights)
    run.update.restored(lacking=frozenset(run.update.state))
    log.info("begins with %s", fields(path=other.path, step=other.manifest.step))


def _fill(model: Any, source: Origin, world: World, *, drawn: bool, offloaded: bool) -> None:
    """Gives the model's shards the weights that it starts from; fails on all ranks if it fails on one."""
    if drawn:
        world.lead(source.require)
    world.agree(lambda: source.fill(model, world.device, drawn=drawn, offloaded=offloaded), on=lambda world: True)


def _writer(
    config: RunConfig, place: Home, world: World, environ: Mapping[str, str], model: dict[str, Any]
) -> AnyWriter:
    assert config.checkpoint is not None  # noqa: S101  it has a home
    return place.writer(
        job=config.job,
        uid=environ.get(Env.JOB_UID, ""),
        generation=int(environ.get(Env.GENERATION) or 1),
        attempt=int(environ.get(Env.ATTEMPT) or 1),
        keep=config.checkpoint.keep,
        keep_seconds=config.checkpoint.keep_seconds,
        keep_every_steps=config.checkpoint.keep_every_steps,
        model=model,
        world=world,
    )


def _continued(ledger: Ledger, found: load.Found | None, data: DataSpec) -> Ledger:
    """The ledger before the first step of this start."""
    return ledger if found is None else ledger.continued_from(found.manifest.ledger, allow_change=data.allow_change)


def _begin(place: Home, writer: AnyWriter, ledger: Ledger, data: DataSpec) -> Begun:
    """The newest whole checkpoint, the same on every rank; puts on record that training starts."""

    def fits(found: load.Found) -> None:
        load.require_same_model(found, writer.model)
        _continued(ledger, found, data)
        if changes := ledger.changes(found.manifest.ledger):
            log.warning("other data than in %s: %s; a new segment begins", found.path.name, "; ".join(changes))

    return place.begin(writer, audited=data.audit, fits=fits)


def _audit(start: layout.Start, world: World, config: RunConfig, ledger: Ledger) -> AuditLog | None:
    """Where this rank writes down what it trains; None: it is not asked to."""
    if not start.audited or config.checkpoint is None:
        return None
    return AuditLog(Path(config.checkpoint.directory) / layout.AUDIT, Header.of(start, world.rank, ledger.to_json()))


def _resume(run: Run, ledger: Ledger, found: load.Found | None) -> int | None:
    """Takes weights and optimizer to the checkpoint, where the ledger is; its step, if there is one."""
    if found is None or run.home is None:
        return None
    progress = run.progress
    saved = _state(run)
    lacking = run.home.read_into(saved, found, run.world)
    memory = run.writer.memory if run.writer else None
    tally = memory.tally(found.manifest.files, found.kept) if memory else {}
    progress.tokens = found.manifest.tokens
    state.restore(run.model, run.update.optimizer, saved)
    run.update.restored(lacking)
    log.info(
        "resumed %s",
        fields(step=ledger.step, path=found.path, saved_by=found.manifest.world_size, chain=ledger.chain, **tally),
    )
    progress.update(
        step=ledger.step,
        epoch=ledger.epoch,
        position=ledger.position,
        chain=ledger.chain,
        resumed_step=ledger.step,
        resumed_from=str(found.path),
        restored_bytes=RestoredBytes(**tally) if memory else None,
        passed_over=tuple(text[:PASSED_OVER_LENGTH] for text in found.passed_over[:PASSED_OVER_MAX]) or None,
        checkpoint=save.info(found.path, found.manifest, verified=True),
    )
    return ledger.step


def _state(run: Run) -> dict[str, Any]:
    """All that is saved, as it is now."""
    return state.collect(run.model, run.update.optimizer, {**run.update.state, "guard": run.guard.state})


def _left_out(place: Home | None, writer: AnyWriter | None, ledger: Ledger, world: World) -> frozenset[int]:
    """The steps that a rollback has left out, the same on every rank."""
    if place is None or writer is None:
        return frozenset()
    return world.lead(lambda: place.left_out(writer.uid, ledger.to_json()))


def _saver(run: Run, saved_step: int | None) -> Saver | None:
    """What saves, from the step of the checkpoint on that training goes on from."""
    if run.home is None or run.writer is None or run.config.checkpoint is None:
        return None
    return Saver(
        run.config.checkpoint,
        run.writer,
        run.progress,
        lambda: _state(run),
        audit=run.audit,
        saved_step=saved_step,
        past=run.home.past(run.writer.uid) if run.world.leader else None,
    )


def _accumulate(run: Run, feed: Feed, step: Step) -> float:
    """This rank's part of the gradient of the whole batch, by the loss scale; its part of the mean loss."""
    scale = run.update.scale
    summed = torch.zeros((), dtype=torch.float64, device=run.world.device)
    spec = run.config.trainer
    for i in range(step.micro_steps):
        sharding.sync_on_last(run.model, run.config.trainer.training, last=i == step.micro_steps - 1)
        micro_batch = feed.micro_batch()
        run.progress.pulse.tick()  # before and after what waits for the others
        loss, minimized = summed_objective(
            run.model,
            micro_batch,
            z_loss=spec.training.z_loss,
            routing=run.routing,
            further_weight=spec.model.multi_token.loss_weight,
        )
        (minimized * (scale * run.world.data_size / step.targets)).backward()  # FSDP takes the mean over the ranks
        summed += loss.detach()
        run.progress.pulse.tick()
    return float(summed) / step.targets if run.world.counts else 0.0


def _refused(run: Run, ledger: Ledger, *, loss: float, grad_norm: float) -> str | None:
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


def _evaluate(run: Run, feed: Feed) -> None:
    run.progress.update(phase="evaluating")
    with run.update.evaluated_weights():
        loss = validation_loss(run.model, feed.held_out(), run.world, tick=run.progress.pulse.tick)
    if loss is not None:
        entropy = run.data.unigram_entropy
        log.info("evaluated %s", fields(step=feed.ledger.step, validation_loss=loss, unigram_entropy=entropy))
    run.progress.update(phase="training", validation_loss=loss)
    run.progress.started()


def _tell(
    run: Run,
    ledger: Ledger,
    *,
    loss: float,
    lr: float,
    grad_norm: float,
    pace: Pace,
    refused: str | None,
    load: Load | None,
) -> None:
    """Logs and reports a step."""
    log.info(
        fields(
            step=ledger.step,
            loss=loss,
            lr=lr,
            grad_norm=grad_norm,
            tokens_per_second=round(pace.tokens_per_second),
            data_wait=pace.data_wait,
            epoch=ledger.epoch,
            **({} if load is None else {"expert_max_violation": load.max_violation, "expert_dropped": load.dropped}),
        )
    )
    if refused is not None:
        log.warning("left out %s: %s", fields(step=ledger.step, left_out=run.guard.skipped), refused)
    steps_left = run.config.trainer.training.steps - ledger.step
    run.progress.update(
        phase="training",
        step=ledger.step,
        loss=loss if math.isfinite(loss) else None,
        skipped_steps=run.guard.skipped,
        tokens_per_second=pace.tokens_per_second,
        eta_seconds=steps_left * pace.step_s,
        data_wait=pace.data_wait,
        epoch=ledger.epoch,
        position=ledger.position,
        chain=ledger.chain,
        experts=None if load is None else Experts(**asdict(load)),
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
