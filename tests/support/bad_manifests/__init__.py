"""Wrong DeepSeekJobs, each one change away from a right one, and what must be said about them.

The API server (tests/cluster/test_admission.py) and the local mode (tests/unit/test_client_manifest.py) refuse all of
them. A case names the field and, where Kubernetes' own message for a schema error doesn't carry one, the remedy.
"""

from __future__ import annotations

from support.bad_manifests import containers, placement, policies, ray, spec, volumes, workers
from support.bad_manifests.case import GONE, Bad, Manifest, changed, script_job, trainer_job

__all__ = ["BAD", "GONE", "Bad", "Manifest", "changed", "script_job", "trainer_job"]

BAD = [*spec.BAD, *workers.BAD, *containers.BAD, *volumes.BAD, *placement.BAD, *policies.BAD, *ray.BAD]
