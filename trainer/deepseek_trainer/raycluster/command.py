"""The `ray start` of one container: all ports fixed, no dashboard, no client server, no statistics, bounded memory and logs."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from deepseek_trainer.raycluster.settings import Settings

GONE_S = 15
"""After so long without its head a raylet ends; a new head comes with a new cluster, which it has to join afresh."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(GONE_S),
    # A raylet that was killed is known to be lost after five of these.
    "RAY_health_check_period_ms": "1000",
    # A node that starts on a busy machine is slow, not broken.
    "RAY_agent_register_timeout_ms": "120000",
    # Nothing here serves anybody who would have to look for another server first.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    # What grows with the number of tasks, actors and nodes that there ever were.
    "RAY_task_events_max_num_task_in_gcs": "1000",
    "RAY_maximum_gcs_destroyed_actor_cached_count": "100",
    "RAY_maximum_gcs_dead_node_cached_count": "100",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_ROTATION_MAX_BYTES": str(8 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
}
"""For all processes of Ray, and its drivers; what the pod's own environment says goes before."""
_START = "import ray.scripts.scripts as ray; ray.get_ray_client_dependency_error = lambda: ImportError(); ray.main()"
"""A head of Ray 2.60 starts a server for drivers outside of the cluster (port 10001, a second of CPU) wherever gRPC can be imported,
and has no option against it. Here no driver is outside."""


def build(settings: Settings) -> list[str]:
    """The command line; it stays until a part of Ray ends, and then ends with status 1."""
    ports = settings.ports
    metrics, runtime_env, agent_grpc, agent_http, dashboard = range(ports.agents, ports.agents + 5)
    command = [
        *(sys.executable, "-c", _START, "start", "--block"),
        f"--node-ip-address={settings.address}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--metrics-export-port={metrics}",
        f"--runtime-env-agent-port={runtime_env}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--dashboard-agent-listen-port={agent_http}",
        f"--min-worker-port={ports.workers[0]}",
        f"--max-worker-port={ports.workers[1]}",
        f"--num-cpus={settings.cpus}",
        "--num-gpus=0",
        f"--object-store-memory={settings.object_store_bytes}",
        f"--temp-dir={settings.folder}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
    ]
    if settings.role == "head":
        # The dashboard's port is taken even where only its skeleton runs.
        head = ["--head", f"--port={ports.gcs}", "--include-dashboard=false", "--no-monitor"]
        return [*command, *head, f"--dashboard-port={dashboard}"]
    return [*command, f"--address={settings.head}:{ports.gcs}"]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for it."""
    return {**_ENVIRONMENT, **environ}
