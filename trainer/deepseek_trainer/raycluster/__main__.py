"""What the containers of Ray run: `python -m deepseek_trainer.raycluster head|node`.

The head's container keeps the table of the cluster and runs no task; the one beside each worker runs tasks and has
a part of the object store. Both stay until SIGTERM, whatever becomes of Ray.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from deepseek_trainer import logs
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.raycluster import settings
from deepseek_trainer.raycluster.keeper import Keeper

TO_END = frozenset({signal.SIGTERM, signal.SIGINT})
PAUSE_S = 10.0
"""Before a node without a token looks for it again: the Secret may come later."""
log = logging.getLogger("deepseek_trainer.raycluster")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deepseek_trainer.raycluster", description="A node of the job's Ray cluster."
    )
    parser.add_argument("role", choices=("head", "node"))
    role: settings.Role = parser.parse_args(arguments).role
    logs.configure(0)
    if role == "node":
        # Held back until they are taken: the first process of a container doesn't end by a signal that it has no handler for.
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
    found = _settings(role)
    while isinstance(found, ConfigError):
        log.error("%s", found)
        if role == "head":
            return ExitCode.CONFIG_ERROR
        # Kubernetes starts the worker only after it has seen this container run: whatever is wrong, it must not end.
        if signal.sigtimedwait(TO_END, PAUSE_S) is not None:
            return ExitCode.SUCCESS
        found = _settings(role)
    keeper = Keeper(found, os.environ)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_END)
    keeper.run()
    return ExitCode.SUCCESS


def _settings(role: settings.Role) -> settings.Settings | ConfigError:
    try:
        return settings.read(role, os.environ)
    except ConfigError as error:
        return error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
