"""A pipeline's stages: runs of neighbouring layers, the embedding before the first and the output layer behind the last.

Stage s is of rank s % ranks of the pipeline, or they go down the ranks and up again (`Mesh.place_of`): with several stages a rank
has layers from all over the stack.

Rule: a rank keeps the model that it was, without the layers of others: names of parameters are those of the whole model,
and so are first weights and checkpoints. The last stage has the embedding as well where it needs it: as the output layer, or for the
modules that predict further tokens, which are behind its layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from deepseek_trainer.config.mesh import Mesh


class _Anatomy(NamedTuple):
    """How transformers calls the parts of a decoder."""

    layers: str
    norm: str
    embeddings: tuple[str, ...]
    """That of the tokens first."""


_USUAL, _GPT2 = _Anatomy("layers", "norm", ("embed_tokens",)), _Anatomy("h", "ln_f", ("wte", "wpe"))
_ANATOMY: Mapping[str, _Anatomy] = {"gpt2": _GPT2}


class Cut:
    """What a rank has of a model, and how it computes with one of its stages.

    Attributes:
        own: its stages, in their order.
        shares: whether it has the embedding, and another rank has it too: the first and the last.
        elsewhere: names of the parameters that other ranks have.
    """

    def __init__(self, model: Any, mesh: Mesh, place: int) -> None:
        """Takes the layers of others out of the model, in place; to be called before it is sharded.

        Args:
            model: a causal language model of transformers.
            place: this rank's, in the pipeline.
        """
        self.stages = mesh.stages
        self.own = tuple(mesh.stages_of(place))
        self._base, self._anatomy = model.base_model, _ANATOMY.get(model.config.model_type, _USUAL)
        self._forward = model.forward
        names = {name for name, _ in model.named_parameters()}
        stack, tied = getattr(self._base, self._anatomy.layers), bool(model.config.tie_word_embeddings)
        self._further = len(getattr(model, "further", ()))
        layers = len(stack) - self._further
        first, last = self.own[0] == 0, self.own[-1] == mesh.stages - 1
        self.shares = (tied or self._further > 0) and first != last
        runs = {stage: mesh.layers_of(stage, layers) for stage in self.own}
        self._layers = {stage: nn.ModuleList(stack[i] for i in run) for stage, run in runs.items()}
        kept = {i for run in runs.values() for i in run} | set(range(layers, len(stack)) if last else ())
        for i in set(range(len(stack))) - kept:
            del stack._modules[str(i)]  # by name, as a list would number what is left anew
        if not first:
            for name in self._anatomy.embeddings[1 if last and self.shares else 0 :]:
                setattr(self._base, name, None)
        if not last:
            setattr(self._base, self._anatomy.norm, None)
            model.lm_head, model.further = None, ()
        if not (first and last):
            model.tie_weights = model.tie_weights if last and tied else lambda *arguments, **named: None
        self.elsewhere = frozenset(names - {name for name, _ in model.named_parameters()})
        model.forward = self.forward

    def forward(self, stage: int, rows: torch.Tensor, positions: torch.Tensor | None, tokens: torch.Tensor) -> Any:
        """What a stage makes of the rows: what the next one is given, shape (rows, width, hidden), or the model's answer.

        Args:
            rows: tokens, int64, shape (rows, width), for the first stage; else what the one before has made.
            positions: of the tokens, as `MicroBatch.positions`.
            tokens: these, for any stage.
        """
        given = {"input_ids" if stage == 0 else "inputs_embeds": rows, "position_ids": positions, "use_cache": False}
        with self._only(stage):
            if stage == self.stages - 1:
                if self._further:
                    given["input_ids"] = tokens
                return self._forward(**given)
            made: torch.Tensor = self._base(**given).last_hidden_state
        return made.clone() if made._is_view() else made  # FSDP's hooks are on it

    @contextmanager
    def _only(self, stage: int) -> Iterator[None]:
        """In here the decoder has this stage's parts alone."""
        modules, kept = self._base._modules, dict(self._base._modules)
        modules[self._anatomy.layers] = self._layers[stage]
        if stage < self.stages - 1:
            modules[self._anatomy.norm] = nn.Identity()
        if stage > 0:
            modules.update(dict.fromkeys(self._anatomy.embeddings[1:], _Nothing()))
        try:
            yield
        finally:
            modules.update(kept)


class _Nothing(nn.Module):
    """Stands for learned positions, which have been added already."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=positions.device)
