"""How the job is run: communication, elasticity, recovery, scheduling, life cycle, preflight."""

from __future__ import annotations

from support.bad_manifests.case import at, trainer

BAD = [
    # Communication.
    at("communication/interface", "interface-with-space", "eth0 eth1", "should match"),
    at("communication/ibHca", "adapter-with-space", "mlx5_0, mlx5_1", "should match"),
    at("communication/ibGidIndex", "gid-too-large", 256, "less than or equal to 255"),
    at("communication/ibTimeout", "ib-timeout-too-long", 32, "less than or equal to 31"),
    at("communication/debug", "bad-debug-level", "LOUD", '"VERSION", "WARN", "INFO", "TRACE"'),
    at("communication/timeoutSeconds", "timeout-too-short", 5, "greater than or equal to 10"),
    at("communication/timeoutSeconds", "timeout-with-unit", "10m", "must be of type integer"),
    at("communication/infiniband", "infiniband-as-text", "off", "must be of type boolean"),
    trainer("nccl-variable", {"communication/NCCL_DEBUG": "INFO"}, 'unknown field "spec.communication.NCCL_DEBUG"'),
    # Elasticity.
    at("elastic", "elastic-without-most", {"minReplicas": 1}, "maxReplicas", "Required value"),
    trainer(
        "least-above-most",
        {"elastic": {"minReplicas": 4, "maxReplicas": 2}},
        "spec.elastic.minReplicas",
        "lower it or raise maxReplicas",
    ),
    trainer(
        "more-than-most",
        {"workers/replicas": 9, "elastic": {"maxReplicas": 8}},
        "spec.workers.replicas",
        "choose a number between them",
    ),
    trainer(
        "fewer-than-least",
        {"workers/replicas": 1, "elastic": {"minReplicas": 2, "maxReplicas": 8}},
        "spec.workers.replicas",
        "choose a number between them",
    ),
    at("elastic/minReplicas", "least-0", 0, "greater than or equal to 1"),
    at("elastic/shrinkAfterSeconds", "shrink-before", -1, "greater than or equal to 0"),
    at("elastic/growPolicy", "grow-never", "Never", '"WhenReady", "OnRestart"'),
    # Recovery.
    at("recovery/budgets/application", "restarts-below-0", -1, "equal to 0"),
    at("recovery/budgets/hang", "restarts-as-text", "many", "must be of type integer"),
    trainer("unknown-cause", {"recovery/budgets/bugs": 1}, 'unknown field "spec.recovery.budgets.bugs"'),
    at("recovery/maxProcessRestarts", "process-restarts-below-0", -1, "equal to 0"),
    at("recovery/maxRestartsWithoutProgress", "no-progress-0", 0, "equal to 1"),
    at("recovery/hangTimeoutSeconds", "hang-too-soon", 1, "equal to 10"),
    at("recovery/nodeExclusion/failures", "exclusion-at-once", 0, "equal to 1"),
    at("recovery/nodeExclusion/cooldownSeconds", "no-cooldown", 0, "equal to 1"),
    trainer(
        "backoff-the-wrong-way-round",
        {"recovery/backoff": {"initialSeconds": 60, "maxSeconds": 5}},
        "spec.recovery.backoff.initialSeconds",
        "lower it or raise maxSeconds",
    ),
    trainer(
        "backoff-above-the-default",
        {"recovery/backoff": {"initialSeconds": 301}},
        "spec.recovery.backoff.initialSeconds",
        "lower it or raise maxSeconds",
    ),
    # Scheduling.
    at("scheduling/gang", "bad-gang", "Slurm", '"None", "Kueue", "Volcano", "Coscheduling"'),
    trainer("kueue-without-queue", {"scheduling": {"gang": "Kueue"}}, "spec.scheduling.queue", "name of a LocalQueue"),
    trainer(
        "queue-without-gang",
        {"scheduling": {"gang": "Coscheduling", "queue": "q"}},
        "spec.scheduling.queue",
        "set gang to one of them",
    ),
    at("scheduling/queue", "bad-queue", "Team A", "should match"),
    at("scheduling/priorityClassName", "gang-priority-of-the-system", "system-cluster-critical", "choose another"),
    at("scheduling/spares", "spares-below-0", -1, "greater than or equal to 0"),
    at("scheduling/schedulerName", "bad-scheduler", "My Scheduler", "should match"),
    at("scheduling/topology", "topology-without-key", {"mode": "Required"}, "key", "Required value"),
    trainer(
        "bad-topology-mode",
        {"scheduling/topology": {"key": "zone", "mode": "Never"}},
        "spec.scheduling.topology.mode",
        '"Required", "Preferred"',
    ),
    trainer("bad-topology", {"scheduling/topology": {"key": "a b"}}, "spec.scheduling.topology.key", "should match"),
    # Life cycle.
    at("lifecycle/activeDeadlineSeconds", "no-time", 0, "greater than or equal to 1"),
    at("lifecycle/startDeadlineSeconds", "time-with-unit", "1h", "must be of type integer"),
    at("lifecycle/ttlSecondsAfterFinished", "time-below-0", -1, "greater than or equal to 0"),
    at("lifecycle/cleanPodPolicy", "bad-clean-policy", "None", '"Running", "All"'),
    at("lifecycle/successPolicy", "bad-success-policy", "AnyWorker", '"AllWorkers", "RankZero"'),
    # Preflight.
    at("preflight/timeoutSeconds", "preflight-too-short", 1, "greater than or equal to 5"),
    at("preflight/minBandwidthMbps", "no-bandwidth", 0, "greater than or equal to 1"),
    at("preflight/minBandwidthMbps", "bandwidth-with-unit", "10G", "must be of type integer"),
]
