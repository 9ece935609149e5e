"""`spec.trainer.parallelism`: the device mesh as it is asked for, and what of a model it can share out.

Rule: what is left open fills the world, so that a job whose number of workers changes keeps a valid mesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from deepseek_trainer.config.base import ConfigError, Section
from deepseek_trainer.config.mesh import FIELD, IN_A_V, INTERLEAVED, Mesh, Schedule

Size = Annotated[int, Field(ge=1, le=65_536)]
IN_STAGES = ("deepseek_v3", "deepseek_v2", "qwen2", "llama", "gpt2")
"""Types of models, by transformers' names, that can be cut into stages."""


class ParallelismSpec(Section):
    """The device mesh: how the training processes share the batch and the model.

    Their number (workers.replicas x procPerNode) is pipeline x replicate x shard x context x tensor; expert is a part of
    shard x context.
    """

    auto: bool = Field(
        False,
        description="true: the sizes are chosen when training starts, by the model's parameters, the memory of a GPU and the "
        "number of processes; the log says why. `dsj plan` shows the choice before. The sizes must be left out.",
    )
    replicate: Size | None = Field(
        None,
        description="Groups of processes that have the whole model each, and exchange gradients only (HSDP; DDP with "
        "shard 1). Default: what shard leaves of the processes, or 1.",
    )
    shard: Size | None = Field(
        None,
        description="Processes that share weights, gradients and optimizer state (FSDP2): each has a part of them. With "
        "the processes of a node, weights are gathered within the node. Default: all that the other sizes leave.",
    )
    tensor: Size = Field(
        1,
        description="Processes that share each matrix (attention heads, feed-forward, output) and work on the same rows: "
        "neighbours, best on one node with NVLink. It must divide the attention heads and the widths, and the experts.",
    )
    expert: Size = Field(
        1,
        description="Processes of the shard axis that share the routed experts: tokens travel to the experts' owner and back. "
        "It must divide shard x context and the number of experts.",
    )
    context: Size = Field(
        1,
        description="Processes that divide each sequence of the same rows: each computes its part, and keys and values go "
        "round among them (ring attention). For sequences whose activations are too large for one GPU; attention must be SDPA. "
        "They have a part of the weights each, as those of shard.",
    )
    pipeline: Size = Field(
        1,
        description="Groups of processes that have some of the layers each: the first the embedding too, the last the output. "
        "The micro-batches of a step go through them one after the other, so a step should have several times as many "
        "(globalBatchSize / microBatchSize / the processes that share the batch); only activations travel between the groups, "
        "and they may be on different nodes. DeepSeek-V3 and V2, Qwen2, Llama and GPT-2.",
    )
    pipeline_schedule: Schedule = Field(
        "1F1B",
        description="In which order the micro-batches go through the pipeline. GPipe: all forward, then all backward. 1F1B: a "
        "group keeps the activations of no more micro-batches than there are groups. Interleaved1F1B: the same with several "
        "runs of layers in each group, for less waiting and more traffic. InterleavedZeroBubble, ZBVZeroBubble and DualPipeV "
        "split the backward pass, and compute gradients of weights while they would wait; the last two give each group two runs "
        "of layers, one from each end, so that the first group has the output too.",
    )
    stages_per_process: Annotated[int, Field(ge=2, le=16)] = Field(
        2,
        description="Runs of layers in each group of a pipeline with pipelineSchedule Interleaved1F1B or InterleavedZeroBubble; "
        "for these only.",
    )

    @classmethod
    def of(cls, mesh: Mesh) -> ParallelismSpec:
        """What asks for a mesh."""
        names = ("replicate", "shard", "tensor", "expert", "context", "pipeline")
        runs = {"stages_per_process": mesh.stages // mesh.pipeline} if mesh.stages > mesh.pipeline else {}
        return cls(**{name: getattr(mesh, name) for name in names}, pipeline_schedule=mesh.schedule, **runs)

    @property
    def is_default(self) -> bool:
        """Whether nothing was chosen: FSDP2 over all processes."""
        return self == ParallelismSpec()

    @model_validator(mode="after")
    def _goes_together(self) -> ParallelismSpec:
        if self.auto and not self.model_copy(update={"auto": False}).is_default:
            raise ValueError("auto chooses the sizes itself; remove them, or set auto to false")
        if self.shard is not None and (self.shard * self.context) % self.expert:
            raise ValueError("expert doesn't divide shard x context, of which it is a part; change one of them")
        return self

    def mesh(self, ranks: int) -> Mesh:
        """The mesh of a world of so many ranks.

        Raises:
            ConfigError: they can't be laid out so; says which size to change.
        """
        data, whole = ranks, f"the {ranks} processes"
        for name, size in (("pipeline", self.pipeline), ("tensor", self.tensor), ("context", self.context)):
            if data % size:
                raise _misfit(name, size, whole, _divisors(data))
            data, whole = data // size, whole + (f" / {name} {size}" if size > 1 else "")
        if self.shard is None:
            replicate = self.replicate or 1
            if data % replicate:
                raise _misfit("replicate", replicate, whole, _divisors(data))
            shard = data // replicate
        else:
            shard, replicate = self.shard, self.replicate or data // self.shard
            if data % shard:
                raise _misfit("shard", shard, whole, _divisors(data))
            if replicate * shard != data:
                pipeline = f"pipeline {self.pipeline} x " if self.pipeline > 1 else ""
                context = f" x context {self.context}" if self.context > 1 else ""
                raise ConfigError(
                    f"{FIELD}: {pipeline}replicate {replicate} x shard {shard}{context} x tensor {self.tensor} is "
                    f"{replicate * shard * ranks // data}, and there are {ranks} processes (workers.replicas x procPerNode); "
                    "leave replicate or shard out, and it takes what is left"
                )
        if shard * self.context % self.expert:
            of = f"shard {shard}" + (f" x context {self.context}" if self.context > 1 else "")
            raise _misfit("expert", self.expert, of, _divisors(shard * self.context))
        each = self.stages_per_process if self.pipeline_schedule in INTERLEAVED else 1
        each = 2 if self.pipeline_schedule in IN_A_V else each
        stages = self.pipeline * each if self.pipeline > 1 else 1
        return Mesh(
            replicate, shard, self.tensor, self.expert, self.pipeline, self.pipeline_schedule, stages, self.context
        )


@dataclass(frozen=True)
class Divisible:
    """What of a model can be shared out.

    Attributes:
        parts: sizes that the tensor axis must divide, by how they are called.
        experts: routed experts in a layer; None: it has none.
        layers: that a pipeline can share; None: not known.
        kind: the model's type, by transformers' name; None: not known.
        attentions: how layers attend, by transformers' names; empty: it says nothing, and all attend to everything.
    """

    parts: Mapping[str, int]
    experts: int | None
    layers: int | None = None
    kind: str | None = None
    attentions: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: Any) -> Divisible:
        """Of a model's config, by transformers' names."""

        def get(*names: str) -> int | None:
            return next((value for name in names if (value := getattr(config, name, None))), None)

        experts = get("n_routed_experts", "num_local_experts", "num_experts")
        shared, width = get("n_shared_experts"), get("moe_intermediate_size")
        parts = {
            "attention heads": get("num_attention_heads"),
            "key-value heads": get("num_key_value_heads"),
            "width of the feed-forward": get("intermediate_size"),
            "width of the shared experts": shared * width if experts and shared and width else None,
        }
        if getattr(config, "model_type", None) == "gpt2":
            parts = {"matrices, which say nowhere how they are shared out": 1}
        known = {name: size for name, size in parts.items() if size}
        attentions = frozenset(getattr(config, "layer_types", None) or ())
        kind = getattr(config, "model_type", None)
        return cls(known, experts, get("num_hidden_layers", "n_layer"), kind, attentions)

    def require(self, mesh: Mesh) -> None:
        """Raises ConfigError, with the sizes that are possible, if the model can't be shared out over the mesh."""
        if mesh.expert > 1 and self.experts is None:
            raise ConfigError(f"{FIELD}.expert: {mesh.expert}, but the model has no routed experts; remove it")
        spread = mesh.expert * mesh.tensor
        if self.experts is not None and self.experts % spread:
            name = "expert" if mesh.tensor == 1 else "expert x tensor" if mesh.expert > 1 else "tensor"
            raise _misfit(name, spread, f"the {self.experts} routed experts of a layer", _divisors(self.experts))
        for what, size in self.parts.items():
            if size % mesh.tensor:
                raise _misfit("tensor", mesh.tensor, f"the model's {what} ({size})", _divisors(size))
        if mesh.context > 1 and (others := self.attentions - {"full_attention"}):
            raise ConfigError(
                f"{FIELD}.context: the model has layers of {', '.join(sorted(others))}, which need whole sequences; set "
                "context to 1"
            )
        if mesh.pipeline > 1:
            self._require_stages(mesh)

    def _require_stages(self, mesh: Mesh) -> None:
        if len(self.attentions) > 1:
            raise ConfigError(
                f"{FIELD}.pipeline: the layers of this model attend in different ways ({', '.join(sorted(self.attentions))}), "
                "and a stage can't know which of them are its own; set pipeline to 1"
            )
        if self.kind is not None and self.kind not in IN_STAGES:
            raise ConfigError(
                f"{FIELD}.pipeline: it is not known how a model of type {self.kind} is cut into stages (known are "
                f"{', '.join(IN_STAGES)}); set pipeline to 1"
            )
        if self.layers is not None and self.layers < mesh.stages:
            each = mesh.stages // mesh.pipeline
            runs = f" x stagesPerProcess {each}" if mesh.schedule in INTERLEAVED else ""
            runs = f" x 2 runs of layers with {mesh.schedule}" if mesh.schedule in IN_A_V else runs
            raise ConfigError(
                f"{FIELD}.pipeline: {mesh.pipeline}{runs} is more than the model's {self.layers} layers; each run has one at "
                f"least: take a pipeline of {self.layers // each} or less"
            )


def _misfit(name: str, size: int, what: str, possible: list[int]) -> ConfigError:
    shown = ", ".join(map(str, possible[:12]))
    return ConfigError(f"{FIELD}.{name}: {size} does not divide {what}; take one of {shown}")


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
