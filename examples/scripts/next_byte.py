"""A training script of your own, as any that torchrun starts: predicts the next byte of Python's standard library.

    torchrun --nproc-per-node 2 examples/scripts/next_byte.py --steps 100     on this machine
    kubectl apply -f examples/user-script.yaml                                as a DeepSeekJob

Three habits make a script survive the loss of a worker. It is started again with everybody else, so it
  1. loads the newest checkpoint from DEEPSEEKJOB_CHECKPOINT_DIR, if there is one;
  2. saves there every few steps, to a temporary name that is renamed when whole, so that no half file is ever loaded;
  3. takes its data by step and rank from the seed, so that a restart reads on where the checkpoint was.
A fourth one makes it visible: what it writes to DEEPSEEKJOB_PROGRESS_FILE is shown by `kubectl get dsj`.
"""

from __future__ import annotations

import argparse
import json
import os
import sysconfig
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CONTEXT = 16  # bytes that the model sees
BATCH = 64  # positions a step and rank


def read_corpus() -> torch.Tensor:
    """Every byte of the top-level modules of the standard library, in the order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8).long()


def batch_of(corpus: torch.Tensor, step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for the same step and rank, whichever attempt asks. Shapes (BATCH, CONTEXT) and (BATCH,)."""
    generator = torch.Generator().manual_seed(step * 100_003 + rank)
    start = torch.randint(len(corpus) - CONTEXT, (BATCH,), generator=generator)
    window = corpus[start[:, None] + torch.arange(CONTEXT + 1)]
    return window[:, :-1], window[:, -1]


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(256, 32), nn.Flatten(), nn.Linear(32 * CONTEXT, 256), nn.ReLU(), nn.Linear(256, 256)
    )


def write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.rename(path)


def save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
    temporary.rename(path)


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from: that of the checkpoint, or 0."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def report(step: int, total: int, loss: float, resumed: int) -> None:
    """Tells the operator how far we are; outside of a DeepSeekJob there is nobody to tell."""
    path = os.environ.get("DEEPSEEKJOB_PROGRESS_FILE")
    if path:
        progress = {
            "phase": "training",
            "step": step,
            "totalSteps": total,
            "loss": loss,
            "resumedStep": resumed or None,
        }
        write_atomically(Path(path), json.dumps(progress).encode())


def train(steps: int, save_every: int, directory: Path) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    corpus, model = read_corpus(), build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = directory / "next-byte.pt"
    first = load(checkpoint, model, optimizer)
    parallel = DistributedDataParallel(model)
    for step in range(first, steps):
        inputs, targets = batch_of(corpus, step, rank)
        loss = nn.functional.cross_entropy(parallel(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done = step + 1
        if rank == 0 and (done % save_every == 0 or done == steps):
            save(checkpoint, done, model, optimizer)
        if rank == 0:
            report(done, steps, loss.item(), first)
            if done % 10 == 0 or done == steps:
                print(f"step={done}/{steps} loss={loss.item():.3f} world_size={world_size} resumed={first}", flush=True)
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict the next byte of Python's standard library.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=20)
    arguments = parser.parse_args()
    directory = Path(os.environ.get("DEEPSEEKJOB_CHECKPOINT_DIR", "."))
    directory.mkdir(parents=True, exist_ok=True)
    dist.init_process_group("gloo")
    try:
        train(arguments.steps, arguments.save_every, directory)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
