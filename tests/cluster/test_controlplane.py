"""The control plane that the cluster tests stand on: it is a real one, with RBAC, and it leaves no process behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from native import controlplane, processes
from native.errors import NativeError
from support import kube
from support.kubectl import Kubectl, KubectlError

pytestmark = pytest.mark.cluster


def test_admin_creates_a_pod_that_stays_as_written(kubectl: Kubectl) -> None:
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "controlplane-test"}})
    there = replace(kubectl, namespace="controlplane-test")
    container = {"name": "c", "image": "example.invalid/none"}
    there.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}})
    pod = there.json("get", "pod", "p")
    assert pod["status"]["phase"] == "Pending"
    assert "nodeName" not in pod["spec"]


def test_rbac_refuses_who_has_no_role(kubectl: Kubectl) -> None:
    with pytest.raises(KubectlError, match="orbidden"):
        kubectl.run("get", "pods", "--as=system:serviceaccount:default:nobody")


def test_two_side_by_side_and_nothing_left_after_a_failed_start(tmp_path: Path) -> None:
    kube.require(*kube.BINARIES)
    first, second = tmp_path / "a", tmp_path / "b"
    broken = controlplane.Settings(bound_to_parent=True, extra=("--no-such-flag",))
    with controlplane.running(first, controlplane.Settings(bound_to_parent=True)) as plane:
        assert plane.kubeconfig.stat().st_mode & 0o077 == 0
        with pytest.raises(NativeError, match="no-such-flag"), controlplane.running(second, broken):
            pytest.fail("a control plane started with a flag that does not exist")
        assert not any(map(processes.alive, processes.recorded(second)))
        assert all(map(processes.alive, processes.recorded(first)))
    assert not any(map(processes.alive, processes.recorded(first)))
