"""What the containers of Ray run: `python -m deepseek_trainer.raycluster head|node`.

The head's container keeps the table of the cluster and runs no task; the one beside each worker runs tasks and has
a part of the object store. Both stay until SIGTERM, whatever becomes of Ray.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from deepseek_trainer import logs
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.raycluster import settings
from deepseek_trainer.raycluster.keeper import Keeper

log = logging.getLogger("deepseek_trainer.raycluster")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deepseek_trainer.raycluster", description="A node of the job's Ray cluster."
    )
    parser.add_argument("role", choices=("head", "node"))
    role = parser.parse_args(arguments).role
    logs.configure(0)
    try:
        keeper = Keeper(settings.read(role, os.environ), os.environ)
    except ConfigError as error:
        log.error("%s", error)
        return ExitCode.CONFIG_ERROR
    keeper.run()
    return ExitCode.SUCCESS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
