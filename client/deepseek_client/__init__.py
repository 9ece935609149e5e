"""DeepSeekJob from Python: submit, watch and delete training runs on Kubernetes.

The command line is `dsj`; the local mode (the same manifest without a cluster) is `dsj run`.
"""

from deepseek_operator.api.v1alpha1 import DeepSeekJob

from deepseek_client.errors import ClientError, ManifestError, NotFoundError, WaitTimeoutError
from deepseek_client.sdk import DeepSeekJobClient, Pod

__all__ = [
    "ClientError",
    "DeepSeekJob",
    "DeepSeekJobClient",
    "ManifestError",
    "NotFoundError",
    "Pod",
    "WaitTimeoutError",
]
