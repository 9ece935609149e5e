"""One rank of a world that trains small models under many meshes, one after the other, and compares each with one process.

Under each mesh: two steps, a checkpoint, one more step; the same one again from the checkpoint of the mesh before, and
from its own. Every rank computes the reference itself. Rank 0 prints a line of JSON a mesh.

$LAYOUTS: a list of {"model": of `MODELS`, "parallelism": …, "training": …}, as JSON; $CHECKPOINTS: a folder.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deepseek_trainer import start
from deepseek_trainer.checkpoint import load, state
from deepseek_trainer.config import ExpertsSpec, OptimizerSpec, TrainerSpec
from deepseek_trainer.config.parallelism import ParallelismSpec
from deepseek_trainer.data import deal
from deepseek_trainer.data.samples import MicroBatch, nothing
from deepseek_trainer.distributed import alone, mesh, sharding
from deepseek_trainer.distributed.clipping import clipped
from deepseek_trainer.distributed.context import WHOLE, Context
from deepseek_trainer.distributed.pipeline import Pipeline
from deepseek_trainer.distributed.shards import local
from deepseek_trainer.distributed.waits import Waits
from deepseek_trainer.distributed.world import World, join
from deepseek_trainer.model import mtp
from deepseek_trainer.model.balance import Routing
from deepseek_trainer.model.origin import Origin
from deepseek_trainer.optim import optimizer
from deepseek_trainer.optim.loss import Objective, objective
from deepseek_trainer.pulse import PulseWriter
from support.saver import writer
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

VOCABULARY, LENGTH, BATCH, MICRO_BATCH = 96, 12, 7, 2
SAVED = 2
"""Steps before the checkpoint; one more comes after it."""
LIMIT = 0.5
"""Of the gradient's norm: below what it is, so that clipping does something."""
FURTHER = 0.3
"""Weight of the token after the next."""
OPTIMIZER = OptimizerSpec(learning_rate=3e-3)


def deepseek(layers: int = 2, further: int = 0) -> Origin:
    """Two layers, or more, all but the first with eight experts of which a row takes three; and modules for further tokens."""
    config = DeepseekV3Config(
        attn_implementation="sdpa",
        experts_implementation="grouped_mm",
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_shared_experts=1,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        kv_lora_rank=8,
        q_lora_rank=12,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        max_position_embeddings=LENGTH,
        num_mtp_layers=further,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return Origin("deepseek", config, seed=3)


def dense() -> Origin:
    """Two layers of grouped-query attention with biases, whose output layer is the embedding."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return Origin("dense", config, seed=3)


def gpt2() -> Origin:
    """Five layers, with learned positions and an output layer that is the embedding."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=16,
        n_layer=5,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return Origin("gpt2", config, seed=3)


MODELS: Mapping[str, Callable[[], Origin]] = {
    "deepseek": deepseek,
    "deep": partial(deepseek, 4),
    "further": partial(deepseek, further=1),
    "dense": dense,
    "gpt2": gpt2,
}


@dataclass
class Course:
    """What became of a model in some steps.

    Attributes:
        gradients: of the first step, clipped.
        weights: after the last.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def differs(self, other: Course) -> float:
        """The greatest difference of a loss, of a norm's share and of a gradient. Weights don't tell: where a gradient is
        next to nothing, AdamW makes a whole step of its rounding."""
        assert self.gradients.keys() == other.gradients.keys()
        return max(
            *(abs(a - b) for a, b in zip(self.losses, other.losses, strict=True)),
            *(abs(a / b - 1) for a, b in zip(self.norms, other.norms, strict=True)),
            *(float((tensor - other.gradients[name]).abs().max()) for name, tensor in self.gradients.items()),
        )

    def is_same(self, other: Course) -> bool:
        """Bit for bit, weights too."""
        same = self.weights.keys() == other.weights.keys()
        same = same and all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())
        return same and self.differs(other) == 0


def batch(step: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(step))


def loss_of(model: Any, rows: torch.Tensor, context: Context = WHOLE) -> Objective:
    begun = context.begin(MicroBatch(rows[:, :-1], rows[:, 1:], None))
    own = context.own(begun)
    output = model(input_ids=own.inputs, position_ids=own.positions, use_cache=False)
    loss = minimized = _entropy(output.logits, own.labels)
    for k, logits in enumerate(getattr(output, "further", ()), start=1):
        minimized = minimized + FURTHER * _entropy(logits, context.part(mtp.labels(begun, k)))
    return Objective(loss, minimized)


def _entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")


def in_one_process(model: Any) -> tuple[Course, Course]:
    """The course before the checkpoint and after it, of plain torch."""
    adamw, courses = optimizer.make(model, OPTIMIZER), (Course(), Course())
    for step in range(SAVED + 1):
        course = courses[step >= SAVED]
        loss, minimized = (each / (BATCH * LENGTH) for each in loss_of(model, batch(step)))
        minimized.backward()  # type: ignore[no-untyped-call]
        course.losses.append(float(loss))
        course.norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), LIMIT)))
        if not course.gradients:
            course.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        adamw.step()
        adamw.zero_grad()
    return courses


class Sharded:
    """A model under a mesh, from its first weights, with norms and experts that compute as in a job."""

    def __init__(self, layout: dict[str, Any], world: World) -> None:
        sizes = ParallelismSpec.model_validate(layout["parallelism"]).mesh(world.size)
        self.world = world.laid_out(sizes)
        source = MODELS[layout["model"]]()
        self.model: Any = source.bare()
        waits = Waits(PulseWriter.from_environment({}), world.device)
        spec = TrainerSpec.model_validate({"training": {"steps": 3, **layout.get("training", {})}})
        self.training = spec.training
        start.settle(self.model, spec, self.world)
        groups = mesh.groups(sizes, self.world)
        self.pipeline = Pipeline(self.model, groups, self.world, self.training, waits) if groups.pipeline else None
        self.context = sharding.shard(self.model, self.world, groups, self.training, waits)
        source.fill(self.model, world.device, offloaded=self.training.cpu_offload)
        alone.settle(self.model, self.world)
        if self.pipeline is not None:
            self.pipeline.filled(self.context)
        self.routing = Routing(self.model, source.config, ExpertsSpec(sequence_loss=0.0), world.device, self.context)
        self.optimizer = optimizer.make(self.model, OPTIMIZER)

    def course(self, first: int, last: int) -> Course:
        course, world = Course(), self.world
        for step in range(first, last):
            parts = deal.micro_batches(
                torch.arange(BATCH).numpy(),
                rank=world.data_rank,
                world_size=world.data_size,
                micro_batch_size=MICRO_BATCH,
            )
            summed = self.accumulated([batch(step)[places] for places in parts], world.averaged / (BATCH * LENGTH))
            norm, factor = clipped(self.model.parameters(), LIMIT, world)
            course.norms.append(norm)
            self.optimizer.gradient_factor = factor
            if not course.gradients:
                own = {name: factor * _whole(p.grad) for name, p in self.model.named_parameters()}
                stages = world.gather(own) if self.pipeline else [own]
                course.gradients = {name: tensor for stage in stages for name, tensor in stage.items()}
            self.optimizer.step()
            self.optimizer.zero_grad()
            course.losses.append(world.total(summed if world.adds else 0.0)[0] / (BATCH * LENGTH))
        course.weights = {name: _own(tensor).clone() for name, tensor in self.model.named_parameters()}
        return course

    def accumulated(self, parts: list[torch.Tensor], weight: float) -> float:
        """The sum of the losses of these rows, of which it accumulates the gradient. A rank that has run out takes part with
        a row that counts for nothing."""
        if self.pipeline is not None:
            asked = partial(objective, further_weight=FURTHER, context=self.context)
            batches = [MicroBatch(rows[:, :-1], rows[:, 1:], None) if len(rows) else nothing(LENGTH) for rows in parts]
            ticks: list[None] = []
            return float(
                self.pipeline.gradient(
                    batches, asked, weight=weight, routing=self.routing, tick=lambda: ticks.append(None)
                )
            )
        summed = 0.0
        for i, rows in enumerate(parts):
            sharding.sync_on_last(self.model, self.training, last=i == len(parts) - 1)
            loss, minimized = loss_of(self.model, rows if len(rows) else batch(0)[:1], self.context)
            counts = 1 if len(rows) else 0
            (minimized * counts * weight).backward()  # type: ignore[no-untyped-call]
            summed += float(loss) * counts
        return summed

    def save(self, folder: Path) -> None:
        writer(folder, self.world).save(state.collect(self.model, self.optimizer, {}), {"step": SAVED})

    def resume(self, folder: Path) -> None:
        found = load.newest_whole(folder)
        assert found is not None
        load.read_into(state.collect(self.model, self.optimizer, {}), found, self.world)


def peak(trained: Sharded) -> int:
    """Bytes that a forward and backward pass have allocated at once, beyond what there was."""
    rows = torch.cat([batch(step) for step in range(12)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss_of(trained.model, rows).minimized.backward()  # type: ignore[no-untyped-call]
    trained.optimizer.zero_grad()
    events = profile.profiler.kineto_results.events()
    taken = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, size in taken:
        held += size
        most = max(most, held)
    return most


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    return local(tensor).detach()


def _whole(tensor: Any) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def main() -> None:
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)  # of how a whole tensor is put together
    layouts, folder = json.loads(os.environ["LAYOUTS"]), Path(os.environ["CHECKPOINTS"])
    before: dict[str, Path] = {}
    references: dict[str, tuple[Course, Course]] = {}
    firsts: dict[str, Course] = {}
    with join("gloo", os.environ) as world:
        for number, layout in enumerate(layouts):
            name, mine = layout["model"], folder / f"{number}"
            early, late = references.setdefault(name, in_one_process(MODELS[name]().model()))
            trained = Sharded(layout, world)
            first = trained.course(0, SAVED)
            trained.save(mine)
            undisturbed = trained.course(SAVED, SAVED + 1)
            said: dict[str, Any] = {"from_one_process": max(first.differs(early), undisturbed.differs(late))}
            said["first_step"] = Course(first.losses[:1], first.norms[:1], first.gradients).differs(
                Course(early.losses[:1], early.norms[:1], early.gradients)
            )
            said["clipped"] = min(early.norms) > LIMIT
            said["like_the_first"] = undisturbed.is_same(firsts.setdefault(name, undisturbed))
            again = Sharded(layout, world)
            if name in before:
                again.resume(before[name])
                said["resharded"] = again.course(SAVED, SAVED + 1).differs(late)
            again.resume(mine)
            resumed = again.course(SAVED, SAVED + 1)
            said["resumed"] = all(world.gather(resumed.is_same(undisturbed)))
            before[name] = mine
            said["elements"] = world.gather(sum(_own(parameter).numel() for parameter in trained.model.parameters()))
            said["peak"] = peak(trained) if layout.get("peak") else None
            said["cpu"] = time.process_time()
            if world.leader:
                print(json.dumps({**layout, **said}), flush=True)


if __name__ == "__main__":
    main()
