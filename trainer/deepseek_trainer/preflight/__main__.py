"""One check process of a node: `python -m deepseek_trainer.preflight TASK`, started by the agent.

    agent ──► TASK (JSON)                      who, where the store is
    ready ──► the agent                        imported, device there
    agent ──► a line on stdin: seconds         all have arrived: measure, and be done by then
    pair, pair …, reduce ──► the agent         what was measured, or why not

Events are lines of JSON on standard output; whatever else is printed, as NCCL does, goes to standard error. In between
a thread beats, so that a process which waits for a peer can be told from one that has stopped.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from deepseek_trainer.errors import first_line
from deepseek_trainer.preflight.pairing import partner, rounds
from deepseek_trainer.preflight.task import BEAT_S, Event, Task

WORDS_MAX = 200


def main() -> None:
    task = Task.model_validate_json(sys.argv[1])
    tell = _teller(os.dup(1))
    os.dup2(2, 1)
    threading.Thread(target=_beat, args=(tell,), name="beat", daemon=True).start()
    try:
        _check(task, tell)
    except Exception as error:
        tell(Event(kind="failed", error=f"{type(error).__name__}: {first_line(error)[:WORDS_MAX]}"))
        os._exit(1)
    # Not sys.exit: a group whose peer is gone may not let the interpreter end.
    os._exit(0)


def _check(task: Task, tell: Callable[[Event], None]) -> None:
    import torch

    from deepseek_trainer.agent.store import connect
    from deepseek_trainer.preflight.groups import measure

    device = torch.device("cuda", task.local_rank) if task.gpus else torch.device("cpu")
    torch.zeros(1, device=device).add_(1).item()
    tell(Event(kind="ready"))

    seconds = float(sys.stdin.readline() or 0)
    began = time.monotonic()
    count = rounds(task.nodes, task.measured_s)
    slot_s = seconds / (count + 1)
    store = connect(task.master, task.port, timeout_s=seconds)

    def measured(name: str, ranks: list[int], until: float) -> tuple[float | None, str]:
        """The bandwidth in a group of all processes of these nodes, or why there is none."""
        rank = ranks.index(task.node_rank) * task.procs + task.local_rank
        try:
            mbps = measure(
                store, f"{task.key}/{name}", rank=rank, size=len(ranks) * task.procs, device=device, until=until
            )
        except RuntimeError as error:
            return None, first_line(error)[:WORDS_MAX]
        return mbps, ""

    for number in range(count):
        other = partner(task.nodes, task.node_rank, number)
        if other is not None:
            both = sorted((task.node_rank, other))
            mbps, error = measured(f"pair/{both[0]}-{both[1]}", both, began + (number + 1) * slot_s)
            tell(Event(kind="pair", partner=other, mbps=mbps, error=error))
    mbps, error = measured("all", list(range(task.nodes)), began + seconds)
    tell(Event(kind="reduce", mbps=mbps, error=error))


def _teller(descriptor: int) -> Callable[[Event], None]:
    """Writes events, one line at a time, whichever thread it is called by."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            os.write(descriptor, event.model_dump_json().encode() + b"\n")

    return tell


def _beat(tell: Callable[[Event], None]) -> None:
    while True:
        tell(Event(kind="beat"))
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main()
