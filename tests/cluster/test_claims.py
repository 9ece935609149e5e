"""The claim that is made for a job's checkpoints, on a real API server; the operator has the chart's roles with rbac.claims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from deepseek_operator.api.names import API_VERSION, KIND
from support.api import Api, Jobs, Object
from support.eventually import eventually
from support.helm import NAMESPACE
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
Start = Callable[..., OperatorProcess]
STORAGE = "/apis/storage.k8s.io/v1/storageclasses"
CLASS = "growing"
ACCOUNT = "deepseek-operator"
DEADLINE_S = 60


@pytest.fixture
def chart_values() -> tuple[str, ...]:
    return ("rbac.claims=true",)


@pytest.fixture
def operator(operator_of_the_chart: Start) -> Iterator[OperatorProcess]:
    process = operator_of_the_chart(resync_interval_s=2)
    process.wait_for("leading")
    yield process
    assert [line for line in process.complaints() if "request refused" not in str(line)] == []


@pytest.fixture
def growing(api: Api) -> Iterator[str]:
    """A class whose claims can grow."""
    body = {"metadata": {"name": CLASS}, "provisioner": "example.com/none", "allowVolumeExpansion": True}
    api.create(STORAGE, body)
    yield CLASS
    api.delete(f"{STORAGE}/{CLASS}")


class Claims:
    """The claims of the test's namespace."""

    def __init__(self, jobs: Jobs) -> None:
        self._api = jobs.api
        self.path = f"/api/v1/namespaces/{jobs.namespace}/persistentvolumeclaims"

    def find(self, name: str) -> Object | None:
        found: Object | None = self._api.find(f"{self.path}/{name}")
        return found

    def get(self, name: str) -> Object:
        found: Object = self._api.get(f"{self.path}/{name}")
        return found

    def size(self, name: str) -> str:
        return str(self.get(name)["spec"]["resources"]["requests"]["storage"])

    def owners(self, name: str) -> list[str]:
        return [owner["uid"] for owner in self.get(name)["metadata"].get("ownerReferences", [])]

    def make(self, name: str, *modes: str, **meta: Any) -> Object:
        spec = {"accessModes": list(modes), "resources": {"requests": {"storage": "1Gi"}}}
        made: Object = self._api.create(self.path, {"metadata": {"name": name, **meta}, "spec": spec})
        return made

    def bind(self, name: str) -> None:
        """As the volume's controller does."""
        found = self.get(name)
        modes = found["spec"]["accessModes"]
        status = {"phase": "Bound", "accessModes": modes, "capacity": found["spec"]["resources"]["requests"]}
        self._api.merge(f"{self.path}/{name}", {"spec": {"volumeName": f"volume-of-{name}"}})
        self._api.merge(f"{self.path}/{name}/status", {"status": status})

    def remove(self, name: str) -> None:
        """At once; there is no controller that takes the finalizer away."""
        self._api.merge(f"{self.path}/{name}", {"metadata": {"finalizers": None}})
        self._api.delete(f"{self.path}/{name}")


@pytest.fixture
def claims(jobs: Jobs) -> Claims:
    return Claims(jobs)


def labels(job: str) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "deepseek-operator", "training.deepseekjob.dev/job-name": job}


def submit(jobs: Jobs, name: str, replicas: int = 1, **template: Any) -> Object:
    volume = {"template": {"size": "1Gi", **template}}
    return jobs.submit(name, replicas, checkpoint={"volume": volume})


def condition(jobs: Jobs, name: str, kind: str = "VolumeUsable") -> tuple[str, str]:
    found = {c["type"]: (c["status"], c["reason"]) for c in jobs.status(name).get("conditions", ())}
    return found.get(kind, ("", ""))


def message(jobs: Jobs, name: str, kind: str = "VolumeUsable") -> str:
    return str(next(c["message"] for c in jobs.status(name)["conditions"] if c["type"] == kind))


def wait(jobs: Jobs, name: str, what: str, probe: Callable[[], Any]) -> Any:
    return eventually(probe, deadline_s=DEADLINE_S, what=what, describe=lambda: jobs.describe(name))


def ready(jobs: Jobs, name: str, count: str) -> Any:
    return wait(jobs, name, f"{count} nodes are ready", lambda: jobs.status(name).get("readyNodes") == count)


def test_it_is_made_kept_and_taken_again(
    api: Api, jobs: Jobs, claims: Claims, operator: OperatorProcess, kubelet: Kubelet, growing: str
) -> None:
    submit(jobs, "kept", 2, storageClassName=growing)
    ready(jobs, "kept", "2/2")
    made = claims.get("kept-checkpoints")
    assert made["spec"]["accessModes"] == ["ReadWriteMany"]
    assert made["spec"]["storageClassName"] == growing
    assert "ownerReferences" not in made["metadata"]
    [volume] = [v for v in jobs.pods("kept")[0]["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert volume["persistentVolumeClaim"]["claimName"] == "kept-checkpoints"
    assert condition(jobs, "kept") == ("True", "AsExpected")

    # It grows as soon as it is bound, while the job runs.
    claims.bind("kept-checkpoints")
    api.merge(f"{jobs.path}/kept", {"spec": {"checkpoint": {"volume": {"template": {"size": "2Gi"}}}}})
    wait(jobs, "kept", "a larger claim", lambda: claims.size("kept-checkpoints") == "2Gi")

    # A job of the same name takes it again, and now it is to go with the job.
    api.delete(f"{jobs.path}/kept")
    wait(jobs, "kept", "the job to be gone", lambda: not api.find(f"{jobs.path}/kept"))
    api.delete(jobs.pods_path, grace_s=0)
    uid = submit(jobs, "kept", 2, storageClassName=growing, size="2Gi", onDelete="Delete")["metadata"]["uid"]
    ready(jobs, "kept", "2/2")
    wait(jobs, "kept", "an owner", lambda: claims.owners("kept-checkpoints") == [uid])
    assert claims.get("kept-checkpoints")["metadata"]["uid"] == made["metadata"]["uid"]
    api.merge(f"{jobs.path}/kept", {"spec": {"checkpoint": {"volume": {"template": {"onDelete": "Retain"}}}}})
    wait(jobs, "kept", "no owner", lambda: claims.owners("kept-checkpoints") == [])


def test_a_claim_that_is_not_the_job_s_is_left_alone_until_it_is_handed_over_or_gone(
    api: Api, jobs: Jobs, claims: Claims, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    before = claims.make("mine-checkpoints", "ReadWriteMany")
    submit(jobs, "mine", onDelete="Delete")
    wait(jobs, "mine", "the condition", lambda: condition(jobs, "mine") == ("False", "VolumeTaken"))
    assert (jobs.state("mine"), jobs.status("mine")["reason"], jobs.pods("mine")) == ("Pending", "VolumeTaken", [])
    assert "kubectl label pvc mine-checkpoints" in message(jobs, "mine")
    assert claims.get("mine-checkpoints")["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    api.merge(f"{claims.path}/mine-checkpoints", {"metadata": {"labels": labels("mine")}})
    ready(jobs, "mine", "1/1")

    # One that is about to go with a former job is no better.
    former = {"apiVersion": API_VERSION, "kind": KIND, "name": "again", "uid": str(uuid4()), "controller": True}
    first = claims.make("again-checkpoints", "ReadWriteMany", labels=labels("again"), ownerReferences=[former])
    submit(jobs, "again", onDelete="Delete")
    wait(jobs, "again", "the condition", lambda: condition(jobs, "again") == ("False", "VolumeGoing"))
    assert jobs.pods("again") == []
    claims.remove("again-checkpoints")
    ready(jobs, "again", "1/1")
    assert claims.get("again-checkpoints")["metadata"]["uid"] != first["metadata"]["uid"]


def test_given_claims_are_judged_by_their_access_modes(
    api: Api, jobs: Jobs, claims: Claims, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    for mode in ("ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany"):
        claims.make(mode.lower(), mode)
        jobs.submit(mode.lower(), 2, checkpoint={"volume": {"claimName": mode.lower()}})
    jobs.submit("missing", 2, checkpoint={"volume": {"claimName": "nowhere"}})
    expected = {
        "readwritemany": ("True", "AsExpected"),
        "readwriteonce": ("False", "VolumeOnOneNode"),
        "readwriteoncepod": ("False", "VolumeNotShared"),
        "readonlymany": ("False", "VolumeNotShared"),
        "missing": ("False", "VolumeNotFound"),
    }
    for name, wanted in expected.items():
        wait(jobs, name, str(wanted), lambda name=name, wanted=wanted: condition(jobs, name) == wanted)  # type: ignore[misc]
    for name in ("readwritemany", "readwriteonce"):
        ready(jobs, name, "2/2")
    for name in ("readwriteoncepod", "readonlymany"):
        assert (jobs.pods(name), jobs.status(name)["reason"]) == ([], "VolumeNotShared")
    assert "claim readwriteonce is ReadWriteOnce: only pods on one node can share it" in message(jobs, "readwriteonce")

    # One that is made of a class without growth stops nothing either.
    submit(jobs, "fixed")
    ready(jobs, "fixed", "1/1")
    claims.bind("fixed-checkpoints")
    api.merge(f"{jobs.path}/fixed", {"spec": {"checkpoint": {"volume": {"template": {"size": "2Gi"}}}}})
    wait(jobs, "fixed", "the refusal", lambda: condition(jobs, "fixed", "Stalled")[1] == "Refused")
    assert "resize" in message(jobs, "fixed", "Stalled")
    kubelet.finish("fixed-worker-0-0")
    wait(jobs, "fixed", "Succeeded", lambda: jobs.state("fixed") == "Succeeded")


def test_of_claims_the_operator_may_do_no_more(api: Api, jobs: Jobs, operator_of_the_chart: Start) -> None:
    def may(verb: str) -> bool:
        return api.allows(f"{NAMESPACE}:{ACCOUNT}", verb, "persistentvolumeclaims", jobs.namespace)

    eventually(lambda: may("patch"), deadline_s=60, what="the chart's roles are in force")
    verbs = ("get", "create", "patch", "update", "delete", "list", "watch", "deletecollection")
    assert [verb for verb in verbs if may(verb)] == ["get", "create", "patch"]


class TestWithoutTheRight:
    """The chart as it is by default."""

    @pytest.fixture
    def chart_values(self) -> tuple[str, ...]:
        return ()

    def test_a_job_that_wants_a_claim_says_what_is_missing(
        self, jobs: Jobs, claims: Claims, operator_of_the_chart: Start
    ) -> None:
        operator_of_the_chart().wait_for("leading")
        submit(jobs, "plain")
        wait(jobs, "plain", "the refusal", lambda: condition(jobs, "plain", "Stalled")[1] == "Refused")
        assert "the chart's value rbac.claims" in message(jobs, "plain", "Stalled")
        assert (jobs.pods("plain"), claims.find("plain-checkpoints")) == ([], None)
