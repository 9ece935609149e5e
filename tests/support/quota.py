"""A queue for the in-memory cluster: it admits, evicts and counts as Kueue does, for the one job that there is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from deepseek_operator.decide.types import DeleteWorkload, Manifest, PatchWorkload, Queue, Workload
from deepseek_operator.render.kueue import Placement


@dataclass
class FakeKueue:
    """The Workload and what becomes of it."""

    workload: Workload | None = None
    free: bool = True
    """Whether there is quota for the job."""
    problem: str = ""
    placement: Placement = field(default_factory=lambda: Placement(node_selector={"pool": "reserved"}))
    admissions: int = 0
    _serial: int = 0

    def look(self) -> Queue:
        return Queue(problem=self.problem) if self.problem else Queue(self.workload)

    def make(self, manifest: Manifest) -> None:
        """The operator creates the Workload."""
        if self.workload is None:
            self._serial += 1
            pods, *_ = manifest["spec"]["podSets"]
            name = manifest["metadata"]["name"]
            self.workload = Workload(name, f"wl-{self._serial}", version=f"{self._serial}.0", pods=pods["count"])

    def change(self, plan: PatchWorkload | DeleteWorkload) -> None:
        """The operator writes to the Workload, or deletes it."""
        found = self.workload
        if found is None:
            return
        if isinstance(plan, DeleteWorkload):
            self.workload = None if plan.uid == found.uid else found
        elif plan.version == found.version:
            says = {condition["type"]: condition["status"] for condition in plan.status["conditions"]}
            self._set(
                finished=says.get("Finished") == "True",
                reserved=says.get("QuotaReserved", str(found.reserved)) == "True",
                admitted=says.get("Admitted", str(found.admitted)) == "True",
            )

    def act(self) -> None:
        """Kueue's turn."""
        found = self.workload
        if found is None or found.finished:
            return
        if not found.active and found.reserved and not found.evicted:
            self.evict("Deactivated")
        elif found.active and self.free and not found.reserved:
            self.admissions += 1
            self._set(reserved=True, admitted=True, evicted="", message="", placement=self.placement)

    def evict(self, reason: str = "Preempted") -> None:
        """Kueue wants the quota back."""
        if self.workload is not None and self.workload.reserved:
            self._set(evicted=reason, message="to make room")

    def hold(self, active: bool) -> None:
        """An administrator sets spec.active."""
        self._set(active=active)

    def _set(self, **fields: object) -> None:
        assert self.workload is not None
        self._serial += 1
        self.workload = replace(self.workload, version=str(self._serial), **fields)  # type: ignore[arg-type]
