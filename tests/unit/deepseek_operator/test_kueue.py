"""Kueue's objects: the Workload that is made, what is read of one, and how changes are noticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from deepseek_operator.api.names import API_VERSION, KIND
from deepseek_operator.cluster.client import JobRef
from deepseek_operator.cluster.errors import ApiError, Forbidden, NotFound
from deepseek_operator.decide.types import Queue
from deepseek_operator.kueue import Kueue, strip
from deepseek_operator.kueuewatch import INTERVAL_S, RETRY_S, WorkloadPoll
from deepseek_operator.render import worker_pod
from deepseek_operator.render.kueue import Placement, placed, workload
from support.make import UID, make_job

WORKERS = {"resources": {"requests": {"cpu": "2"}}, "nodeSelector": {"disk": "fast"}, "priorityClassName": "pods"}
OURS = {"apiVersion": API_VERSION, "kind": KIND, "uid": UID, "controller": True}


def job(**scheduling: Any) -> Any:
    return make_job(workers=WORKERS, spec={"scheduling": {"gang": "Kueue", "queue": "team", **scheduling}})


# -- the Workload ------------------------------------------------------------------------------------------------


def test_the_workload_asks_for_the_whole_gang() -> None:
    found = workload(job(), 3, 10)
    assert found["metadata"]["name"] == "deepseekjob-demo"
    assert found["metadata"]["ownerReferences"][0]["uid"] == UID
    spec = found["spec"]
    assert spec["queueName"] == "team"
    [pods] = spec["podSets"]
    assert (pods["name"], pods["count"]) == ("workers", 3)
    template = pods["template"]["spec"]
    assert template["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
    assert template["nodeSelector"] == {"disk": "fast"}
    assert not {"hostname", "subdomain"} & set(template)


@pytest.mark.parametrize(
    ("scheduling", "reference"),
    [
        ({}, {"group": "scheduling.k8s.io", "kind": "PriorityClass", "name": "pods"}),
        (
            {"priorityClassName": "gang"},
            {"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass", "name": "gang"},
        ),
    ],
)
def test_priority(scheduling: dict[str, str], reference: dict[str, str]) -> None:
    spec = workload(job(**scheduling), 3, 10)["spec"]
    assert (spec["priorityClassRef"], spec["priority"]) == (reference, 10)


def test_without_a_class_there_is_no_priority() -> None:
    plain = make_job(spec={"scheduling": {"gang": "Kueue", "queue": "team"}})
    assert not {"priority", "priorityClassRef"} & set(workload(plain, 3, None)["spec"])


def test_an_admission_adds_to_the_pods() -> None:
    pod = worker_pod(job(), 0, 0, None)
    taint = {"key": "reserved", "operator": "Exists"}
    place = Placement({"pool": "a", "disk": "slow"}, (taint, pod["spec"]["tolerations"][0]), {"l": "1"}, {"a": "2"})
    found = placed(pod, place)
    assert found["spec"]["nodeSelector"] == {"disk": "slow", "pool": "a"}
    assert found["spec"]["tolerations"] == [*pod["spec"]["tolerations"], taint]
    assert found["metadata"]["labels"] == {"l": "1", **pod["metadata"]["labels"]}
    assert found["metadata"]["annotations"]["a"] == "2"
    assert placed(pod, Placement())["spec"] == pod["spec"]


def test_the_head_of_ray_is_a_pod_set_of_its_own() -> None:
    with_ray = make_job(
        workers=WORKERS,
        spec={"scheduling": {"gang": "Kueue", "queue": "team"}, "data": {"corpus": "chitchat", "ray": {}}},
    )
    workers, head = workload(with_ray, 3, None)["spec"]["podSets"]
    assert (workers["name"], workers["count"]) == ("workers", 3)
    assert (head["name"], head["count"]) == ("ray-head", 1)
    assert head["template"]["spec"]["nodeSelector"] == {"disk": "fast"}
    assert head["template"]["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert workers["template"]["spec"]["initContainers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}


# -- what is read --------------------------------------------------------------------------------------------------


def raw(*conditions: tuple[str, str], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "deepseekjob-demo", "uid": "u", "resourceVersion": "5", "ownerReferences": [OURS]},
        "spec": {"podSets": [{"name": "workers", "count": 3}]},
        "status": {
            "conditions": [
                {"type": t, "status": s, "reason": f"{t}Reason", "message": f"{t} words"} for t, s in conditions
            ],
            **status,
        },
    }


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], {}),
        ([("QuotaReserved", "False")], {"message": "QuotaReserved words"}),
        (
            [("QuotaReserved", "True"), ("Admitted", "True")],
            {"reserved": True, "admitted": True, "message": "QuotaReserved words"},
        ),
        (
            [("QuotaReserved", "True"), ("Admitted", "True"), ("Evicted", "True")],
            {"reserved": True, "admitted": True, "evicted": "EvictedReason", "message": "Evicted words"},
        ),
        ([("Evicted", "False")], {}),
        ([("Finished", "True")], {"finished": True}),
    ],
)
def test_conditions(conditions: list[tuple[str, str]], expected: dict[str, Any]) -> None:
    found = strip(raw(*conditions), [])
    fields = ("reserved", "admitted", "evicted", "finished", "message")
    plain = {"reserved": False, "admitted": False, "evicted": "", "finished": False, "message": ""}
    assert {name: getattr(found, name) for name in fields} == plain | expected
    assert (found.pods, found.version, found.active) == (3, "5", True)


def test_the_head_goes_where_its_own_flavors_and_checks_say() -> None:
    updates = [{"name": "workers", "nodeSelector": {"zone": "b"}}, {"name": "ray-head", "nodeSelector": {"zone": "c"}}]
    workload = raw(admissionChecks=[{"name": "check", "podSetUpdates": updates}])
    workload["spec"]["podSets"].append({"name": "ray-head", "count": 1})
    found = strip(workload, [{"nodeLabels": {"pool": "a"}}], [{"nodeLabels": {"pool": "cpu"}}])
    assert found.pods == 3
    assert found.placement.node_selector == {"pool": "a", "zone": "b"}
    assert found.head_placement.node_selector == {"pool": "cpu", "zone": "c"}


def test_flavors_and_checks_say_where_the_pods_go() -> None:
    check = {
        "name": "check",
        "podSetUpdates": [
            {"name": "workers", "nodeSelector": {"zone": "b"}, "annotations": {"claim": "c"}, "labels": {"l": "1"}},
            {"name": "others", "nodeSelector": {"never": "mind"}},
        ],
    }
    taint = {"key": "gpu", "operator": "Exists"}
    place = strip(raw(admissionChecks=[check]), [{"nodeLabels": {"pool": "a"}, "tolerations": [taint]}, {}]).placement
    assert place == Placement({"pool": "a", "zone": "b"}, (taint,), {"l": "1"}, {"claim": "c"})


class Client:
    """Answers by path from a table; what isn't in it is not found."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def _answer(self, key: str, message: str) -> Any:
        found = self.answers.get(key)
        if isinstance(found, ApiError):
            raise found
        if found is None:
            raise NotFound(404, "NotFound", message, "GET")
        return found

    async def get_child(self, child: Mapping[str, Any]) -> Any:
        return self._answer("workload", f'workloads "{child["metadata"]["name"]}" not found')

    async def get_flavor(self, name: str) -> Any:
        return self._answer(f"flavor_{name}", "no flavor")

    async def get_priority(self, group: str, kind: str, name: str) -> Any:
        return self._answer("priority", "no class")

    async def list_workloads(self, namespace: str | None) -> Any:
        return self._answer("list", "404 page not found")


async def look(the_job: Any, **answers: Any) -> Queue | None:
    return await Kueue(Client(**answers)).look(the_job)  # type: ignore[arg-type]


async def test_a_job_without_a_queue_asks_for_nothing() -> None:
    assert await look(make_job()) is None


ASSIGNED = {"podSetAssignments": [{"name": "workers", "flavors": {"cpu": "f", "memory": "f"}}]}
MISSING = NotFound(404, "", "404 page not found", "GET")
NO = Forbidden(403, "Forbidden", "workloads is forbidden", "GET")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"priority": {"value": 7}}, Queue(priority=7)),
        ({}, "there is no PriorityClass pods; create it"),
        ({"workload": MISSING}, "install Kueue 0.15 or newer"),
        ({"workload": NO}, "workloads is forbidden: the operator has no right to it (the chart's value rbac.kueue)"),
        ({"workload": raw() | {"metadata": {"name": "x", "uid": "u"}}}, "belongs to something else"),
    ],
    ids=["none yet", "no class", "not installed", "no right", "foreign"],
)
async def test_what_keeps_a_job_from_asking_is_told(answers: dict[str, Any], expected: Queue | str) -> None:
    found = await look(job(), **answers)
    assert found is not None
    if isinstance(expected, str):
        assert expected in found.problem
    else:
        assert found == expected


async def test_an_admission_is_read_with_its_flavors() -> None:
    found = await look(job(), workload=raw(admission=ASSIGNED), flavor_f={"spec": {"nodeLabels": {"pool": "a"}}})
    assert found is not None
    assert found.workload is not None
    assert found.workload.placement.node_selector == {"pool": "a"}


async def test_a_flavor_that_is_gone_fails_the_pass_not_the_job() -> None:
    with pytest.raises(ApiError, match="ResourceFlavor f is gone"):
        await look(job(), workload=raw(admission=ASSIGNED))


# -- noticing changes ------------------------------------------------------------------------------------------------


async def test_only_changed_and_followed_jobs_are_woken() -> None:
    woken: list[str] = []
    client = Client(list=[JobRef("ns", "a", "u1", "1"), JobRef("ns", "b", "u2", "1")])
    poll = WorkloadPoll(client, (), lambda _, name: woken.append(name))  # type: ignore[arg-type]
    poll.follow("ns", "a")
    assert await poll.look() == INTERVAL_S
    assert await poll.look() == INTERVAL_S
    assert woken == ["a"]
    client.answers["list"] = [JobRef("ns", "a", "u1", "2"), JobRef("ns", "b", "u2", "2")]
    await poll.look()
    assert woken == ["a", "a"]
    client.answers["list"] = []
    await poll.look()
    assert woken == ["a", "a", "a"]


async def test_without_kueue_it_asks_rarely() -> None:
    poll = WorkloadPoll(Client(), ("one", "two"), lambda *_: None)  # type: ignore[arg-type]
    poll.follow("one", "a")
    assert await poll.look() == RETRY_S
