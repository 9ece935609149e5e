"""What the model writes: texts that go on from given prompts, after an evaluation, so that people see what it has learned.

All ranks compute each forward pass together, of the same rows, as their shards belong to one model; which token comes next
is one rank's choice, in a pipeline of the last stage. Nothing of training is touched: no shared random numbers, no gradients,
and the mode is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from deepseek_trainer.config import SamplesSpec, TrainingSpec
from deepseek_trainer.data.samples import IGNORED, MicroBatch
from deepseek_trainer.data.tokenizer import end_of_text
from deepseek_trainer.distributed.context import WHOLE, Context
from deepseek_trainer.distributed.pipeline import Pipeline
from deepseek_trainer.distributed.world import World


class Sample(NamedTuple):
    """A prompt, and what the model writes behind it."""

    prompt: str
    text: str


class Sampler:
    """The prompts of a run, as token ids on every rank."""

    def __init__(
        self,
        spec: SamplesSpec,
        training: TrainingSpec,
        world: World,
        vocabulary: Path,
        context: Context = WHOLE,
        pipeline: Pipeline | None = None,
    ) -> None:
        """A collective.

        Args:
            vocabulary: file of the tokenizer; rank 0 reads it.
            context: which part of each row is this rank's.
            pipeline: that the model is a part of.
        """
        self._spec, self._training, self._world, self._vocabulary = spec, training, world, vocabulary
        self._context, self._pipeline = context, pipeline
        self._end, self._prompts = world.lead(self._encoded)

    def sample(self, model: Any, step: int, *, tick: Callable[[], None] = lambda: None) -> list[Sample]:
        """What the model writes after this step; empty on all ranks but 0. A collective.

        The same step has the same texts, if the weights are the same.

        Args:
            tick: called after each forward pass.
        """
        generator = torch.Generator().manual_seed((self._training.seed + step) % 2**63)
        written: list[list[int]] = []
        at_once = self._training.micro_batch_size  # no more memory than training takes
        model.eval()
        for first in range(0, len(self._prompts), at_once):
            written += self._continued(model, self._prompts[first : first + at_once], generator, tick)
        model.train()
        return self._decoded(written) if self._world.leader else []

    @torch.no_grad()
    def _continued(
        self, model: Any, prompts: Sequence[list[int]], generator: torch.Generator, tick: Callable[[], None]
    ) -> list[list[int]]:
        """What comes behind each. Each pass computes the rows anew, all to the same width: no model needs a cache for it."""
        rows, new = [list(prompt) for prompt in prompts], self._spec.new_tokens
        width = min(self._training.sequence_length, max(map(len, rows)) + new - 1)
        for _ in range(new):
            seen = [row[-width:] for row in rows]
            # What fills a row up is behind its last token, where a causal model doesn't look.
            inputs = torch.tensor([row + [self._end] * (width - len(row)) for row in seen], device=self._world.device)
            logits = self._answer(model, MicroBatch(inputs, torch.full_like(inputs, IGNORED), None))
            last = torch.tensor([len(row) - 1 for row in seen], device=self._world.device)
            chosen = self._chosen(last, None if logits is None else self._context.at(logits, last), generator)
            for row, token in zip(rows, chosen, strict=True):
                row.append(token)
            tick()
        return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]

    def _answer(self, model: Any, batch: MicroBatch) -> torch.Tensor | None:
        """The logits of this rank's part; None: another rank of the pipeline has them."""
        if self._pipeline is not None:
            return self._pipeline.logits(batch)
        own = self._context.own(self._context.begin(batch))
        logits: torch.Tensor = model(input_ids=own.inputs, position_ids=own.positions, use_cache=False).logits
        return logits

    def _chosen(self, last: torch.Tensor, logits: torch.Tensor | None, generator: torch.Generator) -> list[int]:
        """The next token of each row, on all ranks what the first that knows the logits has chosen.

        Args:
            last: places of the last tokens, int64, shape (rows,).
        """
        if logits is None:
            chosen = torch.empty_like(last)
        elif self._spec.temperature:
            shares = torch.softmax(logits.double().cpu() / self._spec.temperature, dim=-1)
            chosen = torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)
        else:
            chosen = logits.argmax(dim=-1)
        dist.broadcast(chosen, src=self._world.end * self._world.stage_size)
        tokens: list[int] = chosen.tolist()
        return tokens

    def _encoded(self) -> tuple[int, list[list[int]]]:
        """The token that ends a text, and the prompts; one without tokens begins where a text has ended."""
        tokenizer = Tokenizer.from_file(str(self._vocabulary))
        end = end_of_text(tokenizer)
        encoded = tokenizer.encode_batch(list(self._spec.prompts), add_special_tokens=False)
        return end, [one.ids[-self._training.sequence_length :] or [end] for one in encoded]

    def _decoded(self, written: Sequence[list[int]]) -> list[Sample]:
        tokenizer = Tokenizer.from_file(str(self._vocabulary))
        texts = [ids[: ids.index(self._end)] if self._end in ids else ids for ids in written]
        return [
            Sample(prompt, tokenizer.decode(ids, skip_special_tokens=False))
            for prompt, ids in zip(self._spec.prompts, texts, strict=True)
        ]
