"""What the chart renders: with the defaults, with every switch, and with values that must be refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.helm import CHART, Helm, HelmError, of_kind, one

ALL_ON = (
    "metrics.serviceMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "networkPolicy.enabled=true",
    "podDisruptionBudget.enabled=true",
    "replicas=2",
)


ON_DEMAND = {
    "kueue": {
        ("kueue.x-k8s.io", "workloads", "get list create delete"),
        ("kueue.x-k8s.io", "workloads/status", "patch"),
        ("kueue.x-k8s.io", "resourceflavors", "get"),
        ("kueue.x-k8s.io", "workloadpriorityclasses", "get"),
        ("scheduling.k8s.io", "priorityclasses", "get"),
    },
    "volcano": {("scheduling.volcano.sh", "podgroups", "get create patch")},
    "coscheduling": {("scheduling.x-k8s.io", "podgroups", "get create patch")},
    "ray": {("", "secrets", "create"), ("networking.k8s.io", "networkpolicies", "get create")},
}
"""Switch -> group, resource and verbs of what it allows."""


def _rules(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for role in of_kind(manifests, "ClusterRole") + of_kind(manifests, "Role") for rule in role["rules"]]


def _container(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_lint_is_clean(helm: Helm) -> None:
    helm.run("lint", "--strict", str(CHART))


def test_defaults_render_these_objects(helm: Helm) -> None:
    kinds = sorted(manifest["kind"] for manifest in helm.template())
    assert kinds == [
        *["ClusterRole"] * 4,
        *["ClusterRoleBinding"] * 2,
        *["CustomResourceDefinition"] * 2,
        "Deployment",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ]


def test_every_switch_adds_its_object(helm: Helm) -> None:
    added = {m["kind"] for m in helm.template(*ALL_ON)} - {m["kind"] for m in helm.template()}
    assert added == {"ServiceMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget"}


def test_every_switch_takes_its_object_away(helm: Helm) -> None:
    off = helm.template(
        "crds.install=false",
        "rbac.create=false",
        "serviceAccount.create=false",
        "serviceAccount.name=mine",
        "metrics.service.enabled=false",
    )
    assert [manifest["kind"] for manifest in off] == ["Deployment"]
    assert one(off, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_the_pod_satisfies_the_restricted_standard(helm: Helm) -> None:
    manifests = helm.template()
    pod, container = one(manifests, "Deployment")["spec"]["template"]["spec"], _container(manifests)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]


def test_the_roles_hold_no_secret_and_no_star(helm: Helm) -> None:
    for namespaces in ((), ("watchNamespaces={a}",)):
        manifests = helm.template(*namespaces)
        for role in of_kind(manifests, "ClusterRole") + of_kind(manifests, "Role"):
            for rule in role["rules"]:
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
                assert not {"secrets", "configmaps", "pods/exec", "pods/log"} & set(rule["resources"])
                assert "nodes" not in rule["resources"] or rule["verbs"] == ["get"]


def test_named_namespaces_get_roles_instead_of_a_cluster_role(helm: Helm) -> None:
    everywhere, named = helm.template(), helm.template("watchNamespaces={team-a,team-b}")
    roles = [role for role in of_kind(named, "Role") if role["metadata"]["name"] == "deepseek-operator"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    cluster_role = next(r for r in of_kind(everywhere, "ClusterRole") if r["metadata"]["name"] == "deepseek-operator")
    assert all(role["rules"] == cluster_role["rules"] for role in roles)
    assert [role["metadata"]["name"] for role in of_kind(named, "ClusterRoleBinding")] == ["deepseek-operator-cluster"]
    environment = {v["name"]: v.get("value") for v in _container(named)["env"]}
    assert environment["DEEPSEEKJOB_OPERATOR_NAMESPACES"] == "team-a,team-b"


@pytest.mark.parametrize("switch", ON_DEMAND)
def test_rights_that_few_jobs_need_are_given_on_demand(helm: Helm, switch: str) -> None:
    for namespaces in ((), ("watchNamespaces={team-a}",)):
        plain, allowed = (_rules(helm.template(*namespaces, *more)) for more in ((), (f"rbac.{switch}=true",)))
        assert not [
            (group, resource)
            for rule in plain
            for group, resource, _ in ON_DEMAND[switch]
            if group in rule["apiGroups"] and resource in rule["resources"]
        ]
        added = [rule for rule in allowed if rule not in plain]
        rights = {
            (group, resource, " ".join(rule["verbs"]))
            for rule in added
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        assert rights == ON_DEMAND[switch]


def test_claims_are_read_always_and_made_on_demand(helm: Helm) -> None:
    plain, allowed = (
        [rule["verbs"] for rule in _rules(helm.template(*more)) if "persistentvolumeclaims" in rule["resources"]]
        for more in ((), ("rbac.claims=true",))
    )
    assert (plain, allowed) == ([["get"]], [["get"], ["create", "patch"]])


@pytest.mark.parametrize(
    ("off", "left"),
    [
        (("readNodes", "readProfiles"), []),
        (("readNodes",), ["deepseekprofiles"]),
        (("readProfiles",), ["nodes"]),
        ((), ["nodes", "deepseekprofiles"]),
    ],
)
def test_what_the_cluster_role_of_named_namespaces_is_for(helm: Helm, off: tuple[str, ...], left: list[str]) -> None:
    manifests = helm.template("watchNamespaces={team-a}", *(f"rbac.{name}=false" for name in off))
    bound = {binding["roleRef"]["name"] for binding in of_kind(manifests, "ClusterRoleBinding")}
    rules = [
        rule
        for role in of_kind(manifests, "ClusterRole")
        if role["metadata"]["name"] in bound
        for rule in role["rules"]
    ]
    assert [resource for rule in rules for resource in rule["resources"]] == left
    assert all(rule["verbs"] == ["get"] for rule in rules)
    of_jobs = [
        resource for role in of_kind(manifests, "Role") for rule in role["rules"] for resource in rule["resources"]
    ]
    assert not {"nodes", "deepseekprofiles"} & set(of_jobs)


def test_users_see_profiles_and_do_not_write_them(helm: Helm) -> None:
    verbs = {
        verb
        for role in of_kind(helm.template(), "ClusterRole")
        if "aggregate" in json.dumps(role["metadata"])
        for rule in role["rules"]
        if "deepseekprofiles" in rule["resources"]
        for verb in rule["verbs"]
    }
    assert verbs == {"get", "list", "watch"}


@pytest.mark.parametrize("keep", [True, False])
def test_the_crds_are_kept_on_uninstall_if_wanted(helm: Helm, keep: bool) -> None:
    crds = of_kind(helm.template(f"crds.keep={json.dumps(keep)}"), "CustomResourceDefinition")
    assert {crd["spec"]["names"]["kind"] for crd in crds} == {"DeepSeekJob", "DeepSeekProfile"}
    for crd in crds:
        annotations = crd["metadata"].get("annotations", {})
        assert (annotations.get("helm.sh/resource-policy") == "keep") is keep


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ((), "ghcr.io/deepseekjob/deepseek-operator:0.1.0"),
        (("image.repository=localhost/op", "image.tag=dev"), "localhost/op:dev"),
        ((f"image.digest=sha256:{'a' * 64}",), f"ghcr.io/deepseekjob/deepseek-operator@sha256:{'a' * 64}"),
    ],
)
def test_the_image(helm: Helm, settings: tuple[str, ...], image: str) -> None:
    assert _container(helm.template(*settings))["image"] == image


def test_large_numbers_reach_the_operator_as_they_are(helm: Helm) -> None:
    environment = {v["name"]: v.get("value") for v in _container(helm.template("settings.burst=5000000"))["env"]}
    assert environment["DEEPSEEKJOB_OPERATOR_BURST"] == "5000000"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("replica=2", "replica"),
        ("replicas=-1", "replicas"),
        ("replicas=two", "replicas"),
        ("settings.port=0", "settings/port"),
        ("settings.worker=3", "worker"),
        ("settings.logLevel=verbose", "settings/logLevel"),
        ("settings.resyncIntervalS=0", "settings/resyncIntervalS"),
        ("image.pullPolicy=Sometimes", "image/pullPolicy"),
        ("image.digest=abc", "image/digest"),
        ("watchNamespaces={Team A}", "watchNamespaces/0"),
        ("watchNamespaces=a", "watchNamespaces"),
        ("crds.keep=yes please", "crds/keep"),
        ("metrics.serviceMonitor.interval=often", "serviceMonitor/interval"),
        ("extraEnv[0].name=DEEPSEEKJOB_OPERATOR_PORT", "extraEnv/0/name"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: Helm, setting: str, says: str) -> None:
    with pytest.raises(HelmError) as refusal:
        helm.template(setting)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("replicas=2", "settings.leaderElection=false"), "settings.leaderElection=true"),
        (("metrics.service.enabled=false", "metrics.serviceMonitor.enabled=true"), "metrics.service.enabled=true"),
        (("serviceAccount.create=false",), "serviceAccount.name"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_remedy(
    helm: Helm, settings: tuple[str, ...], says: str
) -> None:
    with pytest.raises(HelmError) as refusal:
        helm.template(*settings)
    assert says in str(refusal.value)
