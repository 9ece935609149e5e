"""What a start of training takes, before its first step: data, model and optimizer, and the checkpoint to go on from.

Each of these is a collective: what one rank finds (on the volume, above all), all have before they go on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deepseek_trainer import numerics, profiling
from deepseek_trainer.checkpoint import author, home, load, state
from deepseek_trainer.checkpoint.home import AnyWriter, Begun, Home
from deepseek_trainer.checkpoint.memory import tier
from deepseek_trainer.checkpoint.saver import Saver
from deepseek_trainer.config import DataSpec, RunConfig, TrainerSpec
from deepseek_trainer.contract import PASSED_OVER_LENGTH, PASSED_OVER_MAX, Env, RestoredBytes
from deepseek_trainer.data import modes
from deepseek_trainer.data.audit.records import Header
from deepseek_trainer.data.audit.writer import AuditLog
from deepseek_trainer.data.feed import Data, Ledger
from deepseek_trainer.distributed import alone, mesh, sharding
from deepseek_trainer.distributed.choice import mesh_of
from deepseek_trainer.distributed.context import Context
from deepseek_trainer.distributed.pipeline import Pipeline
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.logs import fields
from deepseek_trainer.model import build, compiled, norm, origin, rotary, routed
from deepseek_trainer.model.balance import Routing
from deepseek_trainer.model.origin import Origin
from deepseek_trainer.optim.guard import Guard
from deepseek_trainer.optim.update import Update
from deepseek_trainer.profiling import Profiler
from deepseek_trainer.progress import Progress
from deepseek_trainer.sampling import Sampler
from deepseek_trainer.telling import Telling, speed
from deepseek_trainer.tracking import runlog

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one start of training works with; everything that stays the same from step to step."""

    config: RunConfig
    world: World
    progress: Progress
    data: Data
    model: Any
    """In a pipeline without the layers of other ranks."""
    pipeline: Pipeline | None
    update: Update
    guard: Guard
    routing: Routing
    context: Context
    waits: Waits
    home: Home | None
    """Where checkpoints are; None: nothing is saved."""
    writer: AnyWriter | None
    audit: AuditLog | None
    """None: what is trained is not written down."""
    tell: Telling
    sampler: Sampler | None
    """None: nothing is to be written."""
    profiler: Profiler


def set_up(
    config: RunConfig, world: World, progress: Progress, environ: Mapping[str, str]
) -> tuple[Run, Ledger, load.Found | None]:
    """Data, model and optimizer, the ledger before the first step, and the checkpoint to go on from, if there is one."""
    spec, training = config.trainer, config.trainer.training
    numerics.set_up(training, world.device)
    compiled.require(training)
    sizes = mesh_of(config, world, environ)
    world = world.laid_out(sizes)
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
        audit = place.audit(Header.of(begun.start, world.rank, ledger.to_json())) if begun.start.audited else None
    other = None if found is not None or place is None else _other(config, place, world, source.identity())
    model = source.bare()
    parameters = build.parameter_count(model)
    waits = Waits(progress.pulse, world.device)
    numerics.convert(model, training)
    normed = settle(model, spec, world)
    groups = mesh.groups(sizes, world)
    pipeline = Pipeline(model, groups, world, training, waits) if groups.pipeline is not None else None
    context = sharding.shard(model, world, groups, training, waits)
    _fill(model, source, world, drawn=found is None and other is None, offloaded=training.cpu_offload)
    if pipeline is not None:
        pipeline.filled(context)
    routing = Routing(model, source.config, spec.model.experts, world.device, context)
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
            norm=normed,
            **data.facts,
            unigram_entropy=data.unigram_entropy,
        ),
    )
    progress.update(unigram_entropy=data.unigram_entropy)
    update = Update(model, spec, world, waits, pipeline.cut.elsewhere if pipeline is not None else ())
    guard = Guard(training.guard, _left_out(place, writer, ledger, world))
    after = found.manifest.step if found is not None else None
    written = runlog.begin(config, environ, after) if world.leader else None
    tell = Telling(config, world, progress, guard, speed(config, world, source.config, parameters), written)
    samples = spec.evaluation.samples
    profiler = profiling.of(config, world, environ, progress)
    sampler = Sampler(samples, training, world, data.vocabulary, context, pipeline) if samples is not None else None
    run = Run(
        config=config,
        world=world,
        progress=progress,
        data=data,
        model=model,
        pipeline=pipeline,
        update=update,
        guard=guard,
        routing=routing,
        context=context,
        waits=waits,
        home=place,
        writer=writer,
        audit=audit,
        tell=tell,
        sampler=sampler,
        profiler=profiler,
    )
    if other is not None:
        _begin_with(run, other)
    return run, ledger, found


def settle(model: Any, spec: TrainerSpec, world: World) -> norm.How:
    """Has the model's norms, rotary embeddings and experts computed our way, in place, before it is sharded; how norms are."""
    routed.settle(model)
    if spec.training.compile == "none":  # else the compiler sees to it
        rotary.settle(model)
    return norm.settle(model, spec, world, sharding.COMPUTED.get(spec.training.precision, torch.float32))


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
        wanted = state.collect(run.model, run.update.optimizer)
    else:
        wanted = state.weights(run.model)
    run.home.read_into(wanted, other, run.world)
    run.update.restored(lacking=frozenset(run.update.state))
    log.info("begins with %s", fields(path=other.path, step=other.manifest.step))


def _fill(model: Any, source: Origin, world: World, *, drawn: bool, offloaded: bool) -> None:
    """Gives the model's shards the weights that it starts from; fails on all ranks if it fails on one."""
    if drawn:
        world.lead(source.require)
    world.agree(lambda: source.fill(model, world.device, drawn=drawn, offloaded=offloaded), on=lambda world: True)
    alone.settle(model, world)


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


def resume(run: Run, ledger: Ledger, found: load.Found | None) -> int | None:
    """Takes weights and optimizer to the checkpoint, where the ledger is; its step, if there is one."""
    if found is None or run.home is None:
        return None
    progress = run.progress
    lacking = run.home.read_into(_state(run), found, run.world)
    memory = run.writer.memory if run.writer else None
    tally = memory.tally(found.manifest.files, found.kept) if memory else {}
    progress.tokens = found.manifest.tokens
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
        checkpoint=author.info(found.path, found.manifest, verified=True),
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


def saver(run: Run, saved_step: int | None) -> Saver | None:
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
