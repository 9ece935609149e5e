"""The audit of a job on a cluster: the trainer's own, by a pod beside the checkpoints, compared with the job's status."""

from __future__ import annotations

from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client.audit.answer import Answer, compared, parse, status_step
from deepseek_client.beside.pod import Errand, whole_job
from deepseek_client.beside.run import run
from deepseek_client.errors import ClientError
from deepseek_client.sdk import DeepSeekJobClient

MODULE = "deepseek_trainer.data.audit"


def audit_job(client: DeepSeekJobClient, name: str, *, timeout_s: float = 300, memory: str = "1Gi") -> Answer:
    """Runs the job's trainer image on its checkpoint claim, and compares its answer with the job's status.

    Needs the right to create, get and delete pods in the job's namespace.

    Args:
        timeout_s: for the pod to start and to end.
        memory: limit of the pod, as a Kubernetes quantity.

    Raises:
        NotFoundError: there is no such job.
        ClientError: the job keeps no audit; or the pod may not be made, does not start, or gives no answer.
    """
    job = client.get(name)
    return compared(parse(run(client, job, errand(job, memory=memory, timeout_s=timeout_s))), job)


def errand(job: DeepSeekJob, *, memory: str, timeout_s: float) -> Errand:
    """What the pod is for.

    Raises:
        ClientError: the job keeps no audit.
    """
    spec = whole_job(job).spec
    if spec.checkpoint is None or spec.data is None or not spec.data.trainers().get("audit"):
        raise ClientError(f"job {job.metadata.name}: keeps no audit; apply it anew with data.audit: true")
    step = status_step(job)
    return Errand(
        "audit",
        MODULE,
        ("--at", str(step)) if step is not None else (),
        memory=memory,
        scratch=spec.checkpoint.object_store is not None,
        needs="125 MB for 10^9 samples an epoch, three times",
        timeout_s=timeout_s,
    )
