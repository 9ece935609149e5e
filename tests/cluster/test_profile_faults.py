"""Jobs with a profile while the operator dies, is counted, or may not read profiles."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.api import Api, Jobs
from support.eventually import eventually
from support.faultproxy import FaultProxy
from support.operators import OperatorProcess
from support.profiles import IMAGE, SOON_S, Profiles, containers, ready_message, reason, submit, wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
Start = Callable[..., OperatorProcess]


def test_killed_between_the_start_and_the_pods_the_job_is_made_of_the_profile_of_its_start(
    api: Api, jobs: Jobs, profiles: Profiles, start_operator: Start, tmp_path: Path
) -> None:
    profiles.create()
    with FaultProxy(api) as proxy:
        config = proxy.kubeconfig(tmp_path)
        operator = start_operator(config, leader_election=False)
        operator.wait_for("leading", deadline_s=60)
        proxy.at_write = lambda number: operator.process.send_signal(signal.SIGKILL)
        submit(jobs, profiles, "torn")
        eventually(lambda: operator.process.poll() is not None, deadline_s=60, what="killed at the first write")
        proxy.at_write = lambda number: None
        assert jobs.pods("torn") == []
        assert jobs.status("torn")["profile"]["spec"] == {"workers": {"image": IMAGE}}
        profiles.edit(workers={"image": "example.org/pool:2"})
        start_operator(config, leader_election=False)
        wait(jobs, "torn", "its pods", lambda: len(jobs.pods("torn")) == 2, 60)
    assert {container["image"] for container in containers(jobs, "torn")} == {IMAGE}


def test_a_profile_costs_one_read_and_no_write(
    api: Api, jobs: Jobs, profiles: Profiles, start_operator: Start, tmp_path: Path
) -> None:
    profiles.create()
    with FaultProxy(api) as proxy:
        # A resync that comes between a job's creation and its event would look at the job, and at its profile, twice.
        operator = start_operator(proxy.kubeconfig(tmp_path), leader_election=False, resync_interval_s=3600)
        operator.wait_for("leading", deadline_s=60)

        def requests(name: str) -> tuple[int, int]:
            """Writes of objects, and reads of profiles, until the job has been launched; how many passes write the status is
            a matter of how fast the pods are seen."""
            wait(jobs, name, "launched", lambda: jobs.status(name).get("launchedGeneration") == 1, 40)
            writes = [
                one
                for one in proxy.seen
                if one.is_write and one.status < 300 and not one.path.partition("?")[0].endswith(("/status", "/events"))
            ]
            reads = [one for one in proxy.seen if "deepseekprofiles" in one.path]
            proxy.seen.clear()
            return len(writes), len(reads)

        jobs.submit("plain", replicas=8)
        plain = requests("plain")
        submit(jobs, profiles, "with", {"replicas": 8})
        assert requests("with") == (plain[0], 1)
        assert plain[1] == 0


def test_the_charts_roles_are_enough_and_without_them_the_job_says_what_is_missing(
    api: Api, jobs: Jobs, profiles: Profiles, operator_of_the_chart: Start
) -> None:
    profiles.create()
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    granted = api.get(f"{bindings}/deepseek-operator-cluster")
    api.delete(f"{bindings}/deepseek-operator-cluster")
    operator = operator_of_the_chart()
    submit(jobs, profiles, "shut")
    wait(jobs, "shut", "held", lambda: reason(jobs, "shut") == "ProfileNotFound", 60)
    assert f"the operator may not read DeepSeekProfile {profiles.name}" in ready_message(jobs, "shut")
    assert "rbac.readProfiles" in ready_message(jobs, "shut")
    del granted["metadata"]["uid"], granted["metadata"]["resourceVersion"]
    api.create(bindings, granted)
    wait(jobs, "shut", "its pods", lambda: len(jobs.pods("shut")) == 2, 2 * SOON_S)
    assert "Traceback" not in operator.tail()
