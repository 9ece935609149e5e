"""`dsj plan`: what a job would cost each GPU, from its manifest alone. Needs the trainer's formulas, and no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deepseek_operator.api.v1alpha1 import DeepSeekJob
from deepseek_operator.render import run_config_json
from deepseek_trainer.config import ConfigError, RunConfig
from deepseek_trainer.plan import explain
from deepseek_trainer.plan.choose import choose
from deepseek_trainer.plan.estimate import estimate
from deepseek_trainer.plan.hardware import GPUS, USUAL, of_product
from deepseek_trainer.plan.job import refusal, workload

from deepseek_client.errors import ClientError

PRODUCT = "nvidia.com/gpu.product"


def told(job: DeepSeekJob, gpu: str | None, model_config: Path | None) -> list[str]:
    """What there is to say of a job whose spec is resolved.

    Args:
        gpu: a name in GPUS; None: the one that the workers' node selector names, or the usual one.
        model_config: config.json of the model, where the manifest doesn't say what it is (task finetune).

    Raises:
        ClientError: it isn't known what is trained, or on what; or the mesh doesn't fit, with what to change.
    """
    try:
        return list(_lines(job, gpu, model_config))
    except ConfigError as error:
        raise ClientError(str(error)) from error


def _lines(job: DeepSeekJob, gpu: str | None, model_config: Path | None) -> Iterator[str]:
    wire = run_config_json(job)
    if wire is None:
        raise ClientError("only the built-in trainer can be planned; with entrypoint, the script knows what it does")
    config, workers = RunConfig.model_validate_json(wire), job.spec.workers
    spec = config.trainer
    if spec.task == "finetune" and model_config is None:
        raise ClientError("with task finetune the model is on a volume: give its config.json with --model-config")
    work, parts = workload(spec, model_config)
    name = gpu or of_product(workers.node_selector.get(PRODUCT, "")) or USUAL
    if name not in GPUS:
        raise ClientError(f"--gpu {name}: not known; one of {', '.join(GPUS)}")
    per_node = workers.processes()
    ranks = workers.replicas * per_node
    if spec.parallelism.auto:
        choice = choose(work, refusal(config, parts), ranks, GPUS[name], per_node=per_node)
        cost = choice.cost
        yield f"parallelism.auto takes {cost.mesh}"
        yield from explain.compared(choice, GPUS[name])
    else:
        mesh = spec.parallelism.mesh(ranks)
        parts.require(mesh)
        cost = estimate(work, mesh, GPUS[name], per_node=per_node)
    yield from explain.lines(work, cost, GPUS[name], name, per_node=per_node)
