"""A training script of plain torchrun: gloo, one all-reduce a step, resumes from a step file. Needs nothing of us.

usage: tiny_training.py FOLDER STEPS
In FOLDER: `step` is the checkpoint, `log.jsonl` what happened, a line a step (`began`: the start of rank 0's process); `fail-<rank>` makes that rank raise the text in it
(once), `exit-<rank>` makes it exit with the number in it, `sleep-<rank>` makes it sleep for ever (once); while there is a
`gate`, no step beyond the number in it is made.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


def obey(folder: Path, rank: int) -> None:
    for order in ("fail", "exit", "sleep"):
        path = folder / f"{order}-{rank}"
        if path.exists():
            text = path.read_text()
            path.unlink()
            if order == "exit":
                print(f"config is wrong: {text}", file=sys.stderr, flush=True)
                os._exit(int(text))
            if order == "sleep":
                fall_asleep_for_ever()
            raise ValueError(text)


def fall_asleep_for_ever() -> None:
    while True:
        time.sleep(3600)


def wait_at_gate(folder: Path, step: int) -> None:
    while True:
        try:
            if step < int((folder / "gate").read_text()):
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)


def main() -> None:
    began = time.time()
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    file = folder / "step"
    first = int(file.read_text()) if file.exists() else 0
    print(f"hello from rank {rank} of {world}", flush=True)
    for step in range(first, steps):
        obey(folder, rank)
        wait_at_gate(folder, step)
        flags = torch.tensor([1.0, float(bool(stopped))])
        dist.all_reduce(flags)
        assert flags[0] == world
        if rank == 0:
            record(folder, file, step + 1, world, began)
        if flags[1]:
            sys.exit(75)
        time.sleep(0.05)
    dist.destroy_process_group()


def record(folder: Path, file: Path, step: int, world: int, began: float) -> None:
    temporary = folder / "step.tmp"
    temporary.write_text(str(step))
    temporary.replace(file)
    line = {
        "step": step,
        "world": world,
        "generation": int(os.environ.get("DEEPSEEKJOB_GENERATION", "0")),
        "attempt": int(os.environ.get("DEEPSEEKJOB_ATTEMPT", "0")),
        "pod": os.environ.get("DEEPSEEKJOB_POD_NAME", ""),
        "began": began,
        "time": time.time(),
    }
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    if "DEEPSEEKJOB_PROGRESS_FILE" not in os.environ:
        return
    report = Path(os.environ["DEEPSEEKJOB_PROGRESS_FILE"])
    staged = report.with_suffix(".staged")
    staged.write_text(json.dumps({"phase": "training", "step": step, "loss": 1.0 / step}))
    staged.replace(report)


if __name__ == "__main__":
    main()
