"""The object store that checkpoints may be kept in. Credentials are no part of it: `workers.envFrom` names their Secret."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from deepseek_operator.api.fields import Model, Rule, SubPath, inside_volume

_PLACE = r"://[^/@?#\s]+(/[^@?#\s]*)?$"
_URL = "^[a-z][a-z0-9+.-]*" + _PLACE
_ENDPOINT = "^https?" + _PLACE
_LOCAL = ("file://", "local://", "memory://")


class ObjectStore(Model):
    """A part of a bucket; it outlasts the pods."""

    rules: ClassVar = (
        Rule(
            f"self.url.matches(r'{_URL}')",
            "url is a scheme, a bucket and, if you like, a path in it, as s3://bucket/runs; credentials and options are no part "
            "of it: put them into a Secret and name it in workers.envFrom",
            ".url",
            holds=lambda store: re.fullmatch(_URL, store.url) is not None,
        ),
        Rule(
            "![" + ", ".join(f"'{local}'" for local in _LOCAL) + "].exists(local, self.url.startsWith(local))",
            "url is a place in the pod itself, which goes with the pod; take s3:// or gs://, or checkpoint.volume",
            ".url",
            holds=lambda store: not store.url.startswith(_LOCAL),
        ),
        Rule(
            f"!has(self.endpointUrl) || self.endpointUrl.matches(r'{_ENDPOINT}')",
            "endpointUrl is http:// or https://, a server and perhaps a port, as https://minio.storage.svc:9000; credentials are "
            "no part of it",
            ".endpointUrl",
            holds=lambda store: store.endpoint_url is None or re.fullmatch(_ENDPOINT, store.endpoint_url) is not None,
        ),
        inside_volume("subPath"),
    )
    url: Annotated[str, Field(min_length=6, max_length=1024)] = Field(
        description="Bucket, and path in it: s3://bucket/runs, gs://bucket/runs, or another scheme of fsspec whose package is in "
        "the image and which can create an object on the condition that there is none. The trainer's image has the package "
        "of s3. Credentials come from the environment: name their Secret in workers.envFrom."
    )
    endpoint_url: Annotated[str, Field(min_length=8, max_length=1024)] | None = Field(
        None, description="Server of the store, where it is not the provider's own, as https://minio.storage.svc:9000."
    )
    sub_path: SubPath | None = Field(None, description="The job's part of url; default: the job's name.")

    def place(self, sub_path: str) -> str:
        """The URL of a job's part."""
        return f"{self.url.rstrip('/')}/{sub_path}"
