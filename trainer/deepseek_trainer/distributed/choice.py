"""The mesh that a run takes: what the config says, or, with `parallelism: {auto: true}`, what the formulas choose."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from deepseek_trainer.config import RunConfig
from deepseek_trainer.config.mesh import Mesh
from deepseek_trainer.config.parallelism import ParallelismSpec
from deepseek_trainer.distributed.world import World
from deepseek_trainer.plan import explain
from deepseek_trainer.plan.choose import choose
from deepseek_trainer.plan.hardware import GPUS, USUAL, of_product
from deepseek_trainer.plan.job import refusal, workload

log = logging.getLogger(__name__)


def mesh_of(config: RunConfig, world: World, environ: Mapping[str, str]) -> Mesh:
    """The mesh, the same on every rank. A collective.

    Args:
        environ: of torchrun.

    Raises:
        ConfigError: it doesn't fit the world or the GPUs' memory.
    """
    if not config.trainer.parallelism.auto:
        return config.trainer.parallelism.mesh(world.size)
    if world.device.type != "cuda":
        log.info("parallelism.auto: without GPUs all ranks share the weights")
        return ParallelismSpec().mesh(world.size)
    return world.lead(lambda: _chosen(config, world, int(environ.get("LOCAL_WORLD_SIZE", "1"))))


def _chosen(config: RunConfig, world: World, per_node: int) -> Mesh:
    spec = config.trainer
    work, parts = workload(spec, Path(spec.initial_weights.path) / "config.json" if spec.initial_weights else None)
    device = torch.cuda.get_device_properties(world.device)
    name = of_product(device.name)
    gpu = replace(GPUS[name or USUAL], memory=float(device.total_memory))
    choice = choose(work, refusal(config, parts), world.size, gpu, per_node=per_node)
    cost, called = choice.cost, name or f"{device.name} (as fast as {USUAL})"
    log.info("parallelism.auto takes mesh=%s", cost.mesh)
    for line in (*explain.compared(choice, gpu), *explain.lines(work, cost, gpu, called, per_node=per_node)):
        log.info("parallelism.auto: %s", line)
    return cost.mesh
