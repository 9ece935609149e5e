"""The training loop beside others, on the same model, first weights, batches, order and optimizer, in one run.

    python tests/perf/bench_train.py [--rounds N] [--starts N]

loop         tokens a second of `python -m deepseek_trainer`, as a pod runs it (report, pulse, ledger, guard, saver), beside the
             bare forward, backward, clip and step, beside Accelerate and beside Hugging Face's Trainer; one process each.
             They take turns (support/turns), short ones, as a shared machine is fast and slow by seconds, and the medians of
             the ratios of rounds count. Their losses must agree. All are started several times: where its memory happens to
             lie makes a process up to a twentieth faster or slower
memory       what a step takes beyond the weights, by `activationCheckpointing`: a process' resident memory at most, less that
             before the first step
compile      `compile: layers` against none, where there is a C++ compiler

With a GPU: bf16, a larger model, and MFU, by the operations of plan/architecture.py and the GPU's peak of plan/hardware.py.
Prints a table and ends with one line: `ahead …` or `behind in …`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from deepseek_trainer.config import RunConfig
from deepseek_trainer.data import corpora
from deepseek_trainer.data.prepare import prepare
from deepseek_trainer.data.store import open_store
from deepseek_trainer.model import origin
from deepseek_trainer.plan import hardware
from deepseek_trainer.plan.architecture import Architecture
from support.bench_table import Row, table, verdict
from support.turns import Runner, Turns, ratio

OVERHEAD = 0.02
"""Of a step: what the loop may take beyond the bare one."""
WARM_UP, STEPS, MOST = 2, 2, 400
COMPARED = 12
"""Steps in which losses must agree: later roundings have sent tokens to other experts, and each run goes its own way."""
OTHERS = {"accelerate": "Accelerate", "trainer": "Trainer"}
GPU = torch.cuda.is_available()
MODELS: Mapping[str, dict[str, Any]] = {
    "dense": {"preset": "reference"} if GPU else {"preset": "small", "architecture": "Llama"},
    # Without what the other loops don't have.
    "DeepSeek-V3": {"preset": "small", "experts": {"biasUpdateRate": 0, "sequenceLoss": 0}},
}
BATCH: dict[str, Any] = (
    {"globalBatchSize": 8, "microBatchSize": 8, "sequenceLength": 1024, "precision": "bf16"}
    if GPU
    else {"globalBatchSize": 4, "microBatchSize": 4, "sequenceLength": 128}
)
DEEP = {"preset": "tiny", "architecture": "Llama", "numLayers": 12}
LONG = {"globalBatchSize": 4, "microBatchSize": 4, "sequenceLength": 512}


class Bench:
    """The runs of one bench, in a folder of their own."""

    def __init__(self, folder: Path, rounds: int, starts: int) -> None:
        self._folder, self._rounds, self._starts = folder, rounds, starts

    def rows(self) -> Iterator[Row]:
        for name, model in MODELS.items():
            yield from self._loop(name, model)
        yield from self._memory()
        yield from self._compile()

    def config(self, name: str, model: dict[str, Any], **training: Any) -> Path:
        """A run config that saves where it would in a pod, but not while it is measured."""
        given = {
            "job": "bench",
            "backend": "nccl" if GPU else "gloo",
            "trainer": {
                "model": model,
                "tokenizer": {"vocabSize": 4096},
                "training": {"steps": MOST, **BATCH, **training},
                "optimizer": {"learningRate": 1e-3, "warmupSteps": 0, "schedule": {"kind": "Constant"}},
                "evaluation": {"everySteps": 0, "batches": 1},
            },
            "data": {"corpus": "chitchat"},
            "dataCache": str(corpora.cache(os.environ).with_name("stores")),
            "checkpoint": {"directory": str(self._folder / name / "checkpoints"), "everySteps": 100_000, "keep": 1},
        }
        file = self._folder / name / "run-config.json"
        file.parent.mkdir()
        file.write_text(json.dumps(given))
        prepare(RunConfig.model_validate(given), os.environ)
        return file

    def ours(self, config: Path) -> tuple[list[str], dict[str, str]]:
        """Our loop with what the agent tells it."""
        told = {
            "DEEPSEEKJOB_RUN_CONFIG_FILE": str(config),
            "DEEPSEEKJOB_PROGRESS_FILE": str(config.with_name("progress.json")),
            "DEEPSEEKJOB_PULSE_FILE": str(config.with_name("pulse")),
        }
        return [sys.executable, "-u", "-m", "deepseek_trainer"], told

    def _loop(self, name: str, model: dict[str, Any]) -> Iterator[Row]:
        config = self.config(name, model)
        commands: dict[str, Any] = {"ours": self.ours(config)}
        for way in ("bare", *OTHERS):
            commands[way] = ([sys.executable, "-u", "-m", "support.contestants", way, str(config), str(MOST)], {})
        found = self._turns(commands)
        tokens = BATCH["globalBatchSize"] * BATCH["sequenceLength"]
        speeds = {way: tokens / statistics.median(seconds) for way, seconds in found.items()}
        print(f"  {name}: a step of the bare loop takes {statistics.median(found['bare']) * 1e3:.0f} ms", flush=True)
        overhead = max(0.0, ratio(found["ours"], found["bare"]) - 1)
        yield Row(f"{name}: beyond the bare loop", overhead, OVERHEAD, "of a step", "lower")
        for way, title in OTHERS.items():
            theirs = speeds["ours"] * ratio(found["ours"], found[way])
            yield Row(f"{name}: tokens", speeds["ours"], theirs, "tokens/s", "higher", title)
        if GPU:
            _tell_mfu(config, speeds["ours"])

    def _turns(self, commands: dict[str, Any]) -> dict[str, list[float]]:
        """Seconds of a step in each turn of all starts."""
        found: dict[str, list[float]] = {way: [] for way in commands}
        for _ in range(self._starts):
            with Turns(commands, warm_up=WARM_UP) as turns:
                for way, seconds in turns.rounds(self._rounds, steps=STEPS).items():
                    found[way] += seconds
                _agree({way: runner.losses for way, runner in turns.runners.items()})
        return found

    def _memory(self) -> Iterator[Row]:
        grown: dict[str, float] = {}
        for mode in ("none", "selective", "full"):
            config = self.config(f"memory-{mode}", DEEP, **LONG, steps=2, activationCheckpointing=mode)
            runner = Runner(mode, *self.ours(config))
            grown[mode] = (runner.ended() - runner.set_up_bytes) / 2**20
        for mode in ("selective", "full"):
            yield Row(f"memory of a step: {mode}", grown[mode], grown["none"], "MiB", "lower", "none")

    def _compile(self) -> Iterator[Row]:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            print(f"  compile is left out: there is no {compiler}", flush=True)
            return
        commands = {
            mode: self.ours(self.config(f"compile-{mode}", MODELS["dense"], compile=mode))
            for mode in ("none", "layers")
        }
        found = self._turns(commands)
        yield Row("compile: a step", 1.0, ratio(found["none"], found["layers"]), "of eager's", "lower", "eager")


def _agree(losses: Mapping[str, list[float]]) -> None:
    """Raises AssertionError if the loops don't train the same."""
    steps = min(COMPARED, *map(len, losses.values()))
    first, *others = losses
    for other in others:
        for number, (one, theirs) in enumerate(zip(losses[first][:steps], losses[other][:steps], strict=True), start=1):
            assert abs(one - theirs) < (0.05 if GPU else 1e-3) * one, f"step {number}: {first} {one}, {other} {theirs}"


def _tell_mfu(config: Path, tokens_per_s: float) -> None:
    run = RunConfig.model_validate_json(config.read_text())
    store = open_store(prepare(run, os.environ))
    shape = Architecture.of(origin.of(run.trainer, vocab_size=store.info.vocab_size).config)
    product = torch.cuda.get_device_name()
    known = hardware.of_product(product)
    if known is None:
        print(f"  MFU is left out: the peak of {product} isn't known", flush=True)
        return
    mfu = tokens_per_s * shape.operations(run.trainer.training.sequence_length) / hardware.GPUS[known].peak
    print(f"  MFU on {product}: {mfu:.1%}", flush=True)


def main() -> int:
    options = argparse.ArgumentParser(description="The training loop beside others.")
    options.add_argument("--rounds", type=int, default=8, help="turns of each loop after each start")
    options.add_argument("--starts", type=int, default=4, help="of all loops")
    told = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows = list(Bench(Path(folder), told.rounds, told.starts).rows())
    print(table(rows))
    print(verdict(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
