"""The operator's settings: read once from the environment, never changed, each one a value of the Helm chart.

Rule: nothing about a job belongs here (that is the API), nothing about training either (that is the run config).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENV_PREFIX = "DEEPSEEKJOB_OPERATOR_"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """The namespace that this process runs in, or `default` outside of a cluster."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def own_identity() -> str:
    """A name for this process among its replicas: unique on one host and over hosts."""
    return f"{socket.gethostname()}-{os.getpid()}"


class Settings(BaseSettings):
    """Environment variables are the field names in capitals, with the prefix DEEPSEEKJOB_OPERATOR_."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Namespaces that are served, separated by commas. Empty: all of them."
    )
    workers: Annotated[int, Field(ge=1, le=512)] = Field(16, description="Jobs that are reconciled at the same time.")
    resync_interval_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        60, description="Seconds between two looks at every job, which repair what a lost event left undone."
    )
    progress_interval_s: Annotated[float, Field(ge=0.2, le=3600)] = Field(
        5, description="Seconds between two reads of a running job's progress."
    )
    kubelet_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        10250,
        description="Port of the kubelets. A node is taken for lost when neither it nor the worker's agent there takes a "
        "connection, while another node of the job does. 0: only when the control plane says so, after 40 s or more.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8080, description="Port of /healthz, /readyz and /metrics; 0 takes any free one."
    )
    bind: str = Field("0.0.0.0", description="Address that the port is opened on.")  # noqa: S104 - probes come from outside
    leader_election: bool = Field(
        True, description="Elect one leader by a Lease. Switch it off only where one replica alone can ever run."
    )
    lease_name: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        "deepseek-operator", description="Name of the Lease."
    )
    lease_namespace: str = Field(
        default_factory=own_namespace, description="Namespace of the Lease; default: the operator's own."
    )
    lease_duration_s: Annotated[float, Field(ge=2, le=300)] = Field(
        15, description="Seconds after its last renewal that a leader is taken for dead."
    )
    identity: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default_factory=own_identity,
        description="Name of this replica in the Lease; default: host name and process id.",
    )
    qps: Annotated[float, Field(gt=0)] = Field(
        2000, description="Requests per second to the API server, on average; its own fairness guards it above that."
    )
    burst: Annotated[int, Field(ge=1)] = Field(4000, description="Requests that may be sent at once above qps.")
    concurrent_requests: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="Requests to the API server that are under way at the same time."
    )
    request_timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(
        30, description="Seconds after which a request to the API server is given up and tried again."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`a, b` as `("a", "b")`."""
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @property
    def renew_deadline_s(self) -> float:
        """A leader that could not renew for so long steps down, before another one may take over."""
        return self.lease_duration_s * 2 / 3
