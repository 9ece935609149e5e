"""The worker pods: how many, of which image, with which resources, labels and environment."""

from __future__ import annotations

from support.bad_manifests.case import at, trainer

KEY = "a key is not a label key"
QUANTITY = "500m, 4, 16Gi"
IMAGE = "write it as ghcr.io/you/trainer:1.2"
RESOURCES = "workers/resources"

BAD = [
    trainer("unknown-field", {"workers/replica": 2}, 'unknown field "spec.workers.replica"'),
    trainer("pod-template", {"workers/template": {"hostNetwork": True}}, 'unknown field "spec.workers.template"'),
    trainer("host-network", {"workers/hostNetwork": True}, 'unknown field "spec.workers.hostNetwork"'),
    trainer("security-context", {"workers/securityContext": {}}, 'unknown field "spec.workers.securityContext"'),
    trainer("own-command", {"workers/command": ["sh"]}, 'unknown field "spec.workers.command"'),
    at("workers/replicas", "negative-replicas", -1, "greater than or equal to 1"),
    at("workers/replicas", "no-replicas", 0, "greater than or equal to 1"),
    at("workers/replicas", "too-many-replicas", 5000, "less than or equal to 4096"),
    at("workers/replicas", "replicas-as-text", "two", "must be of type integer"),
    *[
        at("workers/procPerNode", f"processes-{value}", value, "a number from 1 to 64, or auto")
        for value in (0, 65, -1, "many", "08", "gpu")
    ],
    # Images.
    trainer("no-image", {"workers": {"replicas": 1}}, "spec.workers.image", "set it, or name a profile that has one"),
    *[
        at("workers/image", f"image-{id_}", value, IMAGE)
        for id_, value in {
            "with-space": "a b",
            "upper-case": "ghcr.io/You/Trainer:1",
            "two-tags": "ghcr.io/you/trainer:1:2",
            "no-name": ":latest",
            "url": "https://ghcr.io/you/trainer",
            "short-digest": "ghcr.io/you/trainer@sha256:abc",
        }.items()
    ],
    at("workers/image", "empty-image", "", "at least 1 chars"),
    at("workers/imagePullPolicy", "bad-pull-policy", "Sometimes", '"Always", "IfNotPresent", "Never"'),
    at("workers/imagePullSecrets", "pull-secret-as-text", ["registry"], "must be of type object"),
    trainer(
        "bad-pull-secret",
        {"workers/imagePullSecrets": [{"name": "Registry!"}]},
        "spec.workers.imagePullSecrets[0].name",
        "should match",
    ),
    # Resources.
    trainer(
        "bad-quantity", {f"{RESOURCES}/requests/memory": "4 GB"}, "spec.workers.resources.requests[memory]", QUANTITY
    ),
    trainer(
        "negative-quantity", {f"{RESOURCES}/limits/memory": "-1Gi"}, "spec.workers.resources.limits[memory]", QUANTITY
    ),
    trainer(
        "unknown-resource", {f"{RESOURCES}/requests/gpu": 1}, "spec.workers.resources.requests", "correct its name"
    ),
    trainer("pods-as-resource", {f"{RESOURCES}/limits/pods": 1}, "spec.workers.resources.limits", "correct its name"),
    trainer(
        "quota-as-resource",
        {f"{RESOURCES}/limits": {"requests.nvidia.com/gpu": 1}},
        "spec.workers.resources.limits",
        "correct its name",
    ),
    trainer(
        "half-a-gpu",
        {f"{RESOURCES}/limits": {"nvidia.com/gpu": "500m"}},
        "spec.workers.resources.limits",
        "write a whole number",
    ),
    trainer(
        "request-above-limit",
        {f"{RESOURCES}/requests/memory": "3Gi"},
        "spec.workers.resources.requests",
        "raise the limit or lower the request",
    ),
    trainer(
        "gpu-request-alone",
        {f"{RESOURCES}/requests": {"nvidia.com/gpu": 1}},
        "spec.workers.resources.requests",
        "set only limits",
    ),
    trainer(
        "hugepages-request-alone",
        {f"{RESOURCES}/requests/hugepages-2Mi": "1Gi"},
        "spec.workers.resources.requests",
        "set only limits",
    ),
    trainer(
        "hugepages-alone",
        {RESOURCES: {"limits": {"hugepages-2Mi": "1Gi"}}},
        "spec.workers.resources.limits",
        "need cpu or memory beside them",
    ),
    trainer(
        "half-a-hugepage",
        {f"{RESOURCES}/limits/hugepages-2Mi": "3Mi"},
        "spec.workers.resources.limits",
        "write a multiple of the page size",
    ),
    at("workers/sharedMemory", "bad-shared-memory", "lots", QUANTITY),
    # Labels and annotations.
    at("workers/labels", "label-of-ours", {"training.deepseekjob.dev/slot": "7"}, "choose other keys"),
    at("workers/labels", "manager-of-ours", {"app.kubernetes.io/managed-by": "me"}, "choose other keys"),
    at("workers/labels", "label-key-with-space", {"my team": "a"}, KEY),
    at("workers/labels", "label-key-too-long", {"k" * 64: "a"}, KEY),
    at("workers/labels", "label-key-upper-domain", {"Example.com/team": "a"}, KEY),
    at("workers/labels", "label-key-two-slashes", {"a/b/c": "a"}, KEY),
    trainer("label-value-with-space", {"workers/labels": {"team": "a b"}}, "spec.workers.labels", "should match"),
    trainer("label-value-as-number", {"workers/labels": {"team": 1}}, "spec.workers.labels", "must be of type string"),
    at(
        "workers/annotations",
        "annotation-of-ours",
        {"training.deepseekjob.dev/membership": "{}"},
        "choose other keys",
    ),
    at("workers/annotations", "annotation-key", {"-a": ""}, KEY),
    trainer("long-annotation", {"workers/annotations": {"a": "x" * 2049}}, "spec.workers.annotations", "2048"),
    *[
        at("workers/annotations", f"annotation-{id_}", {key: "x"}, "use the fields of workers")
        for id_, key in {
            "apparmor": "container.apparmor.security.beta.kubernetes.io/worker",
            "seccomp": "seccomp.security.alpha.kubernetes.io/pod",
            "mirror": "kubernetes.io/config.mirror",
            "tolerations": "scheduler.alpha.kubernetes.io/tolerations",
        }.items()
    ],
]
