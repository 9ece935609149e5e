"""Slow ranks: said once and plainly, and nothing else comes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from deepseek_operator.api.conditions import Fact, fact_of
from deepseek_operator.api.names import ConditionType, Reason, State
from deepseek_operator.api.v1alpha1 import Status
from deepseek_operator.decide import decide
from deepseek_operator.decide.straggling import sentence, straggling
from deepseek_operator.decide.turn import Turn
from deepseek_operator.decide.types import Observation, Plan, Straggler
from support.laws import comes_to_rest, crash_everywhere
from support.make import make_job, make_manifest, make_pod, make_progress, observe
from support.world import World

SLOW = Straggler(1, "demo-worker-1-0", "node-1", 0.9, 0.61, 1.234)
Slow = tuple[Straggler, ...] | None


def look(status: Status | None, stragglers: Slow, *, after_s: float, step: int = 40) -> Observation:
    seen = observe(make_job(status, replicas=2), make_pod(0), make_pod(1), after_s=after_s)
    return replace(seen, progress=make_progress(1, step=step, stragglers=stragglers))


def running() -> Status:
    """A job of two workers that makes steps."""
    status = Status()
    for after_s in (0.0, 1.0, 2.0, 10.0):
        status = decide(look(status, None, after_s=after_s)).status
    assert status.state == State.RUNNING
    return status


def said(plan: Plan) -> tuple[str, str, str]:
    condition = fact_of(plan.status.conditions, ConditionType.STRAGGLING)
    assert condition is not None
    return condition.status, condition.reason, condition.message


def reasons(plan: Plan) -> list[str]:
    return [event.reason for event in plan.events]


@pytest.mark.parametrize(
    ("stragglers", "expected"),
    [
        (None, ("False", Reason.NOT_MEASURED, "")),
        ((), ("False", Reason.AS_EXPECTED, "")),
        ((SLOW,), ("True", Reason.SLOW_RANKS, sentence((SLOW,)))),
    ],
)
def test_what_is_reported_is_said(stragglers: Slow, expected: tuple[str, str, str]) -> None:
    assert said(decide(look(running(), stragglers, after_s=20))) == expected


def test_the_sentence_names_rank_pod_node_and_cost() -> None:
    assert sentence((SLOW,)) == (
        "the others wait in each step for rank 1 (pod demo-worker-1-0, node node-1): 0.29 s of 1.2 s"
    )
    nowhere = replace(SLOW, node="", busy_seconds=61.0, step_seconds=123.0)
    assert sentence((nowhere,)).endswith("rank 1 (pod demo-worker-1-0): 60 s of 120 s")


def test_of_many_the_costliest_are_named() -> None:
    many = tuple(replace(SLOW, rank=rank, busy_seconds=1.0 + rank) for rank in range(16))
    text = sentence(many)
    assert [f"rank {rank} " in text for rank in (15, 14, 13, 12, 11)] == [True, True, True, True, False]
    assert text.endswith("; and 12 more")


def test_it_is_announced_when_it_begins_and_changes_nothing_else() -> None:
    calm = decide(look(running(), (), after_s=20)).status
    begun = decide(look(calm, (SLOW,), after_s=21))
    assert reasons(begun) == [Reason.SLOW_RANKS]
    assert begun.status is not calm, "a condition that changes is written at once"
    usual = decide(look(calm, (), after_s=21))
    assert (begun.create, begun.patch, begun.delete) == (usual.create, usual.patch, usual.delete)
    assert (begun.status.state, begun.status.reason) == (calm.state, calm.reason)
    same = {ConditionType.STRAGGLING}
    assert [c for c in begun.status.conditions if c.type not in same] == [
        c for c in calm.conditions if c.type not in same
    ]
    worse = decide(look(begun.status, (SLOW, replace(SLOW, rank=0)), after_s=30))
    assert reasons(worse) == []
    assert said(worse)[0] == "True"
    ended = decide(look(worse.status, (), after_s=40))
    assert said(ended) == ("False", Reason.AS_EXPECTED, "")
    assert reasons(decide(look(ended.status, (SLOW,), after_s=50))) == [Reason.SLOW_RANKS]


def test_the_same_is_not_written_again() -> None:
    begun = decide(look(running(), (SLOW,), after_s=21)).status
    again = decide(look(begun, (SLOW,), after_s=90))
    assert again.status is begun
    other_words = replace(SLOW, busy_seconds=1.5)
    assert decide(look(begun, (other_words,), after_s=22)).status is begun, "wording waits its five seconds"
    assert decide(look(begun, (other_words,), after_s=90)).status is not begun


def test_a_job_that_is_not_heard_keeps_what_was_said() -> None:
    begun = decide(look(running(), (SLOW,), after_s=21)).status
    unheard = replace(look(begun, None, after_s=30), progress=None, unanswered=True)
    assert said(decide(unheard))[0] == "True"


def test_a_new_generation_a_rest_and_an_end_know_of_no_slow_rank() -> None:
    begun = decide(look(running(), (SLOW,), after_s=21)).status
    turn = Turn(look(begun, (SLOW,), after_s=30), begun, report=make_progress(1, stragglers=(SLOW,)))
    resting = Fact(ConditionType.SUSPENDED, "False", Reason.SUSPENDING)
    over = Fact(ConditionType.COMPLETE, "True", Reason.ALL_WORKERS_SUCCEEDED)
    for other in (turn.changed(generation=2), replace(turn, rest=resting), turn.stating(over)):
        shaped = straggling(other)
        assert shaped.facts[-1] == Fact(ConditionType.STRAGGLING, "False", Reason.NOT_MEASURED)
        assert shaped.events == ()


def test_stop_between_any_two_writes_is_harmless_and_costs_nothing() -> None:
    world = World(make_manifest())
    for _ in range(5):
        world.tick()
    world.stragglers = (SLOW,)
    crash_everywhere(world)
    world.tick()
    assert world.status.state == State.RUNNING
    assert [event.reason for event in world.events].count(Reason.SLOW_RANKS) == 1
    comes_to_rest(world)
    world.run(lambda w: w.status.state == State.SUCCEEDED)
    assert (world.status.total_restarts, world.status.generation) == (0, 1), "nothing is restarted for it"
    condition = fact_of(world.status.conditions, ConditionType.STRAGGLING)
    assert condition is not None
    assert condition.status == "False", "an ended job waits for nobody"


def test_it_is_not_what_kstatus_or_the_state_go_by() -> None:
    begun = decide(look(running(), (SLOW,), after_s=21)).status
    kinds = {c.type: c.status for c in begun.conditions}
    assert (kinds["Reconciling"], kinds["Stalled"], begun.state) == ("False", "False", State.RUNNING)
