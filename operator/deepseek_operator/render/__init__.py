"""Manifests, pure: a job and its status in, Kubernetes objects out."""

from deepseek_operator.render.disruptions import disruption_budget
from deepseek_operator.render.exclusion import away_from
from deepseek_operator.render.gang import pod_group
from deepseek_operator.render.identity import pod_dns, pod_name, service_name
from deepseek_operator.render.membership import Membership, membership_json
from deepseek_operator.render.network import headless_service
from deepseek_operator.render.pods import worker_pod
from deepseek_operator.render.runconfig import run_config_json

__all__ = [
    "Membership",
    "away_from",
    "disruption_budget",
    "headless_service",
    "membership_json",
    "pod_dns",
    "pod_group",
    "pod_name",
    "run_config_json",
    "service_name",
    "worker_pod",
]
