"""The driver of a preparation on Ray: `python -m deepseek_trainer.raycluster.preparing`, started by `executor`.

It is a process of its own because Ray ends a driver, without an exception, when it loses its raylet or the head. On
standard input it gets what is to be done, pickled by the trainer that started it; on standard output it says, a line
of JSON each, which parts are done and which failed and why. It ends when its standard input does.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_trainer.raycluster import session

_AT_ONCE = 64
"""Tasks that are under way, at least: what a driver knows of each costs it memory."""
_RETRIES = 3
"""Of a task whose process or node was lost."""
_SAID_MAX = 300


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
        say(problem=f"{type(error).__name__}: {error}".splitlines()[0][:_SAID_MAX])


def _run(order: Order, say: _Saying) -> None:
    session.connect(os.environ)
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    say(nodes=len(nodes))
    attempt = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_attempt)
    todo = iter(enumerate(order.parts))
    under_way: dict[Any, int] = {}  # by the promise of a task's answer

    def send(count: int) -> None:
        for index, part in itertools.islice(todo, count):
            under_way[attempt.remote(order.work, part, order.seen)] = index

    send(max(_AT_ONCE, 2 * int(sum(node["Resources"]["CPU"] for node in nodes))))
    while under_way:
        for answered in ray.wait(list(under_way))[0]:
            say(index=under_way.pop(answered), **_answer(ray.get, answered))
        send(1)


def _answer(get: Callable[[Any], dict[str, str]], promise: Any) -> dict[str, str]:
    try:
        return get(promise)
    except Exception as error:  # the process or the node of the task was lost, each time
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:_SAID_MAX], "node": ""}


def _attempt(work: Callable[[Any], None], part: Any, seen: str) -> dict[str, str]:
    """One part, on whatever node; what goes wrong is an answer, since the trainer will meet the same and say it well."""
    import ray

    failed = ""
    if not Path(seen).exists():
        failed = "this node doesn't share the data cache"
    else:
        try:
            work(part)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"[:_SAID_MAX]
    return {"failed": failed, "node": ray.get_runtime_context().get_node_id()}


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
