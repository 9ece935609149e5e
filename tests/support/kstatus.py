"""kstatus' generic rules, as Flux, Argo CD (by health.lua) and `helm --wait` read a custom resource.

observedGeneration < generation    InProgress
Reconciling is True                InProgress
Stalled is True                    Failed
Ready is False                     InProgress
else                               Current
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from deepseek_operator.api.v1alpha1 import DeepSeekJob

Verdict = Literal["InProgress", "Failed", "Current"]


def kstatus(obj: Mapping[str, Any]) -> Verdict:
    """What a tool that knows nothing about DeepSeekJobs makes of one."""
    status = obj.get("status", {})
    if status.get("observedGeneration", 0) < obj["metadata"]["generation"]:
        return "InProgress"
    says = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}
    if says.get("Reconciling") == "True":
        return "InProgress"
    if says.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if says.get("Ready") == "False" else "Current"


def kstatus_of(job: DeepSeekJob) -> Verdict:
    """The same for a parsed job."""
    return kstatus(job.model_dump(by_alias=True, exclude_none=True, mode="json"))
