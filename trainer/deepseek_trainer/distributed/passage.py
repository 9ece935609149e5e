"""A step's micro-batches on their way through one rank's stages: what is kept, what is sent, what has arrived.

Rule: what a stage was given and what it made is kept until its backward pass, and what a gradient of weights is made of until
that is computed; nothing longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from deepseek_trainer.data.samples import MicroBatch
from deepseek_trainer.distributed.deferred import Deferral, Later
from deepseek_trainer.distributed.order import Act

if TYPE_CHECKING:
    from deepseek_trainer.distributed.pipeline import Minimized, Pipeline


class Passage:
    """The micro-batches of one step on their way through this rank's stages.

    Attributes:
        loss: sum of the losses so far, fp64.
    """

    def __init__(self, pipeline: Pipeline, batches: list[MicroBatch]) -> None:
        """Args: batches: whole ones that have begun; see `Context`."""
        self._pipeline, self._batches = pipeline, batches
        self._own = [pipeline.context.own(batch) for batch in batches]
        self.loss = torch.zeros((), dtype=torch.float64, device=batches[0].inputs.device)
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        """What a stage was given and what it made of it, until its backward pass."""
        self._made: dict[tuple[str, int, int], torch.Tensor] = {}
        """To be sent."""
        self._coming: dict[tuple[str, int, int], tuple[dist.Work | None, torch.Tensor]] = {}
        """What arrives, or is here already, of another stage of this rank."""
        self._going: list[tuple[dist.Work, torch.Tensor]] = []
        self._later: dict[tuple[int, int], Later] = {}

    def forward(self, act: Act, objective: Minimized) -> None:
        stage, batch = act.stage, self._own[act.batch]
        given = batch.inputs if stage == 0 else self._arrived("F", act).requires_grad_(torch.is_grad_enabled())
        made = self._pipeline.computed(stage, given, batch)
        if self._pipeline.is_last(stage):
            loss, made = objective(made, self._batches[act.batch])
            self.loss += loss.detach()
        else:
            self._give(act, "F", made.detach().contiguous())
        self._kept[stage, act.batch] = given, made

    def forget(self, act: Act) -> None:
        """There will be no backward pass."""
        del self._kept[act.stage, act.batch]

    def backward(self, act: Act) -> None:
        given, made = self._kept.pop((act.stage, act.batch))
        made.backward(None if self._pipeline.is_last(act.stage) else self._arrived("B", act))
        if act.stage > 0:
            assert given.grad is not None  # noqa: S101
            self._give(act, "B", given.grad.contiguous())

    def backward_inputs(self, act: Act, deferral: Deferral) -> None:
        """As `backward`, without the gradients of weights."""
        with deferral.left_out() as self._later[act.stage, act.batch]:
            self.backward(act)

    def backward_weights(self, act: Act) -> None:
        """These."""
        later = self._later.pop((act.stage, act.batch))
        while later:
            later.pop()()  # frees what it was made of

    def pass_on(self, act: Act) -> None:
        """Sends or receives; who needs what was received waits for it."""
        kind, way = act.what.split("_")
        key = (way, act.stage, act.batch)
        other = act.stage + (1 if (kind == "SEND") == (way == "F") else -1)
        if kind == "SEND":
            tensor = self._made.pop(key)
            self._going = [(work, sent) for work, sent in self._going if not work.is_completed()]
            self._going.append((self._pipeline.sent(tensor, other), tensor))
        else:
            tensor = self._pipeline.arriving(self._own[act.batch])
            self._coming[key] = self._pipeline.received(tensor, other), tensor

    def end(self) -> None:
        """All that was sent has arrived."""
        for work, _ in self._going:
            self._pipeline.waited(work)

    def _give(self, act: Act, way: str, tensor: torch.Tensor) -> None:
        """To the stage behind, or with a gradient to the one before."""
        other = act.stage + (1 if way == "F" else -1)
        if self._pipeline.has(other):
            self._coming[way, other, act.batch] = None, tensor
        else:
            self._made[way, act.stage, act.batch] = tensor

    def _arrived(self, way: str, act: Act) -> torch.Tensor:
        work, tensor = self._coming.pop((way, act.stage, act.batch))
        if work is not None:
            self._pipeline.waited(work)
        return tensor
