"""Where the pods may run: node selectors, tolerations, affinity, classes."""

from __future__ import annotations

from typing import Any

from support.bad_manifests.case import Bad, at, trainer

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
AFFINITY = "spec.workers.affinity"


def _toleration(id_: str, toleration: dict[str, Any], field: str, *says: str) -> Bad:
    return trainer(id_, {"workers/tolerations": [toleration]}, f"spec.workers.tolerations[0].{field}", *says)


def _on_node(id_: str, requirement: dict[str, Any], field: str, *says: str) -> Bad:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", **requirement}]}]}
    path = f"{AFFINITY}.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].{field}"
    return trainer(id_, {"workers/affinity": {"nodeAffinity": {REQUIRED: terms}}}, path, *says)


def _near(id_: str, term: dict[str, Any], field: str, *says: str) -> Bad:
    whole = {"labelSelector": {}, "topologyKey": "kubernetes.io/hostname", **term}
    path = f"{AFFINITY}.podAntiAffinity.{REQUIRED}[0].{field}"
    return trainer(id_, {"workers/affinity": {"podAntiAffinity": {REQUIRED: [whole]}}}, path, *says)


def _on_pod(id_: str, requirement: dict[str, Any], *says: str) -> Bad:
    selector = {"matchExpressions": [{"key": "app", **requirement}]}
    return _near(id_, {"labelSelector": selector}, "labelSelector.matchExpressions[0].values", *says)


BAD = [
    at("workers/nodeSelector", "node-selector-key", {"a b": "c"}, "a key is not a label key"),
    trainer("node-selector-value", {"workers/nodeSelector": {"a": "b c"}}, "spec.workers.nodeSelector", "should match"),
    at("workers/priorityClassName", "bad-priority-class", "High!", "should match"),
    at("workers/priorityClassName", "priority-of-the-system", "system-node-critical", "choose another"),
    at("workers/runtimeClassName", "bad-runtime-class", "Kata_1", "should match"),
    at("workers/serviceAccountName", "bad-service-account", "my account", "should match"),
    # Tolerations.
    _toleration("exists-with-value", {"key": "a", "operator": "Exists", "value": "b"}, "value", "remove value"),
    _toleration("equal-without-key", {"operator": "Equal", "value": "b"}, "operator", "set operator to Exists"),
    _toleration("toleration-of-nothing", {}, "operator", "set operator to Exists"),
    _toleration(
        "seconds-without-execute",
        {"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5},
        "tolerationSeconds",
        "set that effect",
    ),
    _toleration("seconds-without-effect", {"key": "a", "tolerationSeconds": 5}, "tolerationSeconds", "set that effect"),
    _toleration("negative-seconds", {"key": "a", "effect": "NoExecute", "tolerationSeconds": -5}, "tolerationSeconds"),
    _toleration("bad-effect", {"key": "a", "effect": "Never"}, "effect", '"NoSchedule"'),
    _toleration("bad-operator", {"key": "a", "operator": "Like"}, "operator", '"Equal", "Exists"'),
    _toleration("bad-taint", {"key": "a b"}, "key", "should match"),
    _toleration("bad-taint-value", {"key": "a", "value": "b c"}, "value", "should match"),
    # Affinity to nodes.
    at("workers/affinity", "empty-affinity", {}, "affinity is empty", "or remove it"),
    at("workers/affinity/nodeAffinity", "empty-node-affinity", {}, "nodeAffinity is empty", "or remove it"),
    at("workers/affinity/nodeAffinity", "no-node-wish", {PREFERRED: []}, "nodeAffinity is empty"),
    at("workers/affinity/podAffinity", "empty-pod-affinity", {}, "is empty and has no effect"),
    at("workers/affinity/podAntiAffinity", "no-pod-rule", {REQUIRED: []}, "is empty and has no effect"),
    trainer(
        "no-node-terms",
        {"workers/affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}},
        f"{AFFINITY}.nodeAffinity.{REQUIRED}.nodeSelectorTerms",
        "at least 1 items",
    ),
    trainer(
        "empty-node-term",
        {"workers/affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": []}]}}}},
        f"{AFFINITY}.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions",
        "at least 1 items",
    ),
    trainer(
        "weight-0",
        {
            "workers/affinity": {
                "nodeAffinity": {
                    PREFERRED: [{"weight": 0, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]
                }
            }
        },
        f"{AFFINITY}.nodeAffinity.{PREFERRED}[0].weight",
        "greater than or equal to 1",
    ),
    _on_node("node-in-nothing", {"operator": "In"}, "values", "list one or more"),
    _on_node("node-not-in-nothing", {"operator": "NotIn", "values": []}, "values", "list one or more"),
    _on_node("node-exists-with-values", {"operator": "Exists", "values": ["a"]}, "values", "remove them"),
    _on_node("node-absent-with-values", {"operator": "DoesNotExist", "values": ["a"]}, "values", "remove them"),
    _on_node("node-more-than-two", {"operator": "Gt", "values": ["1", "2"]}, "values", "list exactly one"),
    _on_node("node-less-than-nothing", {"operator": "Lt"}, "values", "list exactly one"),
    _on_node("node-more-than-text", {"operator": "Gt", "values": ["many"]}, "values", "one whole number"),
    _on_node("node-bad-operator", {"operator": "Like", "values": ["a"]}, "operator", '"In", "NotIn"'),
    _on_node("node-bad-value", {"operator": "In", "values": ["a b"]}, "values[0]", "should match"),
    _on_node("node-bad-key", {"key": "a b", "operator": "Exists"}, "key", "should match"),
    # Affinity to pods.
    _on_pod("pod-in-nothing", {"operator": "In"}, "list one or more"),
    _on_pod("pod-exists-with-values", {"operator": "Exists", "values": ["a"]}, "remove them"),
    _near("bad-topology-key", {"topologyKey": "zone!"}, "topologyKey", "should match"),
    _near("empty-topology-key", {"topologyKey": ""}, "topologyKey"),
    _near("bad-namespace", {"namespaces": ["team.a"]}, "namespaces[0]", "should match"),
    _near("bad-match-label", {"labelSelector": {"matchLabels": {"a b": "c"}}}, "labelSelector.matchLabels", "a label"),
]
