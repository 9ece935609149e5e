"""An in-memory cluster: it applies Plans, plays scheduler, kubelet and trainer, and lets faults happen.

It keeps what a real API server would: a status survives only in its wire form, a name exists once, a patch or a
delete with another UID is refused, a deleted pod that runs is first terminating.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from deepseek_operator.api.names import (
    ANNOTATION_MEMBERSHIP,
    ANNOTATION_REMINDER,
    LABEL_INCARNATION,
    LABEL_RAY_HEAD,
    LABEL_SLOT,
)
from deepseek_operator.api.v1alpha1 import AppliedProfile, DeepSeekJob, Status
from deepseek_operator.claims import claim_from
from deepseek_operator.cluster.client import controller_uid
from deepseek_operator.decide import decide
from deepseek_operator.decide.effective import effective
from deepseek_operator.decide.topology import nodes_to_read
from deepseek_operator.decide.types import (
    Claim,
    Event,
    Held,
    Observation,
    PatchClaim,
    Plan,
    Pod,
    Progress,
    RayChildren,
    SettledHang,
    Straggler,
)
from deepseek_operator.render.claims import CLAIM, own_claim, template_of
from deepseek_operator.render.disruptions import BUDGET
from deepseek_operator.render.gang import POD_GROUP
from deepseek_operator.render.kueue import WORKLOAD
from deepseek_operator.render.membership import read_announced
from deepseek_operator.render.ray import POLICY, SECRET
from support.make import START, make_checkpoint, make_claim, make_last_words, make_manifest
from support.quota import FakeKueue

Decide = Callable[[Observation], Plan]
CHECKPOINT_EVERY = 20
STEPS_A_TICK = 10
PATIENCE_TICKS = 3
GRACE = timedelta(seconds=30)
MARKED_AFTER = timedelta(seconds=40)
"""By then the control plane takes a dead node for lost, and the scheduler binds nothing to it."""
UNSCHEDULABLE = "Unschedulable"
UNTOUCHED = {"uid": "uid-claim", "resourceVersion": "1"}
"""What the API server adds to a claim that is made."""


@dataclass
class World:
    """One job and its children."""

    manifest: dict[str, Any] = field(default_factory=make_manifest)
    """As it was applied; changed by `edit` only."""
    think: Decide = decide
    now: datetime = START
    profile: AppliedProfile | Held | None = None
    """What is read where the job names a profile."""
    pods: dict[str, Pod] = field(default_factory=dict)
    heads: dict[str, Pod] = field(default_factory=dict)
    """Pods of the Ray head."""
    ray: RayChildren = field(default_factory=RayChildren)
    service: bool = False
    group: int | None = None
    """minMember of the PodGroup."""
    max_unavailable: int | str | None = None
    """Of the PodDisruptionBudget."""
    claim: Claim | None = None
    """The one for checkpoints; one that is given is there and can be shared, unless another is put here."""
    kueue: FakeKueue = field(default_factory=FakeKueue)
    events: list[Event] = field(default_factory=list, compare=False)
    status_writes: int = field(default=0, compare=False)
    step: int = 0
    saved_step: int = 0
    trained_generation: int = 0
    refuse_deletes: int = 0
    """So many of the next deletes fail."""
    frozen: set[str] = field(default_factory=set)
    """Pods that never finish terminating."""
    held: set[str] = field(default_factory=set)
    """Pods that don't come up."""
    capacity: int | None = None
    """So many pods find a place at a time; the others are Unschedulable until there is room. None: all do."""
    lost: set[str] = field(default_factory=set)
    """Pods whose node is proven to be lost, as soon as they are long overdue."""
    dead: set[str] = field(default_factory=set)
    """Nodes that don't answer any more; nobody there trains or ends."""
    hangs: set[int] = field(default_factory=set)
    """Generations that make no steps any more."""
    healed: list[SettledHang] = field(default_factory=list)
    """What the agents healed among themselves."""
    stragglers: tuple[Straggler, ...] | None = None
    """Who is slow, as node rank 0 finds."""
    mute: bool = False
    """Nobody answers when asked for the progress."""
    places: dict[int, str] = field(default_factory=dict)
    """Slot -> the node that its pods get; any other one's is node-<slot>, and once that is avoided or known to be dead
    spare-<slot>, then spare-<slot>-2, …"""
    zones: dict[str, str] = field(default_factory=dict)
    """Node -> its value of the topology's label."""
    broken_ray: bool = False
    """No head comes up."""
    deleted: bool = False
    """The job itself was deleted by the operator."""
    _serial: int = 0
    _alone: int = 0
    _dead_since: dict[str, datetime] = field(default_factory=dict)
    _planned: dict[int, bool] = field(default_factory=dict)
    """Generation -> whether it was planned."""
    _job: DeepSeekJob | None = None
    _job_before: DeepSeekJob | None = None

    # -- the operator's side -------------------------------------------------------------------------------

    @property
    def job(self) -> DeepSeekJob:
        if self._job is None:
            self._job = DeepSeekJob.model_validate(self.manifest)
        return self._job

    @property
    def status(self) -> Status:
        return self.job.status

    def edit(self, **spec: Any) -> None:
        """Somebody changes fields of the spec."""
        self.manifest["spec"] |= spec
        self.manifest["metadata"]["generation"] += 1
        wire = self._wire(self.status)
        self._job = DeepSeekJob.model_validate(self.manifest | {"status": wire})

    def lose_status(self) -> None:
        """Somebody wipes the status."""
        self._job = None

    def observe(self) -> Observation:
        pods = tuple(
            replace(
                pod,
                node_lost=pod.terminating and pod.name in self.lost,
                unreachable=pod.unreachable or pod.node in self.dead,
            )
            for pod in self.pods.values()
        )
        whole = effective(self.job, self.profile)
        seen = Observation(
            self.now,
            whole.job,
            pods,
            service_exists=self.service,
            heads=tuple(replace(head, node_lost=head.name in self.lost) for head in self.heads.values()),
            ray=self.ray,
            group_members=self.group,
            max_unavailable=self.max_unavailable,
            queue=self.kueue.look() if self.job.spec.scheduling.gang == "Kueue" else None,
            progress=None if self.mute else self.progress(),
            unanswered=self.mute,
            profile=whole.profile,
            held=whole.held,
            claims=self._claims(),
        )
        return replace(seen, nodes={node: self.zones.get(node) for node in nodes_to_read(seen)})

    def _claims(self) -> dict[str, Claim | None]:
        name = own_claim(self.job)
        if name is None:
            return {}
        return {name: self.claim or (make_claim(name) if template_of(self.job) is None else None)}

    def writes(self, plan: Plan) -> Iterator[Callable[[], None]]:
        """The plan's writes in their order; each may be the last one before a crash."""
        if plan.status != self.status:
            yield lambda: self._write_status(plan.status)
        yield from self._effects(plan)

    def _effects(self, plan: Plan) -> Iterator[Callable[[], None]]:
        for manifest in plan.create:
            yield lambda manifest=manifest: self._create(manifest)  # type: ignore[misc]
        for patch in plan.patch:
            yield lambda patch=patch: self._patch(patch.name, patch.uid, patch.annotations)  # type: ignore[misc]
        for delete in plan.delete:
            yield lambda delete=delete: self.delete(delete.name, delete.uid, force=delete.force)  # type: ignore[misc]
        if plan.claim is not None:
            yield lambda change=plan.claim: self._change_claim(change)  # type: ignore[misc]
        if plan.quota is not None:
            yield lambda quota=plan.quota: self.kueue.change(quota)  # type: ignore[misc]
        if plan.delete_job:
            yield lambda: setattr(self, "deleted", True)
        for event in plan.events:
            yield lambda event=event: self.events.append(event)  # type: ignore[misc]

    def reconcile(self, stop_after: int | None = None) -> Plan:
        """One pass; `stop_after` writes the operator dies."""
        plan = self.think(self.observe())
        for count, write in enumerate(list(self.writes(plan))):
            if count == stop_after:
                break
            write()
        return plan

    def reconcile_late(self) -> None:
        """A pass of a second operator that read the job a tick ago, and its children now.

        The API server refuses its status if the job has changed since, and then nothing of the pass happens.
        """
        present, before = self._job, self._job_before or self._job
        self._job = before
        plan = self.think(self.observe())
        self._job = present
        if plan.status != (before.status if before else Status()):
            if present is before:
                self.reconcile()
            return
        for write in list(self._effects(plan)):
            write()

    def _write_status(self, status: Status) -> None:
        survived = Status.model_validate(self._wire(status))
        self._job = self.job.model_copy(update={"status": survived})
        self.status_writes += 1
        self._planned[survived.generation] = survived.planned

    @staticmethod
    def _wire(status: Status) -> dict[str, Any]:
        return status.model_dump(by_alias=True, exclude_none=True, mode="json")

    def _create(self, manifest: dict[str, Any]) -> None:
        number = head_of(manifest)
        if manifest["kind"] == SECRET:
            self.ray = replace(self.ray, secret=True)
            return
        if manifest["kind"] == POLICY:
            self.ray = replace(self.ray, policy=True)
            return
        if manifest["kind"] == "Service" and number is not None:
            self.ray = replace(self.ray, service_head=number)
            return
        if manifest["kind"] == "Service":
            self.service = True
            return
        if number is not None:
            self._create_head(manifest["metadata"]["name"], number)
            return
        if manifest["kind"] == CLAIM:
            self.claim = self.claim or claim_from(manifest | {"metadata": UNTOUCHED | manifest["metadata"]})
            return
        if manifest["kind"] == BUDGET:
            self.max_unavailable = manifest["spec"]["maxUnavailable"]
            return
        if manifest["kind"] == WORKLOAD:
            self.kueue.make(manifest)
            return
        if manifest["kind"] == POD_GROUP:
            self.group = manifest["spec"]["minMember"]
            return
        meta = manifest["metadata"]
        name = meta["name"]
        if name in self.pods:
            return
        self._serial += 1
        self.pods[name] = Pod(
            name=name,
            uid=f"uid-{self._serial}",
            slot=int(meta["labels"][LABEL_SLOT]),
            incarnation=int(meta["labels"][LABEL_INCARNATION]),
            phase="Pending",
            membership=meta["annotations"].get(ANNOTATION_MEMBERSHIP),
        )

    def _change_claim(self, change: PatchClaim) -> None:
        if self.claim is None or (self.claim.uid, self.claim.version) != (change.uid, change.version):
            return
        owners = self.claim.owners if change.owners is None else change.owners
        self.claim = replace(
            self.claim,
            version=f"{self.claim.version}+",
            owners=owners,
            owner=controller_uid({"ownerReferences": owners}),
            size=change.size or self.claim.size,
        )

    def _create_head(self, name: str, number: int) -> None:
        if name not in self.heads:
            self._serial += 1
            self.heads[name] = Pod(name=name, uid=f"uid-{self._serial}", slot=0, incarnation=number, phase="Pending")

    def _patch(self, name: str, uid: str, annotations: dict[str, str]) -> None:
        pod = self.pods.get(name)
        if pod is not None and pod.uid == uid:
            self.pods[name] = replace(
                pod,
                membership=annotations.get(ANNOTATION_MEMBERSHIP, pod.membership),
                reminder=annotations.get(ANNOTATION_REMINDER, pod.reminder),
            )

    def delete(self, name: str, uid: str, *, force: bool = False) -> None:
        pods = self.heads if name in self.heads else self.pods
        pod = pods.get(name)
        if pod is None or pod.uid != uid:
            return
        if self.refuse_deletes > 0:
            self.refuse_deletes -= 1
        elif force or pod.phase in ("Succeeded", "Failed"):
            del pods[name]
        else:
            pods[name] = replace(pod, terminating=True, ready=False, gone_by=self.now + GRACE)

    # -- the cluster's side --------------------------------------------------------------------------------

    def kubelet(self) -> None:
        """Terminating pods go, pending pods run. A whole gang that is told to stop saves its last step."""
        self._dead_since = {node: self._dead_since.get(node, self.now) for node in self.dead}
        gang = self._newest(lambda pod: pod.terminating)
        if gang and len(gang) == told(gang[0], "nodes") and announced(gang[0]) == self.trained_generation:
            self.saved_step = self.step
        for name, head in list(self.heads.items()):
            if head.terminating and name not in self.frozen:
                del self.heads[name]
            elif head.phase == "Pending" and name not in self.held:
                self.heads[name] = replace(head, phase="Running", ready=not self.broken_ray, node="node-0")
            elif head.phase == "Running" and self.broken_ray:
                self.heads[name] = replace(head, phase="Failed", ready=False, exit_code=1)
        for name, pod in list(self.pods.items()):
            if pod.terminating and name not in self.frozen:
                del self.pods[name]
            elif pod.phase == "Pending" and name not in self.held and self._finds_place(pod):
                serial = int(pod.uid.removeprefix("uid-"))
                self.pods[name] = replace(
                    pod,
                    phase="Running",
                    ready=True,
                    reason="",
                    message="",
                    ip=f"10.0.{serial // 250}.{serial % 250 + 1}",
                    node=self._place(pod.slot),
                )

    def _finds_place(self, pod: Pod) -> bool:
        """Whether the scheduler binds a pending pod; it says so where it doesn't."""
        bound = sum(1 for other in self.pods.values() if other.phase == "Running" and other.name not in self.frozen)
        if self.capacity is not None and bound >= self.capacity and pod.reason in ("", UNSCHEDULABLE):
            said = f"0/{self.capacity} nodes are available"
            self.pods[pod.name] = replace(pod, reason=UNSCHEDULABLE, message=said)
            return False
        return not pod.reason or (pod.reason == UNSCHEDULABLE and pod.message.endswith("nodes are available"))

    def _place(self, slot: int) -> str:
        known = {node for node, since in self._dead_since.items() if self.now - since >= MARKED_AFTER}
        closed = known | {entry.node for entry in self.status.excluded_nodes}
        nodes = itertools.chain(
            [self.places.get(slot, f"node-{slot}"), f"spare-{slot}"], (f"spare-{slot}-{i}" for i in itertools.count(2))
        )
        return next(node for node in nodes if node not in closed)

    def members(self) -> list[Pod]:
        """Running pods that were told the newest generation that anybody was told."""
        return self._newest(lambda pod: not pod.terminating)

    def _newest(self, which: Callable[[Pod], bool]) -> list[Pod]:
        here = [pod for pod in self.pods.values() if pod.phase == "Running" and pod.node not in self.dead]
        told = [(announced(pod), pod) for pod in here if which(pod)]
        newest = max((generation for generation, _ in told), default=0)
        return [pod for generation, pod in told if generation == newest > 0]

    def train(self) -> None:
        """The gang makes steps if it is whole; on a new generation it goes back to the last checkpoint."""
        gang = self.members()
        if not gang or len(gang) != told(gang[0], "nodes"):
            self._wait_for_peers(gang)
            return
        self._alone = 0
        generation = announced(gang[0])
        if generation in self.hangs:
            return
        if self._moved_in_good_order(generation):
            self.saved_step = self.step
        if generation != self.trained_generation:
            self.step, self.trained_generation = self.saved_step, generation
        self.step = min(self.step + STEPS_A_TICK, 100)
        self.saved_step = max(self.saved_step, self.step // CHECKPOINT_EVERY * CHECKPOINT_EVERY)
        if self.step == 100:
            for pod in gang:
                self.end(pod.name, 0)

    def _moved_in_good_order(self, generation: int) -> bool:
        """Whether everybody could save before the move: nobody had to be waited for in vain."""
        steps = range(self.trained_generation + 1, generation + 1)
        mute = [pod for pod in self.pods.values() if pod.terminating and pod.name in self.frozen]
        return bool(steps) and all(self._planned.get(step) for step in steps) and not mute

    def _wait_for_peers(self, gang: list[Pod]) -> None:
        """A peer that has already ended well won't come back: after a while the others can't be reached."""
        done = any(pod.phase == "Succeeded" and announced(pod) >= self.status.generation for pod in self.pods.values())
        self._alone = self._alone + 1 if done else 0
        if self._alone > PATIENCE_TICKS:
            self._alone = 0
            for pod in gang:
                self.end(pod.name, 69)

    def progress(self) -> Progress | None:
        """What node rank 0 answers."""
        rank_zero = next((pod for pod in self.members() if read_announced(pod.membership).node_rank == 0), None)
        if rank_zero is None or announced(rank_zero) != self.trained_generation:
            return None
        saved = make_checkpoint(self.saved_step) if self.saved_step else None
        return Progress(
            generation=self.trained_generation,
            phase="training",
            step=self.step,
            total_steps=100,
            checkpoint=saved,
            hangs=tuple(self.healed[-8:]),
            stragglers=self.stragglers,
        )

    def thaw(self) -> None:
        """Agents that were frozen answer again."""
        for name, pod in self.pods.items():
            if pod.phase == "Running" and not pod.terminating:
                self.pods[name] = replace(pod, ready=True)

    def heal(self, slot: int | None, reason: str | None = "frozen") -> None:
        """A rank of that slot stands still (None: nobody stands out); the agents start the processes anew."""
        pod = next((pod.name for pod in self.members() if pod.slot == slot), "")
        number = sum(1 for hang in self.healed if hang.generation == self.trained_generation)
        self.healed.append(SettledHang(self.trained_generation, number, reason, slot, pod, self.step, 61.0, "/c/hangs"))
        self.step = self.saved_step

    # -- faults --------------------------------------------------------------------------------------------

    def vanish(self, name: str) -> None:
        """A pod is deleted by force."""
        self.pods.pop(name, None)
        self.heads.pop(name, None)

    def end_head(self, exit_code: int = 1) -> None:
        """The container of the newest head ends."""
        if live := [head for head in self.heads.values() if head.phase == "Running"]:
            self.heads[live[-1].name] = replace(live[-1], phase="Failed", ready=False, exit_code=exit_code)

    def end(self, name: str, exit_code: int, **fields: Any) -> None:
        """A pod's container ends."""
        pod = self.pods.get(name)
        if pod is None or pod.phase in ("Succeeded", "Failed"):
            return
        words = make_last_words(announced(pod), message="" if exit_code == 0 else "ValueError: bad", step=self.step)
        ended: dict[str, Any] = {
            "phase": "Succeeded" if exit_code == 0 else "Failed",
            "ready": False,
            "exit_code": exit_code,
            "message": words,
        }
        self.pods[name] = replace(pod, **(ended | fields))

    # -- time ----------------------------------------------------------------------------------------------

    def tick(self, seconds: float = 5.0, stop_after: int | None = None) -> Plan:
        """The kubelet acts, the queue acts, the operator acts, the trainer acts."""
        self.now += timedelta(seconds=seconds)
        self._job_before = self.job
        self.kubelet()
        self.kueue.act()
        plan = self.reconcile(stop_after)
        self.train()
        return plan

    def run(self, until: Callable[[World], bool], ticks: int = 200) -> World:
        """Ticks until the condition holds.

        Raises:
            AssertionError: it doesn't, after so many ticks; shows the last state.
        """
        for _ in range(ticks):
            if until(self):
                return self
            self.tick()
        raise AssertionError(f"not within {ticks} ticks: {self.status!r}\npods: {list(self.pods.values())!r}")

    def run_to_end(self) -> World:
        return self.run(
            lambda world: world.status.state in ("Succeeded", "Failed") and not world.live() and not world.live_heads()
        )

    def live(self) -> list[Pod]:
        """Workers' pods that run or will run."""
        return [pod for pod in self.pods.values() if pod.phase not in ("Succeeded", "Failed")]

    def live_heads(self) -> list[Pod]:
        """The same for the Ray head."""
        return [pod for pod in self.heads.values() if pod.phase not in ("Succeeded", "Failed")]


def head_of(manifest: dict[str, Any]) -> int | None:
    """The number of the Ray head that a pod is, or a Service points at; None: it is not about the head."""
    labels = manifest["metadata"].get("labels", {}) | manifest.get("spec", {}).get("selector", {})
    return int(labels[LABEL_RAY_HEAD]) if LABEL_RAY_HEAD in labels else None


def effects(plan: Plan) -> tuple[object, ...]:
    """What a plan does beside writing the status."""
    quota = () if plan.quota is None else (plan.quota,)
    return (*plan.create, *plan.patch, *plan.delete, *quota, *plan.events)


def told(pod: Pod, what: str) -> Any:
    """A part of what a pod was told; None where it wasn't."""
    return json.loads(pod.membership or "{}").get(what)


def announced(pod: Pod) -> int:
    """The generation that a pod was told."""
    return read_announced(pod.membership).generation
