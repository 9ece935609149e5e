"""Entry point of torch's rendezvous plug-ins (`torchrun --rdzv-backend=deepseekjob`).

torch loads this module while it is itself half imported, and so nothing of torch is imported here before the
first handler is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousParameters

BACKEND = "deepseekjob"


def handler_factory() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What torch registers under the backend's name."""
    return _create


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    """A handler for plain torchrun: who and where this pod is comes from the environment, as for the agent."""
    import os

    from deepseek_trainer.agent import settings as agent_settings
    from deepseek_trainer.agent.handler import create

    return create(agent_settings.load([], os.environ), run_id=parameters.run_id)
