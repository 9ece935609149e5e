"""A job with data.ray on a real API server, the operator as the chart's service account with rbac.ray and no other right."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deepseek_operator.api.names import API_VERSION, KIND
from support.api import Api, Jobs, Object
from support.eventually import eventually
from support.helm import NAMESPACE
from support.kubelet import Kubelet
from support.operators import OperatorProcess

pytestmark = pytest.mark.cluster
Start = Callable[..., OperatorProcess]
DEADLINE_S = 60


@pytest.fixture
def chart_values() -> tuple[str, ...]:
    return ("rbac.ray=true",)


@pytest.fixture
def operator(operator_of_the_chart: Start) -> Iterator[OperatorProcess]:
    process = operator_of_the_chart()
    process.wait_for("leading")
    yield process
    assert process.complaints() == []


def submit(jobs: Jobs, name: str, **ray: Any) -> Object:
    spec = {
        "workers": {"replicas": 2, "image": "example.org/trainer:1"},
        "trainer": {"training": {"steps": 100, "globalBatchSize": 16}},
        "data": {"corpus": "chitchat", "ray": ray},
    }
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
    created: Object = jobs.api.create(jobs.path, body)
    return created


def condition(jobs: Jobs, name: str, kind: str = "RayReady") -> tuple[str, str]:
    found = {c["type"]: (c["status"], c["reason"]) for c in jobs.status(name).get("conditions", ())}
    return found.get(kind, ("", ""))


def wait(jobs: Jobs, name: str, what: str, probe: Callable[[], Any]) -> Any:
    return eventually(probe, deadline_s=DEADLINE_S, what=what, describe=lambda: jobs.describe(name))


def secret_of(jobs: Jobs, name: str, uid: str) -> Object:
    found: Object = jobs.api.get(f"/api/v1/namespaces/{jobs.namespace}/secrets/{name}-ray-{uid[:8]}")
    return found


def children(jobs: Jobs, name: str, uid: str) -> dict[str, Object]:
    core, networking = (f"{root}/namespaces/{jobs.namespace}" for root in ("/api/v1", "/apis/networking.k8s.io/v1"))
    return {
        "secret": secret_of(jobs, name, uid),
        "service": jobs.api.get(f"{core}/services/{name}-ray"),
        "policy": jobs.api.get(f"{networking}/networkpolicies/{name}-ray"),
        "head": jobs.api.get(f"{jobs.pods_path}/{name}-ray-0"),
    }


def heads(jobs: Jobs, name: str) -> list[str]:
    return [pod for pod in jobs.live(name) if pod.startswith(f"{name}-ray-")]


def test_all_of_it_is_made_and_belongs_to_the_job(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    uid = submit(jobs, "with-ray")["metadata"]["uid"]
    wait(jobs, "with-ray", "Ray is ready", lambda: condition(jobs, "with-ray") == ("True", "Ready"))
    found = children(jobs, "with-ray", uid)
    for child in found.values():
        [owner] = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
    token = base64.b64decode(found["secret"]["data"]["token"]).decode()
    assert len(token) == 64
    assert found["secret"]["immutable"] is True
    for thing in (jobs.get("with-ray"), *jobs.pods("with-ray"), *(v for k, v in found.items() if k != "secret")):
        assert token not in json.dumps(thing)
    assert token not in operator.log.read_text()
    workers = [pod for pod in jobs.pods("with-ray") if "worker" in pod["metadata"]["name"]]
    assert [pod["spec"]["initContainers"][0]["name"] for pod in workers] == ["ray", "ray"]
    wait(jobs, "with-ray", "all nodes are ready", lambda: jobs.status("with-ray")["readyNodes"] == "2/2")


def test_each_job_has_a_token_of_its_own_that_is_made_once(
    jobs: Jobs, operator: OperatorProcess, operator_of_the_chart: Start, kubelet: Kubelet
) -> None:
    tokens = {}
    uids = {name: submit(jobs, name)["metadata"]["uid"] for name in ("one", "two")}
    for name, uid in uids.items():
        wait(jobs, name, "Ray is ready", lambda name=name: condition(jobs, name) == ("True", "Ready"))  # type: ignore[misc]
        tokens[name] = secret_of(jobs, name, uid)["data"]["token"]
    assert tokens["one"] != tokens["two"]
    version = secret_of(jobs, "one", uids["one"])["metadata"]["resourceVersion"]
    operator.kill()
    # It remembers nothing, and may not look. With the identity that every first operator has, nobody waits for the Lease.
    again = operator_of_the_chart(identity="operator-0")
    again.wait_for("leading", deadline_s=60)
    jobs.delete_pod("one-ray-0")
    wait(jobs, "one", "the next head", lambda: heads(jobs, "one") == ["one-ray-1"])
    jobs.api.delete(f"{jobs.pods_path}/one-worker-0-0", grace_s=0)
    wait(jobs, "one", "the next worker", lambda: "one-worker-0-1" in jobs.live("one"))
    found = secret_of(jobs, "one", uids["one"])
    assert (found["data"]["token"], found["metadata"]["resourceVersion"]) == (tokens["one"], version)
    assert again.complaints() == []


@pytest.mark.parametrize("terminating", [False, True], ids=["gone", "stuck in Terminating"])
def test_a_lost_head_is_replaced_and_the_service_follows(
    jobs: Jobs, operator: OperatorProcess, terminating: bool
) -> None:
    submit(jobs, "head")
    with Kubelet(jobs.api, jobs.namespace):
        wait(jobs, "head", "Ray is ready", lambda: condition(jobs, "head") == ("True", "Ready"))
    # No kubelet any more: what is deleted with grace stays.
    jobs.delete_pod("head-ray-0", grace_s=30 if terminating else 0)
    wait(jobs, "head", "the next head", lambda: heads(jobs, "head") == ["head-ray-1"])
    service = f"/api/v1/namespaces/{jobs.namespace}/services/head-ray"
    selector = "training.deepseekjob.dev/ray-head"
    wait(jobs, "head", "the Service", lambda: jobs.api.get(service)["spec"]["selector"][selector] == "1")
    status = jobs.status("head")
    assert (status["generation"], status["totalRestarts"], status["ray"]["restarts"]) == (1, 0, 1)
    assert (jobs.api.find(f"{jobs.pods_path}/head-ray-0") is not None) == terminating


def test_the_job_succeeds_without_ray_and_nothing_of_it_runs_on(
    jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    submit(jobs, "broken")
    wait(jobs, "broken", "Ray is ready", lambda: condition(jobs, "broken") == ("True", "Ready"))
    kubelet.finish("broken-ray-0", exit_code=1, message="no memory")
    for slot in range(2):
        kubelet.finish(f"broken-worker-{slot}-0")
    wait(jobs, "broken", "Succeeded", lambda: jobs.state("broken") == "Succeeded")
    wait(jobs, "broken", "no live pod", lambda: not jobs.live("broken"))
    assert jobs.status("broken")["attempt"] == 1
    assert condition(jobs, "broken") == ("False", "Finished")


def test_a_suspended_job_has_no_head(jobs: Jobs, operator: OperatorProcess, kubelet: Kubelet) -> None:
    submit(jobs, "sleepy")
    wait(jobs, "sleepy", "Ray is ready", lambda: condition(jobs, "sleepy") == ("True", "Ready"))
    jobs.api.merge(f"{jobs.path}/sleepy", {"spec": {"suspend": True}})
    wait(jobs, "sleepy", "Suspended", lambda: jobs.state("sleepy") == "Suspended")
    assert jobs.live("sleepy") == []
    jobs.api.merge(f"{jobs.path}/sleepy", {"spec": {"suspend": False}})
    wait(jobs, "sleepy", "the next run's head", lambda: heads(jobs, "sleepy") == ["sleepy-ray-1"])


@pytest.mark.parametrize(
    ("verb", "allowed"), [("create", True), ("get", False), ("list", False), ("watch", False), ("delete", False)]
)
def test_of_secrets_the_operator_may_create_alone(
    api: Api, jobs: Jobs, operator: OperatorProcess, verb: str, allowed: bool
) -> None:
    assert api.allows(f"{NAMESPACE}:deepseek-operator", verb, "secrets", jobs.namespace) is allowed


class TestWithoutTheRight:
    """The chart as it is by default."""

    @pytest.fixture
    def chart_values(self) -> tuple[str, ...]:
        return ()

    def test_a_job_trains_without_ray_and_says_why(
        self, jobs: Jobs, operator_of_the_chart: Start, kubelet: Kubelet
    ) -> None:
        operator_of_the_chart().wait_for("leading")
        submit(jobs, "plain")
        wait(jobs, "plain", "both workers", lambda: jobs.status("plain").get("readyNodes") == "2/2")
        wait(jobs, "plain", "the refusal", lambda: condition(jobs, "plain", "Stalled")[1] == "Refused")
        said = [c["message"] for c in jobs.status("plain")["conditions"] if c["type"] == "Stalled"]
        assert "the chart's value rbac.ray" in said[0]
        for slot in range(2):
            kubelet.finish(f"plain-worker-{slot}-0")
        wait(jobs, "plain", "Succeeded", lambda: jobs.state("plain") == "Succeeded")
