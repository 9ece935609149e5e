"""What must hold for every job in every world, whatever happens; broken laws raise AssertionError.

`Watcher` looks on from outside, after each event. `crash_everywhere` and `comes_to_rest` ask the questions that
make a level-triggered operator safe: is a stop between any two writes harmless, and does it know when it is done?
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta

from deepseek_operator.api.conditions import is_true
from deepseek_operator.api.names import Cause, ConditionType, Reason, State
from deepseek_operator.api.v1alpha1 import RayStatus, Status
from deepseek_operator.decide.activity import active_s
from deepseek_operator.decide.budgets import COUNTER, limit_of
from deepseek_operator.decide.effects import may_have_pods
from deepseek_operator.decide.gang import candidates, is_ranked, slots
from deepseek_operator.decide.requeue import REGULAR_S
from support.world import World, announced, effects, told

DEADLINES = (Reason.DEADLINE_EXCEEDED, Reason.START_DEADLINE_EXCEEDED)


@dataclass
class Watcher:
    """Remembers what it saw of one world, and compares."""

    world: World
    last: Status = field(default_factory=Status)
    uids: dict[str, str] = field(default_factory=dict)
    launched: set[str] = field(default_factory=set)
    active_s: float = 0.0
    refusals: int = 0
    """Deletes that were still to be refused."""

    def look(self, *, whole_pass: bool = True) -> None:
        """Compares the world with what was seen before.

        Args:
            whole_pass: the operator has just looked at everything that runs, and lived to write it down.

        Raises:
            AssertionError: a law is broken.
        """
        status = self.world.status
        self._counters_only_grow(status)
        self._each_restart_is_counted_once(status)
        self._each_failure_has_evidence(status)
        self._the_end_is_for_good(status)
        self._a_suspended_job_has_no_pods(status)
        self._active_time_only_grows(status)
        self._one_live_member_a_slot()
        self._one_live_head_at_most(whole_pass)
        self._a_planned_move_waits_for_nobody(status)
        self._candidates_are_apart(status)
        self._no_name_is_used_twice(whole_pass)
        self.last = status

    def _counters_only_grow(self, status: Status) -> None:
        ray, before = status.ray or RayStatus(), self.last.ray or RayStatus()
        assert ray.head >= before.head, f"the number of the head went back: {before!r} -> {ray!r}"
        assert ray.restarts >= before.restarts, f"restarts of the head went back: {before!r} -> {ray!r}"
        for name in ("generation", "attempt", "launched_generation", "total_restarts", "active_seconds"):
            assert getattr(status, name) >= getattr(self.last, name), f"{name} went back: {self.last!r} -> {status!r}"
        for slot, count in self.last.incarnations.items():
            assert status.incarnations.get(slot, 0) >= count, f"incarnation of slot {slot} went back"

    def _each_restart_is_counted_once(self, status: Status) -> None:
        """By one cause, and never beyond its budget; what is planned (a resize, a resumption) is counted apart."""
        recovery, restarts, before = self.world.job.spec.recovery, status.restarts, self.last.restarts
        unplanned = sum(getattr(restarts, counter) for counter in COUNTER.values())
        assert status.total_restarts == unplanned
        known = unplanned + restarts.resize - restarts.healed
        assert 0 <= restarts.healed <= restarts.hang
        assert max(status.attempt - 1, 0) == known, f"attempt {status.attempt} after {known} restarts"
        assert status.generation == status.attempt
        for cause, counter in COUNTER.items():
            assert getattr(restarts, counter) >= getattr(before, counter), f"restarts by {cause} went back"
            limit = limit_of(recovery.budgets, cause)
            assert limit is None or getattr(restarts, counter) <= limit, f"restarts by {cause} beyond {limit}"
        assert status.fruitless_restarts <= recovery.max_restarts_without_progress

    def _each_failure_has_evidence(self, status: Status) -> None:
        """A cause of the table, and the attempt that it ended; and none is told twice."""
        told = [(failure.attempt, failure.round, failure.pod) for failure in status.failures]
        assert len(told) == len(set(told)), f"a failure is told twice: {told!r}"
        for failure in status.failures:
            assert failure.cause in set(Cause), f"no cause: {failure!r}"
            assert failure.reason, f"no reason: {failure!r}"
            assert 1 <= failure.attempt <= status.attempt, f"no attempt: {failure!r}"

    def _the_end_is_for_good(self, status: Status) -> None:
        complete = is_true(status.conditions, ConditionType.COMPLETE)
        failed = is_true(status.conditions, ConditionType.FAILED)
        assert not (complete and failed)
        if self.last.completion_time is not None:
            assert unobserved(status) == unobserved(self.last), "an ended job changed"
        assert (status.completion_time is not None) == (complete or failed)

    def _a_suspended_job_has_no_pods(self, status: Status) -> None:
        if is_true(status.conditions, ConditionType.SUSPENDED):
            live = [*self.world.live(), *self.world.live_heads()]
            assert not live, f"suspended, and pods run: {live!r}"
        if status.state == self.last.state == State.SUSPENDED:
            assert status.active_seconds == self.last.active_seconds, "rest was counted as active time"
            assert status.generation == self.last.generation, "a new generation without a run"

    def _active_time_only_grows(self, status: Status) -> None:
        spent_s = active_s(status, self.world.now)
        assert spent_s >= self.active_s - 1, f"active time went back from {self.active_s} s to {spent_s} s"
        self.active_s = spent_s

    def _one_live_member_a_slot(self) -> None:
        """Nobody may train twice: of the pods of a slot at most one was told the same generation and may run."""
        live = [pod for pod in self.world.live() if not pod.terminating]
        told = [(pod.slot, announced(pod)) for pod in live if announced(pod)]  # 0: in no generation
        assert len(told) == len(set(told)), f"two live members for one slot and generation: {live!r}"

    def _one_live_head_at_most(self, whole_pass: bool) -> None:
        """And none of a job that wants none, or that may have no pods."""
        live = [head for head in self.world.live_heads() if not head.terminating]
        wanted = self.world.job.spec.ray is not None and may_have_pods(self.world.status)
        before, self.refusals = self.refusals, self.world.refuse_deletes
        if whole_pass and not max(before, self.refusals):  # else one may have been refused in this very pass
            assert len(live) <= int(wanted), f"heads: {live!r}"
        ray = self.world.status.ray or RayStatus()
        for head in self.world.heads.values():
            if ray.seen and head.incarnation == ray.head:
                assert self.uids.setdefault(head.name, head.uid) == head.uid, f"{head.name} was created again"

    def _a_planned_move_waits_for_nobody(self, status: Status) -> None:
        """Training is not stopped for a worker that isn't there."""
        if status.generation == self.last.generation or not status.planned:
            return
        ready = {pod.slot for pod in self.world.pods.values() if pod.ready or pod.phase == "Succeeded"}
        joined = set(slots(self.world.job, status)) - set(slots(self.world.job, self.last))
        assert joined <= ready, f"training was stopped for workers {sorted(joined - ready)}, which are not ready"

    def _candidates_are_apart(self, status: Status) -> None:
        """A slot is a member's or a candidate's, and a small gang is one that its owner allows."""
        gang = slots(self.world.job, status)
        assert len(gang) == len(set(gang)), f"a slot twice: {gang!r}"
        assert not set(status.standby) & set(gang), f"a member stands by: {status!r}"
        elastic = self.world.job.spec.elastic
        if elastic is not None and status.generation > self.last.generation:
            assert len(gang) >= elastic.min_replicas, f"fewer than elastic.minReplicas: {gang!r}"

    def _no_name_is_used_twice(self, whole_pass: bool) -> None:
        """A pod that took part in a whole gang, and was seen so, is never created again under its name."""
        for pod in self.world.pods.values():
            if pod.name in self.launched:
                assert self.uids[pod.name] == pod.uid, f"{pod.name} was created again after it was lost"
            self.uids[pod.name] = pod.uid
        gang = self.world.members()
        if whole_pass and gang and len(gang) == told(gang[0], "nodes"):
            self.launched |= {pod.name for pod in gang}


def unobserved(status: Status) -> Status:
    """Without which spec it is about, which an edit changes, and the time of writing that."""
    conditions = [condition.model_copy(update={"observed_generation": 0}) for condition in status.conditions]
    return status.model_copy(update={"observed_generation": 0, "conditions": conditions, "training": None})


def tick(world: World, watcher: Watcher) -> None:
    """One tick, and a look."""
    world.tick()
    watcher.look()


def ends(world: World, watcher: Watcher, ticks: int = 60) -> World:
    """The job comes to an end, and nothing of it runs on. One that is suspended is resumed when its pods have gone, and
    an agent that is still frozen after half of the time answers again: before its generation has made a step nobody can
    tell it from one that takes long to start.

    Raises:
        AssertionError: it hangs, or a law is broken on the way.
    """
    for count in range(ticks):
        if count == ticks // 2:
            world.thaw()
        live = [p for p in (*world.live(), *world.live_heads()) if p.name not in world.frozen]
        if world.status.completion_time is not None and not live:
            return world
        if world.job.spec.suspend and not live:
            world.edit(suspend=False)
        tick(world, watcher)
    raise AssertionError(f"not ended within {ticks} ticks: {world.status!r}\npods: {list(world.pods.values())!r}")


def comes_to_rest(world: World) -> None:
    """One pass has no effects left to plan for the next; the third has nothing at all to write.

    Raises:
        AssertionError: it goes on.
    """
    world = deepcopy(world)
    world.refuse_deletes = 0
    first, second = world.reconcile(), world.reconcile()
    if {delete.name for delete in second.delete if delete.force} & {delete.name for delete in first.delete}:
        second = world.reconcile()  # only what was told to go, and can't, is forced: that takes one pass more
    assert effects(second) == (), f"effects without a cause: {effects(second)!r}"
    expected = world.status.generation if is_ranked(world.job, world.status) else 0
    wanted, gang = may_have_pods(world.status), slots(world.job, world.status)
    beside = {member.name for member in candidates(world.observe(), world.status)}
    strangers = [
        p
        for p in world.live()
        if not p.terminating and not (wanted and announced(p) == (0 if p.name in beside else expected))
    ]
    assert not strangers, f"live pods that are no members: {strangers!r}"
    told_apart = [p for p in world.live() if not p.terminating and p.slot in gang]
    assert len({p.slot for p in told_apart}) == len(told_apart), f"two for one slot: {told_apart!r}"
    third = world.reconcile()
    assert third.status == world.status
    assert effects(third) == ()
    asleep = is_true(world.status.conditions, ConditionType.SUSPENDED)
    assert not (asleep and (world.live() or world.live_heads())), f"suspended, and pods run: {world.live()!r}"
    if world.status.completion_time is None and not asleep:
        assert third.requeue_after_s is not None, "nobody looks again"
    before = world.status
    world.now += timedelta(hours=1)
    much_later = world.reconcile()
    if before.completion_time is None and world.status.reason in DEADLINES:
        comes_to_rest(world)
    elif world.status.generation > before.generation:
        # A restart that was put off, or a hang, for nobody trains here. Time alone brings that, and deadlines.
        assert third.requeue_after_s is not None
        assert third.requeue_after_s <= REGULAR_S
        comes_to_rest(world)
    elif world.status.renewed_at != before.renewed_at or world.status.ray != before.ray:
        comes_to_rest(world)  # time alone also brings another pod for one that would join, or for a head that was lost
    else:
        assert effects(much_later) == ()


def crash_everywhere(world: World) -> None:
    """The operator dies after each write of its next pass; the job ends alike each time.

    Raises:
        AssertionError: it doesn't.
    """
    count = len(list(world.writes(world.think(world.observe()))))
    outcomes, known = [], list[World]()
    for stop_after in range(count + 1):
        copy = deepcopy(world)
        copy.reconcile(stop_after)
        copy.reconcile()  # started again, before the world has moved on
        if copy in known:  # nothing is left to chance here: it would end as that one did
            continue
        known.append(deepcopy(copy))
        outcomes.append(outcome(ends(copy, Watcher(copy))))
    assert all(found == outcomes[-1] for found in outcomes), f"depends on where it stopped: {outcomes!r}"


def outcome(world: World) -> tuple[object, ...]:
    """What is left of a job in the end, without the times."""
    status = world.status
    pods = sorted((pod.name, pod.phase) for pod in world.pods.values())
    failures = [(failure.pod, failure.cause, failure.reason, failure.exit_code) for failure in status.failures]
    return (
        status.state,
        status.reason,
        status.generation,
        status.attempt,
        status.restarts,
        tuple(sorted(status.incarnations.items())),
        tuple(failures),
        tuple(pods),
        None if status.ray is None else (status.ray.head, status.ray.restarts),
    )
