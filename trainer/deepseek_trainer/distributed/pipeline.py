"""Pipeline parallelism: the micro-batches of a step go through the stages, forward and back, in the order of `order`.

All ranks of a pipeline are given the same micro-batches, so each knows the shape of what will arrive, and micro-batches
need not be of one shape. What travels are activations and their gradients, in the type that the model computes in.

Rule: gradients are summed and scaled as without a pipeline; FSDP sums them over its ranks in this rank's last backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from deepseek_trainer.config import TrainingSpec
from deepseek_trainer.config.parallelism import Divisible
from deepseek_trainer.data.samples import MicroBatch, nothing
from deepseek_trainer.distributed import order, sharding, shards
from deepseek_trainer.distributed.context import WHOLE, Context
from deepseek_trainer.distributed.deferred import Deferral
from deepseek_trainer.distributed.mesh import Groups
from deepseek_trainer.distributed.order import Act
from deepseek_trainer.distributed.passage import Passage
from deepseek_trainer.distributed.stages import Cut
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World
from deepseek_trainer.model.balance import Routing
from deepseek_trainer.optim.loss import Objective

log = logging.getLogger(__name__)

Minimized = Callable[[Any, MicroBatch], Objective]
"""The objective of what the model has made of this rank's part of a micro-batch, and of the whole micro-batch."""


class Pipeline:
    """One rank's place in a pipeline. All ranks call the same methods with the same micro-batches."""

    def __init__(self, model: Any, groups: Groups, world: World, training: TrainingSpec, waits: Waits) -> None:
        """Cuts the model, which is to be sharded and filled after that.

        Raises:
            ConfigError: it can't be cut so.
        """
        assert groups.pipeline is not None  # noqa: S101
        Divisible.of(model.config).require(groups.mesh)
        self._model, self._mesh, self._training, self._waits = model, groups.mesh, training, waits
        self._group, self._place = groups.pipeline.get_group(), groups.pipeline.get_local_rank()
        self._device, self._dtype = world.device, sharding.COMPUTED.get(training.precision, torch.float32)
        self._width = model.config.hidden_size
        self.cut = Cut(model, groups.mesh, self._place)
        self._deferral = Deferral()
        self.context = WHOLE
        self._told = not world.leader

    def filled(self, context: Context) -> None:
        """The model is sharded and has its weights.

        Args:
            context: which part of each sequence it computes; what is sent is of that part.
        """
        self.context = context
        if self.cut.shares:
            shards.share_over_stages(self._model.get_input_embeddings().weight)
        if self._mesh.splits_backward:
            self._deferral.put_into(self._model)

    def gradient(
        self,
        batches: list[MicroBatch],
        objective: Minimized,
        *,
        weight: float,
        routing: Routing,
        tick: Callable[[], None],
    ) -> torch.Tensor:
        """Accumulates this rank's part of the gradient of the sum of the objectives; the sum of the losses, fp64, where
        the last stage is, else 0. A collective.

        Args:
            weight: by which the objectives are multiplied.
            tick: called before and after what waits for the others.
        """
        self._tell(len(batches))
        filled = order.suitable(self._mesh, len(batches))
        length = self._training.sequence_length
        batches = batches + [nothing(length).to(self._device) for _ in range(filled - len(batches))]
        batches = [self.context.begin(batch) for batch in batches]
        acts = order.training(self._mesh, filled)[self._place]
        left = sum(act.what in ("B", "W") for act in acts)
        step = Passage(self, batches)
        routing.weigh(weight)
        for act in acts:
            if act.what in ("F", "B", "I"):
                tick()
                self.context.begin(batches[act.batch])  # a backward pass may compute the layers again
                routing.begin(batches[act.batch])
            if act.what == "F":
                with self._waits.part("forward"):
                    step.forward(act, lambda made, batch: _weighted(objective(made, batch), weight))
            elif act.what in ("B", "I", "W"):
                left -= act.what != "I"
                with self._waits.part("backward"):
                    self._backward(step, act, last=left == 0)
            else:
                step.pass_on(act)
        step.end()
        self._sum_shared()
        tick()
        return step.loss

    def _backward(self, step: Passage, act: Act, *, last: bool) -> None:
        """Args: last: all of this rank's gradients are there then."""
        if act.what == "I":
            sharding.hold_gradients(self._model)
            step.backward_inputs(act, self._deferral)
        elif act.what == "W":
            step.backward_weights(act)
            sharding.add_held(self._model, self._training, last=last)
        else:
            sharding.sync_on_last(self._model, self._training, last=last)
            step.backward(act)

    def _tell(self, batches: int) -> None:
        """Says once that a step has too few micro-batches for all stages to work."""
        if batches < self._mesh.pipeline and not self._told:
            self._told = True
            log.warning(
                "a step has %d micro-batches for the %d groups of the pipeline, which wait for most of it; lower "
                "trainer.training.microBatchSize, raise globalBatchSize, or take a smaller parallelism.pipeline",
                batches,
                self._mesh.pipeline,
            )

    @torch.no_grad()
    def loss(self, batches: Iterable[MicroBatch], objective: Minimized, *, tick: Callable[[], None]) -> torch.Tensor:
        """The sum of the losses, without a gradient, where the last stage is, else 0. A collective."""
        total, rest = torch.zeros((), dtype=torch.float64, device=self._device), iter(batches)
        while some := [self.context.begin(batch.to(self._device)) for batch in islice(rest, 2 * self._mesh.pipeline)]:
            step = Passage(self, some)
            for act in order.forward(self._mesh, len(some))[self._place]:
                if act.what == "F":
                    self.context.begin(some[act.batch])
                    step.forward(act, objective)
                    step.forget(act)
                    tick()
                else:
                    step.pass_on(act)
            step.end()
            total += step.loss
        return total

    def logits(self, batch: MicroBatch) -> torch.Tensor | None:
        """The model's, of this rank's part, where the last stage is, else None. A collective."""
        found: list[torch.Tensor] = []
        none = torch.zeros((), device=self._device)

        def keep(output: Any, _: MicroBatch) -> Objective:
            found.append(output.logits)
            return Objective(none, none)

        self.loss([batch], keep, tick=lambda: None)
        return found[0] if found else None

    def computed(self, stage: int, rows: torch.Tensor, batch: MicroBatch) -> Any:
        """What a stage makes of what it was given; see `Cut.forward`."""
        return self._model(stage, rows, batch.positions, batch.inputs)

    def arriving(self, batch: MicroBatch) -> torch.Tensor:
        """Memory for what a stage gets of another."""
        return torch.empty((*batch.inputs.shape, self._width), dtype=self._dtype, device=self._device)

    def waited(self, work: dist.Work) -> None:
        with self._waits.collective():
            work.wait()

    def is_last(self, stage: int) -> bool:
        return stage == self._mesh.stages - 1

    def has(self, stage: int) -> bool:
        """Whether it is this rank's."""
        return stage in self.cut.own

    def sent(self, tensor: torch.Tensor, stage: int) -> dist.Work:
        work = dist.isend(tensor, group=self._group, group_dst=self._mesh.place_of(stage))
        assert work is not None  # noqa: S101  this rank is in the group
        return work

    def received(self, tensor: torch.Tensor, stage: int) -> dist.Work:
        work = dist.irecv(tensor, group=self._group, group_src=self._mesh.place_of(stage))
        assert work is not None  # noqa: S101
        return work

    @torch.no_grad()
    def _sum_shared(self) -> None:
        """An embedding that two ranks have gets the gradient of both, in the same order on both ends."""
        if not self.cut.shares:
            return
        weight = self._model.get_input_embeddings().weight
        own = shards.local(weight.grad)
        mine = own.to(self._device).contiguous()
        other = torch.empty_like(mine)
        first = self._place == 0
        with self._waits.collective():
            works = [
                self.sent(mine, self._mesh.stages - 1 if first else 0),
                self.received(other, self._mesh.stages - 1 if first else 0),
            ][:: 1 if first else -1]
            for work in works:
                work.wait()
        own.copy_(mine + other if first else other + mine)


def _weighted(objective: Objective, weight: float) -> Objective:
    return Objective(objective.loss, objective.minimized * weight)
