"""The laws of `support.laws`, over scenarios, over random histories, and against broken policies.

The last part shows that the laws have teeth: each broken `decide` must be caught by at least one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from deepseek_operator.decide import decide
from deepseek_operator.decide.types import DeletePod, Observation, Plan, Pod, SettledHang
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from support.laws import Watcher, comes_to_rest, crash_everywhere, ends, outcome, tick
from support.make import make_last_words, make_manifest
from support.world import Decide, World, announced

Fault = Callable[[World], object]


SPEC = {
    "elastic": {"minReplicas": 1, "maxReplicas": 6, "shrinkAfterSeconds": 20},
    "recovery": {"budgets": {"application": 3}, "hangTimeoutSeconds": 60},
}


def started(think: Decide = decide, *, ticks: int = 4) -> World:
    world = World(make_manifest(spec=SPEC), think=think)
    for _ in range(ticks):
        world.tick()
    return world


def live_name(world: World, slot: int) -> str:
    """The newest pod of a slot."""
    pods = [pod for pod in world.pods.values() if pod.slot == slot]
    return max(pods, key=lambda pod: pod.incarnation).name if pods else ""


def vanish(slot: int) -> Fault:
    return lambda world: world.vanish(live_name(world, slot))


def delete(slot: int) -> Fault:
    def fault(world: World) -> None:
        if pod := world.pods.get(live_name(world, slot)):
            world.delete(pod.name, pod.uid)

    return fault


def end(slot: int, exit_code: int) -> Fault:
    return lambda world: world.end(live_name(world, slot), exit_code)


def end_unheard(slot: int) -> Fault:
    """The pod makes the last step in the generation before, and never sees the one that it has been told."""

    def fault(world: World) -> None:
        pod = world.pods.get(live_name(world, slot))
        if pod is not None and pod.phase == "Running" and announced(pod) > 1:
            world.end(pod.name, 0, message=make_last_words(announced(pod) - 1))

    return fault


def node_lost(slot: int) -> Fault:
    """The pod is terminating, and its kubelet will never say that it is gone."""

    def fault(world: World) -> None:
        world.frozen.add(live_name(world, slot))
        delete(slot)(world)

    return fault


def disrupt(slot: int) -> Fault:
    def fault(world: World) -> None:
        if pod := world.pods.get(live_name(world, slot)):
            world.pods[pod.name] = replace(pod, disrupted=True)

    return fault


def suspend(world: World) -> None:
    world.edit(suspend=True)


def resume(world: World) -> None:
    world.edit(suspend=False)


def scale(replicas: int) -> Fault:
    return lambda world: world.edit(workers=world.manifest["spec"]["workers"] | {"replicas": replicas})


def room_for(pods: int | None) -> Fault:
    """From now on so many pods find a place; None: all."""
    return lambda world: setattr(world, "capacity", pods)


def deadline(**lifecycle: int) -> Fault:
    return lambda world: world.edit(lifecycle=lifecycle)


def killed_for_memory(slot: int) -> Fault:
    return lambda world: world.end(live_name(world, slot), 137, reason="OOMKilled", message="")


def ends_saying(slot: int, words: str) -> Fault:
    def fault(world: World) -> None:
        if pod := world.pods.get(live_name(world, slot)):
            world.end(pod.name, 1, reason="Error", message=make_last_words(announced(pod), message=words))

    return fault


def lost_with_its_node(slot: int) -> Fault:
    """As node_lost, and proven."""

    def fault(world: World) -> None:
        world.lost.add(live_name(world, slot))
        node_lost(slot)(world)

    return fault


def node_silent(slot: int) -> Fault:
    """The node with the pod of that slot doesn't answer any more, and Kubernetes still takes it for ready."""

    def fault(world: World) -> None:
        if (pod := world.pods.get(live_name(world, slot))) and pod.node:
            world.dead.add(pod.node)

    return fault


def hangs(world: World) -> None:
    """No step any more in this generation, for longer than is waited."""
    world.hangs.add(world.trained_generation)
    world.now += timedelta(minutes=2)


def heals(slot: int) -> Fault:
    """A rank stands still, and the agents start all processes anew."""

    def fault(world: World) -> None:
        if world.progress() is not None:
            world.heal(slot)

    return fault


def accused(slot: int) -> Fault:
    """A pod is frozen as a whole: its peers have found out, and so has the kubelet; nobody has waited for long."""

    def fault(world: World) -> None:
        pod = world.pods.get(live_name(world, slot))
        if pod is not None and pod.phase == "Running" and world.progress() is not None:
            world.pods[pod.name] = replace(pod, ready=False)
            world.hangs.add(world.trained_generation)
            world.healed.append(SettledHang(world.trained_generation, 0, "silent", None, pod.name))

    return fault


def second_operator(world: World) -> None:
    """Another replica, with an older view of the job, makes a pass."""
    world.reconcile_late()


def answers_nothing(slot: int) -> Fault:
    """The agent is frozen: neither ready nor heard, and no step is made."""

    def fault(world: World) -> None:
        if (pod := world.pods.get(live_name(world, slot))) and pod.phase == "Running":
            world.pods[pod.name] = replace(pod, ready=False)
        hangs(world)

    return fault


def head_ends(world: World) -> None:
    """The head of Ray dies."""
    world.end_head()


def head_gone(world: World) -> None:
    """Its pod is deleted by force."""
    for head in world.live_heads()[-1:]:
        world.vanish(head.name)


def head_lost(world: World) -> None:
    """It is terminating, and its kubelet will never say that it is gone."""
    for head in world.live_heads()[-1:]:
        world.frozen.add(head.name)
        world.delete(head.name, head.uid)


def ray_is_broken(world: World) -> None:
    """No head comes up any more."""
    world.broken_ray = True


def nothing(world: World) -> None:
    """No fault."""


def both(*faults: Callable[[World], object]) -> Fault:
    def fault(world: World) -> None:
        for one in faults:
            one(world)

    return fault


SCENARIOS: dict[str, Fault] = {
    "nothing": nothing,
    "pod deleted": delete(1),
    "pod gone": vanish(2),
    "node rank 0 gone": vanish(0),
    "two gone": both(vanish(0), vanish(2)),
    "all gone": both(vanish(0), vanish(1), vanish(2)),
    "node lost": node_lost(1),
    "disrupted": disrupt(1),
    "preempted": end(1, 75),
    "worker failed": end(1, 1),
    "worker failed beside a lost one": both(end(1, 1), vanish(2)),
    "unreachable": end(0, 69),
    "config": end(2, 78),
    "one succeeded, one lost": both(end(0, 0), vanish(1)),
    "one succeeded in a generation that is over": both(vanish(2), World.tick, end_unheard(0)),
    "one succeeded, one failed": both(end(0, 0), end(1, 1)),
    "all succeeded": both(end(0, 0), end(1, 0), end(2, 0)),
    "out of memory": killed_for_memory(1),
    "accelerator": ends_saying(2, "CUDA error: uncorrectable ECC error encountered"),
    "broken collectives": both(*[ends_saying(slot, "RuntimeError: NCCL error in: x") for slot in range(3)]),
    "crash": end(1, 139),
    "failed preflight": end(1, 71),
    "hang": hangs,
    "frozen, and its peers say so": accused(1),
    "frozen, and its peers say so, beside a lost one": both(accused(1), vanish(2)),
    "hang that was healed": heals(1),
    "hangs that were healed on one node": both(heals(1), heals(1)),
    "hang that was healed beside a lost one": both(heals(1), heals(1), vanish(2)),
    "hang that was healed beside a failed one": both(heals(1), heals(1), end(2, 1)),
    "frozen": answers_nothing(1),
    "lost with its node": lost_with_its_node(1),
    "node silent": node_silent(1),
    "node silent, and one evicted": both(node_silent(0), disrupt(1)),
    "node silent, and no other has room": both(room_for(2), node_silent(1)),
    "second operator": second_operator,
    "suspended": suspend,
    "suspended and resumed at once": both(suspend, resume),
    "suspended beside a lost one": both(suspend, vanish(1)),
    "suspended beside a failed one": both(end(1, 1), suspend),
    "suspended when all have succeeded": both(end(0, 0), end(1, 0), end(2, 0), suspend),
    "suspended with a lost node": both(suspend, node_lost(1)),
    "grown": scale(5),
    "shrunk": scale(1),
    "grown beside a lost one": both(scale(4), vanish(0)),
    "shrunk beside a lost one": both(scale(2), vanish(2)),
    "resized when one has succeeded": both(end(0, 0), scale(5)),
    "suspended and resized": both(suspend, scale(2)),
    "no room for a replacement": both(room_for(2), vanish(1)),
    "no room for two replacements": both(room_for(1), vanish(0), vanish(2)),
    "room for one of three": both(room_for(1), vanish(0), vanish(1), vanish(2)),
    "no room to grow": both(room_for(3), scale(5)),
    "room for one more of two": both(room_for(4), scale(5)),
    "no room to grow, and one lost": both(room_for(2), scale(5), vanish(1)),
    "no room, and scaled down": both(room_for(2), vanish(0), scale(2)),
    "no room, and suspended": both(room_for(2), vanish(0), suspend, resume),
    "no room, and one failed": both(room_for(2), end(1, 1)),
    "active deadline": deadline(activeDeadlineSeconds=1),
    "start deadline": deadline(startDeadlineSeconds=1),
    "deadlines and a lost one": both(deadline(activeDeadlineSeconds=1, startDeadlineSeconds=1), vanish(0)),
}


@pytest.mark.parametrize("ticks", [0, 1, 2, 5], ids=["new", "created", "launched", "training"])
@pytest.mark.parametrize("fault", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_stop_between_any_two_writes_is_harmless(fault: Fault, ticks: int) -> None:
    world = started(ticks=ticks)
    fault(world)
    crash_everywhere(world)


@pytest.mark.parametrize("ticks", [0, 1, 2, 5], ids=["new", "created", "launched", "training"])
@pytest.mark.parametrize("fault", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_operator_knows_when_it_is_done(fault: Fault, ticks: int) -> None:
    world = started(ticks=ticks)
    fault(world)
    comes_to_rest(world)


WITH_RAY: dict[str, Fault] = {
    "nothing": nothing,
    "head ended": head_ends,
    "head gone": head_gone,
    "head lost with its node": head_lost,
    "no head comes up": both(ray_is_broken, head_ends),
    "head ended beside a lost worker": both(head_ends, vanish(1)),
    "head ended when all have succeeded": both(end(0, 0), end(1, 0), end(2, 0), head_ends),
    "head ended, and suspended": both(head_ends, suspend),
    "suspended and resumed at once, the head lost with its node": both(head_lost, suspend, resume),
    "worker failed": end(1, 1),
    "config": end(2, 78),
    "second operator": both(head_ends, second_operator),
    "active deadline": deadline(activeDeadlineSeconds=1),
}


@pytest.mark.parametrize("ticks", [0, 1, 2, 5], ids=["new", "created", "launched", "training"])
@pytest.mark.parametrize("fault", WITH_RAY.values(), ids=WITH_RAY.keys())
def test_the_same_holds_of_a_job_with_ray(fault: Fault, ticks: int) -> None:
    world = World(make_manifest(spec=SPEC | {"data": {"corpus": "chitchat", "ray": {}}}))
    for _ in range(ticks):
        world.tick()
    fault(world)
    comes_to_rest(world)
    crash_everywhere(world)


@pytest.mark.parametrize(("slot", "ticks"), [(slot, ticks) for slot in range(3) for ticks in range(1, 12)])
def test_any_child_may_be_dropped_at_any_time(slot: int, ticks: int) -> None:
    world = started(ticks=ticks)
    world.vanish(live_name(world, slot))
    world.service = False
    watcher = Watcher(world)
    watcher.look()
    assert ends(world, watcher).status.state == "Succeeded"


@pytest.mark.parametrize("slots", [(0, 1), (1, 0), (2, 0), (0, 2)])
def test_the_order_of_losses_within_a_pass_does_not_matter(slots: tuple[int, int]) -> None:
    world, mirror = started(), started()
    both(vanish(slots[0]), end(slots[1], 75))(world)
    both(end(slots[1], 75), vanish(slots[0]))(mirror)
    assert outcome(ends(world, Watcher(world))) == outcome(ends(mirror, Watcher(mirror)))


slots = st.integers(0, 2)
faults = st.one_of(
    st.builds(vanish, slots),
    st.builds(delete, slots),
    st.builds(node_lost, slots),
    st.builds(disrupt, slots),
    st.builds(end, slots, st.sampled_from([0, 1, 69, 75, 137])),
    st.builds(end, slots, st.sampled_from([65, 78])),
    st.builds(end_unheard, slots),
    st.builds(end, slots, st.sampled_from([71, 134, 139, 143])),
    st.builds(killed_for_memory, slots),
    st.builds(ends_saying, slots, st.sampled_from(["NCCL error in: x", "CUDA error: uncorrectable ECC error"])),
    st.builds(lost_with_its_node, slots),
    st.builds(node_silent, slots),
    st.builds(answers_nothing, slots),
    st.builds(heals, slots),
    st.builds(accused, slots),
    st.sampled_from([hangs, second_operator]),
    st.sampled_from([head_ends, head_gone, head_lost, ray_is_broken]),
    st.sampled_from([suspend, resume]),
    st.builds(scale, st.integers(1, 5)),
    st.builds(room_for, st.sampled_from([1, 2, 3, 4, None])),
    st.builds(vanish, st.integers(3, 4)),
    st.builds(end, st.integers(3, 4), st.sampled_from([1, 69])),
    st.sampled_from([deadline(activeDeadlineSeconds=20), deadline(startDeadlineSeconds=3)]),
    st.just(nothing),
)
steps = st.tuples(faults, st.none() | st.integers(0, 4), st.integers(1, 3))


@settings(
    max_examples=int(os.environ.get("DEEPSEEKJOB_HISTORIES", "50")),
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # histories are short already; shrinking takes minutes
)
@given(history=st.lists(steps, max_size=6), refused=st.integers(0, 3), spares=st.integers(0, 2), with_ray=st.booleans())
@example(  # so many losses that a restart is put off: it must come when its time has come, though nothing happens
    history=[
        (delete(0), None, 2),
        (vanish(1), 4, 2),
        (node_lost(1), None, 1),
        (vanish(1), 0, 1),
        (vanish(0), 1, 1),
    ],
    refused=0,
    spares=0,
    with_ray=False,
)
@example(  # the restart is decided while the last step is made: those who succeed meanwhile never hear of it
    history=[(end(0, 137), None, 9), (disrupt(0), 1, 2)],
    refused=0,
    spares=0,
    with_ray=False,
)
@example(  # two nodes die one after the other: each is known to be dead before it may be used again
    history=[
        (disrupt(2), 2, 3),
        (node_silent(0), None, 3),
        (end(2, 75), None, 1),
        (accused(2), 0, 2),
        (accused(2), None, 1),
        (node_silent(0), None, 1),
    ],
    refused=0,
    spares=0,
    with_ray=False,
)
@example(  # a worker joins while the others make the last step: they were told of it, and never saw it
    history=[(vanish(2), None, 2), (both(scale(4), World.tick, World.tick, end_unheard(0), end_unheard(1)), None, 3)],
    refused=0,
    spares=0,
    with_ray=False,
)
def test_any_history_ends_and_keeps_the_laws(
    history: list[tuple[Fault, int | None, int]], refused: int, spares: int, with_ray: bool
) -> None:
    """Faults, operators that die after some writes, and refused deletes, in any order: no job hangs."""
    data = {"data": {"corpus": "chitchat", "ray": {}}} if with_ray else {}
    world = World(make_manifest(spec=SPEC | data | {"scheduling": {"spares": spares}}))
    world.refuse_deletes = refused
    watcher = Watcher(world)
    for fault, stop_after, ticks in history:
        fault(world)
        world.tick(stop_after=stop_after)
        watcher.look(whole_pass=stop_after is None)
        comes_to_rest(world)
        for _ in range(ticks):
            tick(world, watcher)
    ends(world, watcher)
    comes_to_rest(world)


# -- broken policies -----------------------------------------------------------------------------------------


def with_status(seen: Observation, **fields: object) -> Observation:
    status = seen.job.status.model_copy(update=fields)
    return replace(seen, job=seen.job.model_copy(update={"status": status}))


def never_launched(seen: Observation) -> Plan:
    """A missing pod is always taken for one that is yet to be created."""
    every_slot = list(range(seen.job.spec.workers.replicas))
    plan = decide(with_status(seen, launched_generation=0, replaced=every_slot))
    return replace(plan, status=plan.status.model_copy(update={"launched_generation": 0, "replaced": every_slot}))


def same_name(seen: Observation) -> Plan:
    """A replacement takes the name of its predecessor."""
    plan = decide(seen)
    return replace(plan, status=plan.status.model_copy(update={"incarnations": {}}))


def no_fence(seen: Observation) -> Plan:
    """A restart keeps the generation."""
    plan = decide(seen)
    return replace(plan, status=plan.status.model_copy(update={"generation": min(plan.status.generation, 1)}))


def edge_triggered(seen: Observation) -> Plan:
    """Effects only in the pass that changes the status, so that a stop in between loses them."""
    plan = decide(seen)
    if plan.status == seen.job.status and seen.job.status.completion_time is None:
        return Plan(status=plan.status, requeue_after_s=plan.requeue_after_s)
    return plan


def forgetful(seen: Observation) -> Plan:
    """Strangers are left running."""
    plan = decide(seen)
    return replace(plan, delete=()) if plan.status.completion_time is None else plan


def one_delete(seen: Observation) -> Plan:
    """An ended job's pods are deleted once, and a refusal is not noticed."""
    plan = decide(seen)
    return replace(plan, delete=()) if seen.job.status.completion_time is not None else plan


def silent_survivors(seen: Observation) -> Plan:
    """Survivors aren't told the new generation."""
    return replace(decide(seen), patch=())


def uncounted(seen: Observation) -> Plan:
    """Every loss is charged twice."""
    plan = decide(seen)
    if plan.status.generation == seen.job.status.generation or plan.status.generation == 1:
        return plan
    restarts = plan.status.restarts
    doubled = restarts.model_copy(update={"infrastructure": restarts.infrastructure + 1})
    return replace(plan, status=plan.status.model_copy(update={"restarts": doubled}))


def restless(seen: Observation) -> Plan:
    """Events are emitted as long as a state lasts."""
    plan = decide(seen)
    return replace(plan, events=plan.events or (decide(with_status(seen, generation=0)).events if seen.pods else ()))


def never_complete(seen: Observation) -> Plan:
    """Succeeded members are not replaced with a lost one, so the others wait for ever."""
    plan = decide(seen)
    done = {str(pod.slot) for pod in seen.pods if pod.phase == "Succeeded"}
    kept = {slot: count for slot, count in plan.status.incarnations.items() if slot not in done}
    return replace(plan, status=plan.status.model_copy(update={"incarnations": kept}))


def sleepless(seen: Observation) -> Plan:
    """The pods of a suspended job are left running."""
    plan = decide(seen)
    return replace(plan, delete=()) if seen.job.spec.suspend else plan


def suspended_too_soon(seen: Observation) -> Plan:
    """Suspended is said when the pods are told to go, and not when they have gone."""
    return decide(replace(seen, pods=tuple(pod for pod in seen.pods if not pod.terminating)))


def forgets_its_runs(seen: Observation) -> Plan:
    """Each resumption starts the active time anew."""
    plan = decide(seen)
    return replace(plan, status=plan.status.model_copy(update={"active_seconds": 0}))


def resumes_under_old_names(seen: Observation) -> Plan:
    """A resumption is no new generation: the pods are just created again."""
    status = seen.job.status
    if status.generation > 0 and status.active_since is None and not seen.job.spec.suspend:
        seen = with_status(seen, active_since="2026-03-01T12:00:00Z", launched_generation=0)
    return decide(seen)


def random_names(seen: Observation) -> Plan:
    """Each pod gets a name that was never used before."""
    plan = decide(seen)
    pods = [manifest for manifest in plan.create if manifest["kind"] == "Pod"]
    for number, pod in enumerate(pods):
        unique = f"{pod['metadata']['name']}-{seen.now.timestamp():.0f}{number}"
        pod["metadata"] = pod["metadata"] | {"name": unique}
    return plan


class TrustsTheCache:
    """The pods are those of the pass before, as a watch that lags behind shows them."""

    __name__ = "trusts_the_cache"

    def __init__(self) -> None:
        self.pods: tuple[Pod, ...] = ()

    def __call__(self, seen: Observation) -> Plan:
        stale, self.pods = self.pods, seen.pods
        return decide(replace(seen, pods=stale))


def charged_to_the_cluster(seen: Observation) -> Plan:
    """No budget is ever spent."""
    plan = decide(seen)
    return replace(plan, status=plan.status.model_copy(update={"restarts": seen.job.status.restarts}))


def forgets_the_record(seen: Observation) -> Plan:
    """What was seen before doesn't count: each look judges anew, and tells it again."""
    kept = [failure.model_copy(update={"attempt": 0}) for failure in seen.job.status.failures]
    return decide(with_status(seen, failures=kept))


def forces_members(seen: Observation) -> Plan:
    """Whatever terminates is deleted by force, replaced or not."""
    plan = decide(seen)
    forced = tuple(DeletePod(pod.name, pod.uid, force=True) for pod in seen.pods if pod.terminating)
    return replace(plan, status=seen.job.status if forced else plan.status, delete=plan.delete + forced)


def too_soon(seen: Observation) -> Plan:
    """Whoever is wanted joins, ready or not."""
    up = tuple(replace(pod, ready=True, reason="") if pod.phase == "Pending" else pod for pod in seen.pods)
    return decide(replace(seen, pods=up))


def waits_for_room(seen: Observation) -> Plan:
    """A generation waits for all of its members, as long as it takes."""
    return decide(with_status(seen, assembling_since=None))


BROKEN: list[Decide] = [
    too_soon,
    waits_for_room,
    random_names,
    TrustsTheCache(),
    charged_to_the_cluster,
    forgets_the_record,
    forces_members,
    never_launched,
    same_name,
    no_fence,
    edge_triggered,
    forgetful,
    one_delete,
    silent_survivors,
    uncounted,
    restless,
    never_complete,
    sleepless,
    suspended_too_soon,
    forgets_its_runs,
    resumes_under_old_names,
]


def check(think: Decide) -> None:
    """A short life with every kind of trouble in it, under all laws."""
    faults = (vanish(1), delete(0), disrupt(2), end(1, 1), end(2, 78), both(end(0, 0), vanish(1)), killed_for_memory(1))
    for fault in (*faults, suspend, scale(5), scale(2), both(room_for(3), scale(5)), both(room_for(2), vanish(1))):
        world = started(think)
        watcher = Watcher(world)
        watcher.look()
        fault(world)
        crash_everywhere(world)
        world.refuse_deletes = 2
        tick(world, watcher)
        comes_to_rest(world)
        ends(world, watcher)


def test_the_policy_keeps_the_laws() -> None:
    check(decide)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_the_laws_catch(broken: Decide) -> None:
    with pytest.raises(AssertionError):
        check(broken)
