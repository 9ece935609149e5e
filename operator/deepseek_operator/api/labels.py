"""Keys, labels and annotations, checked as Kubernetes checks them when a pod is created.

Rule: what the API server would refuse in the pod, or what would undo the pod's confinement, is refused in the job, where
there is a user to read the message.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from deepseek_operator.api.fields import Rule, obeys, validations
from deepseek_operator.api.names import GROUP, LABEL_MANAGED_BY

_SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY_PATTERN = f"^({_SUBDOMAIN}/)?{_NAME}$"
CONFINEMENT = (
    "kubernetes.io/config.mirror",
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "scheduler.alpha.kubernetes.io/",
)
"""Beginnings of annotations by which a pod's confinement or placement could be changed past the typed fields."""

_KEYS = Rule(
    f"self.all(k, k.size() <= 317 && k.matches('{KEY_PATTERN}'))",
    "a key is not a label key: at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit, and "
    "before it, where wanted, a domain and a /; write it as team or example.com/team",
    holds=lambda entries: all(len(key) <= 317 and re.fullmatch(KEY_PATTERN, key) for key in entries),
)
_OWN = Rule(
    f"self.all(k, !k.startsWith('{GROUP}/') && k != '{LABEL_MANAGED_BY}')",
    f"{GROUP}/* and {LABEL_MANAGED_BY} are the operator's; choose other keys",
    holds=lambda entries: not any(key.startswith(f"{GROUP}/") or key == LABEL_MANAGED_BY for key in entries),
)
_CONFINED = Rule(
    f"self.all(k, !{list(CONFINEMENT)}.exists(p, k.startsWith(p)))",
    "an annotation would change how the pod is confined or placed; remove it, and use the fields of workers",
    holds=lambda entries: not any(key.startswith(CONFINEMENT) for key in entries),
)

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=KEY_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
LabelMap = Annotated[dict[str, LabelValue], Field(max_length=64, json_schema_extra=validations(_KEYS)), obeys(_KEYS)]
"""Labels that something must have."""
PodLabels = Annotated[
    dict[str, LabelValue],
    Field(max_length=64, json_schema_extra=validations(_KEYS, _OWN)),
    obeys(_KEYS, _OWN),
]
"""Labels that the pods get."""
PodAnnotations = Annotated[
    dict[str, Annotated[str, Field(max_length=2048)]],
    Field(max_length=32, json_schema_extra=validations(_KEYS, _OWN, _CONFINED)),
    obeys(_KEYS, _OWN, _CONFINED),
]
"""Annotations that the pods get. Kubernetes takes 256 KiB of them in all; ours, and a profile's, need room beside these."""
