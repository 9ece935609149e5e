"""Which fault comes next: drawn by a seed and by weight among those that make sense at the moment. Pure.

Faults may overlap: one that lasts (an operator away, a frozen pod) is undone when its time is over, and others are drawn
meanwhile. A fault is never one that a job may rightly fail of, or never come back from: a node stays, so do the limits
of an elastic job, and nothing is frozen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any


@dataclass(frozen=True)
class PodView:
    """A pod that runs."""

    name: str
    node: str
    ranks: int = 1
    """Training processes in it."""


@dataclass(frozen=True)
class View:
    """What there is to break.

    Attributes:
        state: the job's state as its status has it; empty before the operator has seen it.
        step: the newest optimizer step that is known; 0 before the first.
        pods: those that run and take part in training.
        workers: as the job asks for, and what it may be scaled to.
        nodes: those that are up.
        under_way: kinds of faults that last and are not undone yet.
    """

    state: str
    step: int
    pods: tuple[PodView, ...]
    workers: int
    least: int
    most: int
    nodes: tuple[str, ...]
    under_way: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fault:
    """One thing to do to the world. `lasts_s`: it is undone after so many seconds; 0: it is done with at once."""

    kind: str
    what: Mapping[str, Any] = field(default_factory=dict)
    lasts_s: float = 0.0

    def __str__(self) -> str:
        words = [self.kind, *(f"{name}={value}" for name, value in self.what.items())]
        return " ".join(words) + (f" for {self.lasts_s:.0f} s" if self.lasts_s else "")


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how often it is drawn beside the others, when it may be, and how one is made."""

    weight: int
    may: Callable[[View], bool]
    make: Callable[[Random, View], Fault]


STOPS = frozenset({"suspend"})
"""While one of these is under way nothing trains, and so nothing else is broken."""


def draw(random: Random, view: View, kinds: Mapping[str, Kind] | None = None, only: Iterable[str] = ()) -> Fault | None:
    """The next fault; None when there is nothing to break now. `only`: of these kinds, if there are any."""
    table = KINDS if kinds is None else kinds
    wanted = set(only) or set(table)
    open_to = [(name, kind) for name, kind in table.items() if name in wanted and kind.may(view)]
    if not open_to:
        return None
    ((_, kind),) = random.choices(open_to, [kind.weight for _, kind in open_to])
    return kind.make(random, view)


def _trains(view: View) -> bool:
    return view.state == "Running" and bool(view.pods) and not view.under_way & STOPS


def _trains_without(*kinds: str) -> Callable[[View], bool]:
    """Steps could be made, and none of these kinds is under way."""
    return lambda view: _trains(view) and not view.under_way & set(kinds)


def _some_pod(random: Random, view: View) -> str:
    return random.choice(sorted(pod.name for pod in view.pods))


def _rank(kind: str, shortest_s: float = 0.0, longest_s: float = 0.0) -> Callable[[Random, View], Fault]:
    def make(random: Random, view: View) -> Fault:
        pod = random.choice(sorted(view.pods, key=lambda pod: pod.name))
        return Fault(
            kind, {"pod": pod.name, "rank": random.randrange(pod.ranks)}, random.uniform(shortest_s, longest_s)
        )

    return make


def _pod(kind: str, shortest_s: float = 0.0, longest_s: float = 0.0) -> Callable[[Random, View], Fault]:
    return lambda random, view: Fault(kind, {"pod": _some_pod(random, view)}, random.uniform(shortest_s, longest_s))


def _plain(kind: str, shortest_s: float = 0.0, longest_s: float = 0.0) -> Callable[[Random, View], Fault]:
    return lambda random, view: Fault(kind, {}, random.uniform(shortest_s, longest_s))


def _scale(random: Random, view: View) -> Fault:
    others = [number for number in range(view.least, view.most + 1) if number != view.workers]
    return Fault("scale", {"workers": random.choice(others)})


def _kill_node(random: Random, view: View) -> Fault:
    used = sorted({pod.node for pod in view.pods} & set(view.nodes))
    return Fault("kill_node", {"node": random.choice(used)}, random.uniform(5, 15))


def _may_kill_node(view: View) -> bool:
    return (
        _trains_without("kill_node", "operator_away")(view)
        and len(view.nodes) > 1
        and any(pod.node in view.nodes for pod in view.pods)
    )


KINDS: dict[str, Kind] = {
    "kill_process": Kind(5, _trains, _rank("kill_process")),
    "kill_pod": Kind(4, _trains, _pod("kill_pod")),
    "delete_pod": Kind(3, _trains, _pod("delete_pod")),
    "freeze_process": Kind(2, _trains_without("freeze_process", "freeze_pod"), _rank("freeze_process", 2, 8)),
    "freeze_pod": Kind(2, _trains_without("freeze_process", "freeze_pod"), _pod("freeze_pod", 2, 20)),
    "hang_process": Kind(1, _trains_without("freeze_process", "freeze_pod", "operator_away"), _rank("hang_process")),
    "scale": Kind(3, lambda view: _trains(view) and view.least < view.most, _scale),
    "operator_restart": Kind(2, _trains_without("operator_away"), _plain("operator_restart")),
    "operator_away": Kind(2, _trains_without("operator_away", "kill_node"), _plain("operator_away", 5, 15)),
    "kill_node": Kind(1, _may_kill_node, _kill_node),
    "suspend": Kind(1, lambda view: _trains(view) and not view.under_way, _plain("suspend", 2, 6)),
}
"""What a cluster does to a job. The weights are about how often it does, beside each other. A process that hangs is stopped
for ever: somebody has to find it."""
