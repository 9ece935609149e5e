"""The chart on a real API server: installed, upgraded, uninstalled; and what its service account may do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.crd import CRD_NAME, PROFILE_CRD_NAME, wait_until_served
from support.helm import CHART, NAMESPACE, RELEASE, Helm, HelmError
from support.kubectl import Kubectl, KubectlError

pytestmark = pytest.mark.cluster

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
SERVER_KNOWS = ("networkPolicy.enabled=true", "podDisruptionBudget.enabled=true", "replicas=2")
"""Switches whose objects every API server knows; ServiceMonitor and PrometheusRule need Prometheus' CRDs."""


@pytest.fixture
def release(connected_helm: Helm, kubectl: Kubectl) -> Iterator[Helm]:
    """The chart, installed."""
    sets = [part for setting in SERVER_KNOWS for part in ("--set", setting)]
    # The CRD may be there already, applied by hand from crds/.
    install = ("upgrade", "--install", "--take-ownership", RELEASE, str(CHART), "-n", NAMESPACE, "--create-namespace")
    connected_helm.run(*install, *sets)
    wait_until_served(kubectl)
    yield connected_helm
    connected_helm.run("uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found")


def _may(kubectl: Kubectl, verb: str, resource: str, *more: str) -> bool:
    try:
        kubectl.run("auth", "can-i", verb, resource, f"--as={ACCOUNT}", *more)
    except KubectlError:
        return False
    return True


def test_every_object_is_taken_by_the_api_server(release: Helm, kubectl: Kubectl) -> None:
    kinds = "deployment,serviceaccount,service,role,rolebinding,networkpolicy,poddisruptionbudget"
    found = {
        item["kind"] for item in kubectl.items(kinds, "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}")
    }
    assert len(found) == 7
    release.run("upgrade", RELEASE, str(CHART), "-n", NAMESPACE, "--reuse-values", "--dry-run=server")


def test_notes_name_the_three_next_commands(release: Helm) -> None:
    notes = release.run("get", "notes", RELEASE, "-n", NAMESPACE)
    for command in ("rollout status deployment/deepseek-operator", "kubectl explain dsj.spec", "get dsj -w"):
        assert command in notes


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("watch", "deepseekjobs"),
        ("delete", "deepseekjobs"),
        ("patch", "deepseekjobs --subresource=status"),
        ("update", "deepseekjobs --subresource=finalizers"),
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "services"),
        ("get", "persistentvolumeclaims"),
        ("get", "nodes/any"),
        ("get", "deepseekprofiles/any"),
        ("create", "events.events.k8s.io"),
        ("watch", "leases.coordination.k8s.io/deepseek-operator"),
    ],
)
def test_the_account_may(release: Helm, kubectl: Kubectl, verb: str, resource: str) -> None:
    assert _may(kubectl, verb, *resource.split(), "-n", "any")


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("create", "secrets"),
        ("create", "networkpolicies.networking.k8s.io"),
        ("create", "persistentvolumeclaims"),
        ("delete", "persistentvolumeclaims"),
        ("get", "configmaps"),
        ("list", "nodes"),
        ("list", "deepseekprofiles"),
        ("patch", "deepseekprofiles"),
        ("create", "deepseekjobs"),
        ("patch", "deepseekjobs"),
        ("get", "pods --subresource=log"),
        ("create", "pods --subresource=exec"),
        ("update", "pods"),
        ("deletecollection", "pods"),
        ("list", "services"),
        ("watch", "leases.coordination.k8s.io/another"),
        ("update", "leases.coordination.k8s.io/deepseek-operator"),
        ("create", "leases.coordination.k8s.io"),
        ("get", "customresourcedefinitions"),
    ],
)
def test_the_account_may_not(release: Helm, kubectl: Kubectl, verb: str, resource: str) -> None:
    assert not _may(kubectl, verb, *resource.split(), "-n", "any")


def test_the_lease_is_written_at_home_alone(release: Helm, kubectl: Kubectl) -> None:
    assert _may(kubectl, "create", "leases.coordination.k8s.io", "-n", NAMESPACE)
    assert _may(kubectl, "update", "leases.coordination.k8s.io/deepseek-operator", "-n", NAMESPACE)
    assert not _may(kubectl, "update", "leases.coordination.k8s.io/another", "-n", NAMESPACE)


def test_uninstall_keeps_the_crd_and_the_jobs(release: Helm, kubectl: Kubectl) -> None:
    release.run("uninstall", RELEASE, "-n", NAMESPACE)
    kubectl.run("get", "crd", CRD_NAME, PROFILE_CRD_NAME)
    with pytest.raises(HelmError):
        release.run("status", RELEASE, "-n", NAMESPACE)


def test_an_upgrade_upgrades_the_crd(release: Helm, kubectl: Kubectl) -> None:
    shorter = '[{"op":"replace","path":"/spec/versions/0/additionalPrinterColumns","value":[]}]'
    kubectl.run("patch", "crd", CRD_NAME, "--type=json", "-p", shorter)
    release.run("upgrade", RELEASE, str(CHART), "-n", NAMESPACE)
    columns = kubectl.json("get", "crd", CRD_NAME)["spec"]["versions"][0]["additionalPrinterColumns"]
    assert columns[0]["name"] == "State"
