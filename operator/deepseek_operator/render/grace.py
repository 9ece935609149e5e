"""How long a worker pod may take to end: its own grace period, and what its agent gives the training processes of it.

    workers.terminationGracePeriodSeconds, else three times what the last save took and 15 s, from 30 s to 600 s
       └─ less the agent's margin to stop what doesn't end and to write its last words ──► DEEPSEEKJOB_TERMINATION_GRACE_S

Rule: fixed when the pod is made, as Kubernetes wants it. So the first pods of a job, which has saved nothing yet, get the
least; whoever knows that a save takes longer sets the field.
"""

from __future__ import annotations

from math import ceil

from deepseek_operator.api.v1alpha1 import DeepSeekJob

LEAST_S = 30
MOST_S = 600
"""As long as autoscalers usually wait for a pod when they drain a node."""
SAVES = 3
"""A volume that all workers of a cluster save to at once is slower than in the measured save."""
STEP_S = 15
"""For the step that is under way, which ends before the save begins."""
MARGIN_S = 5


def grace_s(job: DeepSeekJob) -> int:
    """Seconds between SIGTERM and SIGKILL for the pods that are made now."""
    wanted, saved = job.spec.workers.termination_grace_period_seconds, job.status.checkpoint
    if wanted is not None:
        return wanted
    return min(MOST_S, max(LEAST_S, ceil(SAVES * saved.seconds) + STEP_S if saved is not None else 0))


def saving_s(job: DeepSeekJob) -> int:
    """Seconds of it that the training processes have."""
    whole_s = grace_s(job)
    return max(1, whole_s - min(MARGIN_S, whole_s // 4))
