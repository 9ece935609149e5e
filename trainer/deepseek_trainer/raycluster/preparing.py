"""The driver of a preparation on Ray: `python -m deepseek_trainer.raycluster.preparing`, started by `executor`.

It is a process of its own because Ray ends a driver, without an exception, when it loses its raylet or the head. On
standard input it gets what is to be done, pickled by the trainer that started it; on standard output it says, a line
of JSON each, which parts are done and which failed and why. It ends when its standard input does.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_trainer.raycluster import session


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Attributes:
        seen: a file in the folder that the work writes to; a node that doesn't see it shares no folder with the trainer.
    """

    work: Callable[[Any], None]
    parts: Sequence[Any]
    seen: str


def main() -> None:
    say = _Saying()
    order: Order = pickle.load(sys.stdin.buffer)  # noqa: S301  from the trainer that started this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _run(order, say)
    except Exception as error:
        say(problem=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _run(order: Order, say: _Saying) -> None:
    session.connect(os.environ)
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what fails is done by the trainer
    nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    say(nodes=nodes)
    rows = [{"index": index, "part": pickle.dumps(part)} for index, part in enumerate(order.parts)]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _attempt, fn_kwargs={"work": order.work, "seen": order.seen}, num_cpus=1
    )
    for row in done.iter_rows():
        say(index=int(row["index"]), failed=row["failed"], node=row["node"])


def _attempt(row: dict[str, Any], *, work: Callable[[Any], None], seen: str) -> dict[str, Any]:
    """One part, on whatever node; what goes wrong is an answer, since the trainer will meet the same and say it well."""
    import ray

    failed = ""
    if not Path(seen).exists():
        failed = "this node doesn't share the data cache"
    else:
        try:
            work(pickle.loads(row["part"]))  # noqa: S301  from this module
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"[:300]
    return {"index": row["index"], "failed": failed, "node": ray.get_runtime_context().get_node_id()}


class _Saying:
    """Standard output for what is said to the trainer alone: whatever else is printed goes to standard error."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __call__(self, **values: object) -> None:
        self._pipe.write(json.dumps(values) + "\n")
        self._pipe.flush()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
