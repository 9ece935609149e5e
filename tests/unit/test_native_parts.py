"""The parts of the native cluster that need neither root nor Go: address plan, records of processes, control groups."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import tarfile
from pathlib import Path

import pytest
from native import archives, binaries, cgroups, cluster, images, layouts, processes, volumes
from native.errors import NativeError
from native.network import MAX_CLUSTERS, MAX_NODES, Network
from support import imagelayouts

SLEEP = ["sleep", "60"]


def test_parts_of_a_network_lie_within_it_and_apart() -> None:
    for plan in (Network(0), Network(MAX_CLUSTERS - 1)):
        whole = ipaddress.IPv4Network(plan.cidr)
        pods = ipaddress.IPv4Network(plan.pod_cidr)
        services = ipaddress.IPv4Network(plan.service_cidr)
        nodes = ipaddress.IPv4Network(f"{plan.gateway}/24", strict=False)
        assert all(part.subnet_of(whole) for part in (pods, services, nodes))
        assert not any(one.overlaps(other) for one, other in itertools.combinations((pods, services, nodes), 2))
        assert ipaddress.ip_address(plan.service_ip) in services
        assert all(ipaddress.IPv4Network(plan.node_pod_cidr(n)).subnet_of(pods) for n in range(MAX_NODES))
        assert all(ipaddress.ip_address(plan.node_ip(n)) in nodes for n in range(MAX_NODES))
        assert len(plan.link(MAX_NODES - 1)) <= 15


def test_a_daemon_is_known_by_its_record_and_stopped(tmp_path: Path) -> None:
    daemon = processes.start("sleeper", SLEEP, tmp_path)
    assert processes.recorded(tmp_path) == [daemon]
    assert processes.alive(daemon)
    processes.stop([daemon], grace_s=5)
    assert not processes.alive(daemon)


def test_a_reused_pid_is_not_taken_for_the_daemon(tmp_path: Path) -> None:
    ours = processes.Daemon("other", os.getpid(), started=1, log="")
    assert not processes.alive(ours)
    processes.stop([ours], grace_s=0)  # and this test process lives on


def test_the_log_of_a_daemon_that_ended_is_in_the_message(tmp_path: Path) -> None:
    daemon = processes.start("broken", ["sh", "-c", "echo no such disk; exit 3"], tmp_path)
    processes.wait_until(lambda: not processes.alive(daemon), 10, "it ends")
    with pytest.raises(NativeError, match=r"(?s)broken has ended; .*no such disk"):
        processes.require_alive(daemon)


def test_waiting_in_vain_shows_the_last_state() -> None:
    with pytest.raises(NativeError, match=r"the sky falls\. Last state: still up"):
        processes.wait_until(lambda: False, 0.0, "the sky falls", lambda: "still up")


def test_control_groups_on_v1_are_made_in_every_tree_with_processors(tmp_path: Path) -> None:
    for tree in ("cpuset", "memory", "unified"):
        (tmp_path / tree).mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3")
    cgroups.create("deepseekjob-a.node0", tmp_path)
    assert (tmp_path / "memory" / "deepseekjob-a.node0").is_dir()
    assert (tmp_path / "cpuset" / "deepseekjob-a.node0" / "cpuset.cpus").read_text() == "0-3"
    assert not (tmp_path / "unified" / "deepseekjob-a.node0").exists()


@pytest.mark.parametrize(("setting", "of_a_process"), [("cpu.shares", 1024), ("cpu.weight", 100)], ids=["v1", "v2"])
def test_a_node_is_given_the_time_of_a_process_for_each_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, of_a_process: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    group = tmp_path / "cpu" / "deepseekjob-a.node0"
    group.mkdir(parents=True)
    (group / setting).write_text(str(of_a_process))
    cgroups.create("deepseekjob-a.node0", tmp_path)
    assert (group / setting).read_text() == str(3 * of_a_process)


def test_removing_control_groups_spares_those_of_a_cluster_with_a_longer_name(tmp_path: Path) -> None:
    for name in ("deepseekjob-a.node0/pods/one", "deepseekjob-a-b.node0"):
        (tmp_path / "memory" / name).mkdir(parents=True)
    cgroups.remove("deepseekjob-a.", tmp_path)
    assert [path.name for path in (tmp_path / "memory").iterdir()] == ["deepseekjob-a-b.node0"]


def test_a_wrong_cluster_name_is_refused() -> None:
    with pytest.raises(NativeError, match="use up to 20 of a-z"):
        cluster.find("../../etc")


def test_an_unknown_binary_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NativeError, match="kubectll: not a known binary; known are kube-apiserver"):
        binaries.ensure("kubectll")


def test_the_cache_of_a_module_is_named_by_what_pins_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEEPSEEKJOB_CACHE", str(tmp_path))
    folders = {binaries.bin_dir(module) for module, _ in binaries.PACKAGES.values()}
    assert len(folders) == len({module for module, _ in binaries.PACKAGES.values()})
    assert all(folder.is_relative_to(tmp_path / "native") for folder in folders)
    assert binaries.missing("etcd") == ["etcd"]


def test_an_image_of_one_program_is_the_same_twice(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"#!/bin/true")
    first, second = tmp_path / "a.tar", tmp_path / "b.tar"
    archives.write_single_binary(first, "localhost/pause:dev", program)
    archives.write_single_binary(second, "localhost/pause:dev", program)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        member = archive.extractfile("manifest.json")
        assert member is not None
        assert json.load(member)[0]["RepoTags"] == ["localhost/pause:dev"]


def content(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {name: member.read() for name in opened.getnames() if (member := opened.extractfile(name))}


def test_an_archive_of_a_layout_is_one_image_and_a_lean_one_lacks_what_is_known(tmp_path: Path) -> None:
    layout, whole, lean = tmp_path / "layout", tmp_path / "whole.tar", tmp_path / "lean.tar"
    imagelayouts.put(layout, "operator", b"base", b"operator")
    base, _ = imagelayouts.put(layout, "trainer", b"base", b"trainer")
    layouts.write_archive(whole, layout, "trainer", "localhost/trainer:dev")
    assert layouts.is_layout(whole)
    there = content(whole)
    (only,) = json.loads(there["index.json"])["manifests"]
    assert only["annotations"] == {"io.containerd.image.name": "localhost/trainer:dev"}
    assert {b"base", b"trainer"} < set(there.values())
    assert b"operator" not in there.values()
    assert json.loads(there["manifest.json"])[0]["RepoTags"] == ["localhost/trainer:dev"]

    layouts.lean(whole, lean, {base})
    assert content(lean) == {name: value for name, value in there.items() if value != b"base"}
    (tmp_path / "none.tar").write_text("no archive")
    assert not layouts.is_layout(tmp_path / "none.tar")


def test_a_layout_keeps_what_its_images_have(tmp_path: Path) -> None:
    imagelayouts.put(tmp_path, "operator", b"base", b"operator")
    imagelayouts.put(tmp_path, "trainer", b"base", b"old")
    imagelayouts.put(tmp_path, "trainer", b"base", b"new")
    layouts.prune(tmp_path)
    left = {path.read_bytes() for path in (tmp_path / "blobs" / "sha256").iterdir()}
    assert {b"base", b"operator", b"new"} < left
    assert b"old" not in left
    assert len(left) == 3 + 2 * 2, "a config and a manifest for each image"


def test_of_older_archives_the_last_one_stays(tmp_path: Path) -> None:
    first, second, third, other = (
        tmp_path / f"{name}.tar" for name in ("trainer-1", "trainer-2", "trainer-3", "pause-1")
    )
    for age, archive in enumerate((third, second, first, other)):
        archive.write_bytes(b"")
        os.utime(archive, (1_000_000 - age, 1_000_000 - age))
    images.retire(first, "trainer-*.tar")
    assert sorted(tmp_path.iterdir()) == [other, first, third]


def test_a_volume_and_its_claim_are_bound_to_each_other_alone() -> None:
    volume, claim = volumes.shared("team", "checkpoints", "/srv/shared")
    assert volume["spec"]["claimRef"] == {"namespace": "team", "name": "checkpoints"}
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
