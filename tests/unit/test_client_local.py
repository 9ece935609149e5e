"""The local adapter with a stand-in for the agent: real processes, real operator logic, no torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_client.errors import ClientError
from deepseek_client.local import processes
from deepseek_client.local.addresses import AddressBook
from deepseek_client.local.fault import KillOne
from deepseek_client.local.folders import Folders
from deepseek_client.local.launch import translate
from deepseek_client.local.world import LocalWorld
from deepseek_client.manifest import parse
from deepseek_operator.api.names import API_VERSION, KIND, Env, State
from deepseek_operator.api.v1alpha1 import Volume
from deepseek_operator.decide import decide
from deepseek_operator.decide.types import DeletePod, Observation, PatchPod
from deepseek_operator.render import Membership, worker_pod
from support.eventually import eventually

MEMBERSHIP = Membership(generation=1, attempt=1, node_rank=0, nodes=1, master="m", host=True)
STANDIN = Path(__file__).parents[1] / "support" / "standin_agent.py"


@pytest.fixture
def standin(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH in which `deepseek_trainer.agent` is the stand-in."""
    package = tmp_path / "standin" / "deepseek_trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(STANDIN, package / "agent.py")
    return package.parent


def make_manifest(standin: Path, replicas: int = 2, max_restarts: int = 0, **variables: str) -> dict[str, Any]:
    env = {"PYTHONPATH": str(standin)} | variables
    return {
        "apiVersion": "training.deepseekjob.dev/v1alpha1",
        "kind": "DeepSeekJob",
        "metadata": {"name": "local"},
        "spec": {
            "workers": {
                "replicas": replicas,
                "image": "none",
                "env": [{"name": name, "value": value} for name, value in env.items()],
            },
            "backend": "gloo",
            "trainer": {"training": {"steps": 60, "globalBatchSize": 4}},
            "data": {"corpus": "chitchat"},
            "checkpoint": {"volume": {"claimName": "claim"}},
            "recovery": {"budgets": {"application": max_restarts}},
        },
    }


@pytest.fixture
def world(tmp_path: Path, standin: Path) -> Iterator[LocalWorld]:
    """A job that trains until it is told otherwise."""
    job = parse(make_manifest(standin, STANDIN_STEPS="100000"))
    with LocalWorld(job, Folders(tmp_path / "work")) as made:
        yield made
    assert no_process_of(tmp_path)


def test_ray_is_a_clusters(tmp_path: Path) -> None:
    spec = {
        "workers": {"image": "x"},
        "trainer": {"training": {"steps": 1}},
        "data": {"corpus": "chitchat", "validationFraction": 0.1, "ray": {}},
    }
    job = parse({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "j"}, "spec": spec})
    with LocalWorld(job, Folders(tmp_path / "work")) as world:
        assert world.job.spec.ray is None
        assert world.job.spec.data is not None
        assert world.job.spec.data.trainers() == {"corpus": "chitchat", "validationFraction": 0.1}


def no_process_of(folder: Path) -> bool:
    """Whether no process has the folder's path in its environment."""
    mark = os.fsencode(str(folder))
    return not [pid for pid in processes._pids() if any(mark in item for item in processes._environment(pid))]


def turn(world: LocalWorld) -> str:
    """One pass of the operator's logic; the state after it."""
    world.apply(decide(world.observe()))
    return world.job.status.state


def until_running(world: LocalWorld) -> None:
    def runs() -> bool:
        return turn(world) == State.RUNNING and all(pod.ready for pod in world.observe().pods)

    eventually(runs, deadline_s=60, what="all pods run", describe=lambda: world.job.status)


def membership(world: LocalWorld, pod: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folders.pod(pod) / "config" / "membership.json").read_text())
    return found


def test_pods_are_processes_with_addresses_of_their_own(world: LocalWorld) -> None:
    until_running(world)
    pods = world.observe().pods
    assert sorted(pod.name for pod in pods) == ["local-worker-0-0", "local-worker-1-0"]
    assert len({pod.ip for pod in pods}) == 2
    assert all(pod.phase == "Running" and pod.ready for pod in pods)
    first = world.pods["local-worker-0-0"]
    # The cluster's DNS name of the master has become its address here.
    assert all(membership(world, pod.name)["master"] == first.ip for pod in pods)
    assert json.loads(first.annotations["training.deepseekjob.dev/membership"])["master"].endswith(".default.svc")
    config = json.loads((world.folders.pod(first.name) / "config" / "run-config.json").read_text())
    assert config["checkpoint"]["directory"] == str(world.folders.claim("claim") / "local")
    log = world.folders.log(first.name)
    eventually(lambda: "stand-in starts local-worker-0-0" in log.read_text(), deadline_s=20, what="the pod's log")


def test_a_vanished_pod_is_replaced_in_the_next_generation(world: LocalWorld) -> None:
    until_running(world)
    eventually(lambda: turn(world) and world.job.status.checkpoint, deadline_s=30, what="a checkpoint")
    survivor = world.pods["local-worker-0-0"].running.pid
    lost = world.pods["local-worker-1-0"].marks
    assert len(processes.processes_with(lost)) == 2  # the agent and its child in a session of its own
    world.vanish("local-worker-1-0")
    assert processes.processes_with(lost) == []
    eventually(
        lambda: turn(world) == State.RUNNING and world.job.status.generation == 2, deadline_s=60, what="generation 2"
    )
    status = world.job.status
    assert sorted(world.pods) == ["local-worker-0-0", "local-worker-1-1"]
    assert world.pods["local-worker-0-0"].running.pid == survivor
    assert (status.restarts.infrastructure, status.restarts.application, status.attempt) == (1, 0, 2)
    assert status.restored_from is not None
    assert status.restored_from.step > 0
    assert membership(world, "local-worker-0-0")["generation"] == 2  # the file of the survivor was rewritten
    assert membership(world, "local-worker-1-1") | {"nodeRank": 0, "host": True} == membership(
        world, "local-worker-0-0"
    )


def test_the_last_worker_is_taken_away_once_all_are_ready(world: LocalWorld) -> None:
    until_running(world)
    fault = KillOne(percent=0)

    def due() -> Observation | None:
        turn(world)
        seen = world.observe()
        return seen if fault.victim(seen) else None

    seen = eventually(due, deadline_s=60, what="something to lose")
    assert seen is not None
    victim, _ = fault.victim(seen) or ("", None)
    assert victim == "local-worker-1-0"
    assert fault.victim(replace(seen, pods=tuple(replace(pod, ready=pod.slot == 0) for pod in seen.pods))) is None


def test_a_patch_with_another_uid_changes_nothing(world: LocalWorld) -> None:
    until_running(world)
    before = membership(world, "local-worker-0-0")
    world._patch(PatchPod("local-worker-0-0", "another", {"training.deepseekjob.dev/membership": "{}"}))
    assert membership(world, "local-worker-0-0") == before


def test_a_deleted_pod_ends_with_all_its_processes(world: LocalWorld) -> None:
    until_running(world)
    pod = world.pods["local-worker-1-0"]
    world._delete(DeletePod(pod.name, pod.uid))
    assert pod.observed().terminating
    eventually(lambda: world.observe() and pod.name not in world.pods, deadline_s=20, what="pod gone")
    assert processes.processes_with(pod.marks) == []


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(tmp_path: Path, standin: Path) -> None:
    now = [0.0]
    job = parse(make_manifest(standin, replicas=1, STANDIN_STEPS="100000", STANDIN_STUBBORN="1"))
    with LocalWorld(job, Folders(tmp_path / "work"), clock=lambda: now[0]) as world:
        until_running(world)
        pod = world.pods["local-worker-0-0"]
        world.terminate()
        now[0] = pod.launch.grace_s - 1
        assert not world.gone()
        now[0] = pod.launch.grace_s
        assert world.gone()
    assert no_process_of(tmp_path)


def test_two_runs_side_by_side_have_different_addresses() -> None:
    one, other = AddressBook(), AddressBook()
    try:
        assert one.address("a") != other.address("a")
        assert one.address("a") == one.address("a")
    finally:
        one.close()
        other.close()


# ---- the command, as a user starts it ---------------------------------------------------------


def dsj(tmp_path: Path, manifest: dict[str, Any], *options: str) -> subprocess.Popen[str]:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "deepseek_client.cli", "run", str(path), "--workdir", "work", *options]
    return subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_training(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    def training() -> bool:
        assert process.poll() is None, process.stdout and process.stdout.read()
        job = json.loads((tmp_path / "work" / "job.json").read_text())
        return bool(job["status"]["state"] == State.RUNNING)

    eventually(training, deadline_s=60, what="state Running")


def test_run_kills_one_worker_recovers_and_reports(tmp_path: Path, standin: Path) -> None:
    manifest = make_manifest(standin, STANDIN_STEPS="120", STANDIN_STEP_S="0.03", STANDIN_HOLD="75")
    process = dsj(tmp_path, manifest, "--kill-one", "--report", "report")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "killing local-worker-1-0 at step" in output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    summary = report["summary"]
    assert (summary["state"], summary["steps"], summary["samples"]) == ("Succeeded", 120, 480)
    assert (summary["generation"], summary["restarts_infrastructure"]) == (2, 1)
    (interruption,) = summary["interruptions"]
    assert interruption["resumed_step"] >= interruption["checkpoint_step"] > 0
    assert interruption["recovery_s"] > 0
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "480 (120 steps of 4)" in (tmp_path / "report" / "report.md").read_text()
    assert no_process_of(tmp_path)


def test_run_that_fails_shows_the_evidence_and_the_log(tmp_path: Path, standin: Path) -> None:
    process = dsj(tmp_path, make_manifest(standin, STANDIN_EXIT="1"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "ValueError: on purpose" in output
    assert "exit status 1" in output
    logs = [Path(line.split("log: ")[1]) for line in output.splitlines() if "log: " in line]
    assert {log.stem for log in logs} == {"local-worker-0-0", "local-worker-1-0"}
    failed = re.search(r"^  (\S+), rank 0: ", output, re.MULTILINE)  # the other one may not have come to its end
    assert failed, output
    assert "stand-in fails on purpose" in next(log for log in logs if log.stem == failed[1]).read_text()
    assert "Traceback" not in output
    assert no_process_of(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(tmp_path: Path, standin: Path, number: signal.Signals, status: int) -> None:
    process = dsj(tmp_path, make_manifest(standin, STANDIN_STEPS="100000"))
    wait_for_training(tmp_path, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == status, output
    assert f"stopped by {number.name}" in output
    assert no_process_of(tmp_path)


def test_a_killed_dsj_takes_its_agents_along(tmp_path: Path, standin: Path) -> None:
    process = dsj(tmp_path, make_manifest(standin, STANDIN_STEPS="100000"))
    wait_for_training(tmp_path, process)
    marks = {"DEEPSEEKJOB_RUN_DIR": str(tmp_path / "work/pods/local-worker-0-0/volumes/deepseekjob-run")}
    assert processes.processes_with(marks)
    process.kill()
    process.communicate(timeout=10)

    def agents() -> list[int]:
        found = processes.processes_with(marks)
        return [pid for pid in found if b"deepseek_trainer.agent" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    try:
        eventually(lambda: not agents(), deadline_s=20, what="agents gone", describe=agents)
    finally:  # the stand-in leaves its child behind, which the real agent doesn't
        for slot in (0, 1):
            processes.kill_all({"DEEPSEEKJOB_POD_NAME": f"local-worker-{slot}-0", "PYTHONPATH": str(standin)})
    assert no_process_of(tmp_path)


def test_wrong_manifests_cost_one_line_each_and_status_2(tmp_path: Path, standin: Path) -> None:
    manifest = make_manifest(standin)
    manifest["spec"]["workers"]["replcas"] = 2
    manifest["spec"]["trainer"]["training"]["steps"] = 0
    process = dsj(tmp_path, manifest)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert [line.split(": ")[2] for line in output.splitlines()] == [
        "spec.workers.replcas",
        "spec.trainer.training.steps",
    ]
    assert not (tmp_path / "work").exists()


VOLUME = {"name": "v", "mountPath": "/v"}
HELPER = {"name": "h", "image": "h:1"}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "volumes",
            [{**VOLUME, "configMap": {"name": "c"}}],
            "volume v: the configMap c is in a cluster; for a local run give a folder with its files: --volume c=FOLDER",
        ),
        ("volumes", [{**VOLUME, "secret": {"name": "s"}}], "--volume s=FOLDER"),
        (
            "volumes",
            [{**VOLUME, "projected": {"sources": [{"configMap": {"name": "c"}}]}}],
            "its projected source is in a cluster; for a local run give a folder with its files: --volume v=FOLDER",
        ),
        ("volumes", [{**VOLUME, "image": {"reference": "i:1"}}], "its image source is in a cluster"),
        ("initContainers", [HELPER], "workers.initContainers: h is an image of its own, which needs a cluster"),
        ("sidecars", [HELPER], "remove it and run what it does beside dsj"),
        ("envFrom", [{"configMapRef": {"name": "c"}}], "workers.envFrom: c is in a cluster"),
        ("envFrom", [{"secretRef": {"name": "s"}}], "write its variables in workers.env"),
    ],
)
def test_what_only_a_cluster_has_is_refused_with_a_remedy(
    tmp_path: Path, standin: Path, field: str, value: list[Any], says: str
) -> None:
    manifest = make_manifest(standin)
    manifest["spec"]["workers"][field] = value
    with (
        LocalWorld(parse(manifest), Folders(tmp_path / "work")) as world,
        pytest.raises(ClientError) as refusal,
    ):
        turn(world)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "source", [{"projected": {"sources": [{"secret": {"name": "s"}}]}}, {"image": {"reference": "i"}}]
)
def test_a_folder_stands_for_a_volume_of_the_cluster(tmp_path: Path, source: dict[str, Any]) -> None:
    job = parse(make_manifest(tmp_path))
    volume = Volume.model_validate({**VOLUME, **source})
    workers = job.spec.workers.model_copy(update={"volumes": [volume]})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})
    manifest = worker_pod(job, 0, 0, MEMBERSHIP)
    launch = translate(manifest, Folders(tmp_path, {"v": tmp_path / "mine"}), "127.0.0.2", "n", {})
    assert launch.mounts.local("/v/file") == str(tmp_path / "mine" / "file")


def test_the_clusters_network_is_left_behind(tmp_path: Path, standin: Path) -> None:
    manifest = make_manifest(standin)
    manifest["spec"]["communication"] = {"interface": "eth7", "ibHca": "mlx5_0", "timeoutSeconds": 77}
    with LocalWorld(parse(manifest), Folders(tmp_path / "work")) as world:
        env = {
            item["name"]: item.get("value")
            for item in worker_pod(world.job, 0, 0, MEMBERSHIP)["spec"]["containers"][0]["env"]
        }
    assert env[Env.COLLECTIVE_TIMEOUT] == "77"
    assert not {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"} & env.keys()


def test_a_refusal_is_one_line_and_status_2(tmp_path: Path, standin: Path) -> None:
    manifest = make_manifest(standin)
    manifest["spec"]["workers"]["sidecars"] = [HELPER]
    process = dsj(tmp_path, manifest)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "workers.sidecars: h is an image of its own" in output
    assert "Traceback" not in output
