"""Jobs with a profile on a real API server: made of it, deaf to its later life, held while it says no."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from support.api import Jobs
from support.kubelet import Kubelet
from support.operators import OperatorProcess
from support.profiles import IMAGE, SOON_S, Profiles, containers, ready_message, reason, submit, wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
Start = Callable[..., OperatorProcess]


def test_the_pods_are_made_of_both_and_the_status_keeps_the_profile(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess
) -> None:
    made = profiles.create(
        workers={
            "image": IMAGE,
            "imagePullPolicy": "Always",
            "nodeSelector": {"pool": "h100"},
            "env": [{"name": "A", "value": "profile"}, {"name": "B", "value": "profile"}],
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "resources": {"requests": {"cpu": "2", "memory": "1Gi"}},
        }
    )
    own = {"env": [{"name": "B", "value": "job"}], "resources": {"requests": {"cpu": "1"}}}
    submit(jobs, profiles, "both", own | {"nodeSelector": {"pool": "cheap", "disk": "ssd"}})
    wait(jobs, "both", "two pods", lambda: len(jobs.pods("both")) == 2, 40)
    for pod in jobs.pods("both"):
        container = pod["spec"]["containers"][0]
        assert (container["image"], container["imagePullPolicy"]) == (IMAGE, "Always")
        variables = {v["name"]: v.get("value") for v in container["env"]}
        assert (variables["A"], variables["B"]) == ("profile", "job")
        assert container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
        assert pod["spec"]["nodeSelector"] == {"pool": "h100", "disk": "ssd"}
        assert "gpu" in {toleration.get("key") for toleration in pod["spec"]["tolerations"]}
    kept = jobs.status("both")["profile"]
    assert (kept["name"], kept["uid"], kept["generation"]) == (profiles.name, made["metadata"]["uid"], 1)
    assert kept["spec"]["workers"]["image"] == IMAGE
    assert "image" not in jobs.get("both")["spec"]["workers"], "the spec is the user's alone"


def test_an_edit_and_a_deletion_of_the_profile_change_no_job(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    profiles.create()
    submit(jobs, profiles, "old")
    wait(jobs, "old", "ready", lambda: jobs.status("old").get("readyNodes") == "2/2", 40)
    profiles.edit(workers={"image": "example.org/pool:2"}, limits={"maxReplicas": 1})
    jobs.delete_pod("old-worker-1-0")
    wait(jobs, "old", "a replacement", lambda: "old-worker-1-1" in jobs.live("old"))
    profiles.delete()
    jobs.delete_pod("old-worker-0-0")
    wait(jobs, "old", "another one", lambda: "old-worker-0-1" in jobs.live("old"))
    assert {container["image"] for container in containers(jobs, "old")} == {IMAGE}
    wait(jobs, "old", "ready again", lambda: jobs.status("old").get("readyNodes") == "2/2")
    assert jobs.status("old")["profile"]["spec"] == {"workers": {"image": IMAGE}}


def test_suspended_and_resumed_a_job_is_what_it_was_at_its_start(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    profiles.create()
    submit(jobs, profiles, "paused")
    wait(jobs, "paused", "ready", lambda: jobs.status("paused").get("readyNodes") == "2/2", 40)
    jobs.api.merge(f"{jobs.path}/paused", {"spec": {"suspend": True}})
    wait(jobs, "paused", "suspended", lambda: jobs.state("paused") == "Suspended")
    assert jobs.live("paused") == []
    profiles.edit(workers={"image": "example.org/pool:2"}, limits={"maxReplicas": 1})
    jobs.api.merge(f"{jobs.path}/paused", {"spec": {"suspend": False}})
    wait(jobs, "paused", "its pods", lambda: len(jobs.live("paused")) == 2)
    assert {container["image"] for container in containers(jobs, "paused")} == {IMAGE}
    assert jobs.status("paused")["profile"]["generation"] == 1


def test_a_job_above_the_limits_says_so_and_starts_once_they_are_raised(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess
) -> None:
    profiles.create(limits={"maxReplicas": 1, "maxResources": {"cpu": 2}, "imagePrefixes": ["example.org/"]})
    submit(jobs, profiles, "big", {"resources": {"limits": {"cpu": 4}}, "image": "elsewhere.org/mine:1"})
    wait(jobs, "big", "held", lambda: reason(jobs, "big") == "ProfileLimitExceeded")
    assert jobs.state("big") == "Pending"
    for wish in (
        "workers.replicas is 2, at most 1 allowed",
        "workers.resources.limits[cpu] is 4, at most 2 allowed",
        "workers.image is elsewhere.org/mine:1, which must begin with example.org/",
    ):
        assert wish in ready_message(jobs, "big")
    assert jobs.pods("big") == []
    assert "profile" not in jobs.status("big")

    profiles.edit(limits={"maxReplicas": 2, "maxResources": {"cpu": 2}})
    wait(jobs, "big", "one wish less", lambda: "replicas" not in ready_message(jobs, "big"), SOON_S)
    assert jobs.pods("big") == []
    profiles.edit(limits={"maxResources": {"cpu": 4}, "imagePrefixes": []})
    wait(jobs, "big", "its pods", lambda: len(jobs.pods("big")) == 2, SOON_S)
    assert {container["image"] for container in containers(jobs, "big")} == {"elsewhere.org/mine:1"}


def test_a_job_waits_for_a_profile_that_is_not_there_yet(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess
) -> None:
    submit(jobs, profiles, "early")
    wait(jobs, "early", "held", lambda: reason(jobs, "early") == "ProfileNotFound")
    assert f"there is no DeepSeekProfile {profiles.name}; create it" in ready_message(jobs, "early")
    assert jobs.pods("early") == []
    profiles.create()
    wait(jobs, "early", "its pods", lambda: len(jobs.pods("early")) == 2, SOON_S)
    assert reason(jobs, "early") != "ProfileNotFound"


def test_a_job_that_does_not_go_together_with_its_profile_says_why(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess
) -> None:
    profiles.create(workers={"resources": {"limits": {"memory": "1Gi"}}})
    submit(jobs, profiles, "odd", {"resources": {"requests": {"memory": "2Gi"}}})
    wait(jobs, "odd", "held", lambda: reason(jobs, "odd") == "ProfileUnusable")
    for part in ("workers.resources: a request is larger than its limit", "workers.image: neither the job nor"):
        assert part in ready_message(jobs, "odd")


def test_a_snapshot_that_somebody_wrote_is_refused_until_it_is_removed(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    profiles.create()
    submit(jobs, profiles, "forged")
    wait(jobs, "forged", "ready", lambda: jobs.status("forged").get("readyNodes") == "2/2", 40)
    path = f"{jobs.path}/forged/status"
    jobs.api.merge(path, {"status": {"profile": {"spec": {"workers": {"hostNetwork": True}}}}})
    wait(jobs, "forged", "refused", lambda: reason(jobs, "forged") == "InvalidSpec")
    stalled = {c["type"]: c for c in jobs.status("forged")["conditions"]}["Stalled"]
    assert "status.profile.spec is not valid: workers.hostNetwork" in stalled["message"]
    assert len(jobs.live("forged")) == 2, "the pods have done nothing wrong"
    jobs.api.merge(path, {"status": {"profile": None}})
    wait(jobs, "forged", "to go on", lambda: reason(jobs, "forged") != "InvalidSpec")
    assert jobs.status("forged")["profile"]["spec"] == {"workers": {"image": IMAGE}}
    assert jobs.status("forged")["attempt"] == 1


def test_two_jobs_of_one_profile_each_keep_what_it_said_at_their_start(
    jobs: Jobs, profiles: Profiles, operator: OperatorProcess
) -> None:
    profiles.create()
    submit(jobs, profiles, "first")
    wait(jobs, "first", "its pods", lambda: len(jobs.pods("first")) == 2, 40)
    profiles.edit(workers={"image": "example.org/pool:2"})
    submit(jobs, profiles, "second")
    wait(jobs, "second", "its pods", lambda: len(jobs.pods("second")) == 2)
    for name, image, generation in (("first", IMAGE, 1), ("second", "example.org/pool:2", 2)):
        assert {container["image"] for container in containers(jobs, name)} == {image}
        assert jobs.status(name)["profile"]["generation"] == generation
    assert json.dumps(jobs.status("first")).count("pool:2") == 0
