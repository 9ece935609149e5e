"""Training loops that are not ours, on the model, first weights, batches, order, optimizer and precision of a run config.

    python -m support.contestants bare|accelerate|trainer CONFIG STEPS

bare         forward, backward, clip and step, as short as it can be written, with our norms, rotary embeddings and experts: what
             our loop costs at least
accelerate   the loop of Accelerate's documentation, on transformers' model as it is
trainer      Hugging Face's Trainer, likewise

Each says `step=N loss=X` after a step. The first two get their data ready-made; Trainer gets rows from its data loader.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from deepseek_trainer import start
from deepseek_trainer.config import RunConfig, load
from deepseek_trainer.data import samples
from deepseek_trainer.data.ledger import Ledger
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.store import open_store
from deepseek_trainer.distributed import world
from deepseek_trainer.model import origin
from deepseek_trainer.optim import optimizer as optimizers
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

Rows = list[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Contest:
    """What all have in common."""

    config: RunConfig
    rows: Rows
    """In the order of training."""
    model: Any
    optimizer: torch.optim.Optimizer
    device: torch.device

    @property
    def batch(self) -> int:
        return self.config.trainer.training.global_batch_size

    @property
    def bf16(self) -> bool:
        return self.config.trainer.training.precision == "bf16"

    @property
    def limit(self) -> float:
        return self.config.trainer.optimizer.gradient_clip

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        loader: DataLoader[Any] = DataLoader(self.rows, batch_size=self.batch)  # type: ignore[arg-type]
        yield from list(loader)


def contest(file: str, steps: int, *, own: bool) -> Contest:
    """What all have in common, made anew.

    Args:
        own: the model's norms, rotary embeddings and experts are computed as in our loop.
    """
    config = load(file)
    store = open_store(prepare(config, os.environ))
    data = samples.of(config, store)
    ledger = Ledger.of(config, fingerprint=store.info.fingerprint, samples=data.training, layout=data.layout)
    rows: Rows = []
    for number in range(steps):
        made = data.collate(replace(ledger, step=number).batch().samples)
        rows += [{"inputs": i, "targets": t} for i, t in zip(made.inputs, made.labels, strict=True)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = origin.of(config.trainer, vocab_size=store.info.vocab_size).model().to(device)
    if own:
        with world.join(config.backend, os.environ) as alone:
            start.settle(model, config.trainer, alone)
    return Contest(config, rows, model, optimizers.make(model, config.trainer.optimizer), device)


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["inputs"], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten())


def say(step: int, loss: float) -> None:
    print(f"step={step} loss={loss:.6g}", flush=True)


def bare(its: Contest) -> None:
    def precision() -> AbstractContextManager[Any]:
        return torch.autocast(its.device.type, torch.bfloat16) if its.bf16 else nullcontext()

    for number, batch in enumerate(its.batches(), start=1):
        with precision():
            loss = loss_of(its.model, {name: tensor.to(its.device) for name, tensor in batch.items()})
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(its.model.parameters(), its.limit)
        its.optimizer.step()
        its.optimizer.zero_grad()
        say(number, loss.item())


def accelerate(its: Contest) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=its.device.type == "cpu", mixed_precision="bf16" if its.bf16 else "no")
    model, optimizer, loader = accelerator.prepare(
        its.model,
        its.optimizer,
        DataLoader(its.rows, batch_size=its.batch),  # type: ignore[arg-type]
    )
    for number, batch in enumerate(loader, start=1):
        with accelerator.accumulate(model):
            loss = loss_of(model, batch)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), its.limit)
            optimizer.step()
            optimizer.zero_grad()
        say(number, loss.item())


class _Says(TrainerCallback):  # type: ignore[misc]
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            say(state.global_step, float(logs["loss"]))


class _InOrder(Trainer):  # type: ignore[misc]
    """Trainer with a loss of its user's, over rows in the order that they have."""

    model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **kwargs: Any) -> torch.Tensor:
        return loss_of(model, inputs)

    def get_train_dataloader(self) -> Any:
        loader: DataLoader[Any] = DataLoader(self.train_dataset, batch_size=self.args.per_device_train_batch_size)
        return self.accelerator.prepare(loader)


def trainer(its: Contest) -> None:
    constant = torch.optim.lr_scheduler.LambdaLR(its.optimizer, lambda step: 1.0)
    with tempfile.TemporaryDirectory() as folder:
        told = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=its.batch,
            max_steps=len(its.rows) // its.batch,
            max_grad_norm=its.limit,
            bf16=its.bf16,
            use_cpu=its.device.type == "cpu",
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        _InOrder(
            its.model, told, train_dataset=its.rows, optimizers=(its.optimizer, constant), callbacks=[_Says()]
        ).train()


WAYS: dict[str, Callable[[Contest], None]] = {"bare": bare, "accelerate": accelerate, "trainer": trainer}

if __name__ == "__main__":
    way, file, steps = sys.argv[1:]
    WAYS[way](contest(str(Path(file)), int(steps), own=way == "bare"))
