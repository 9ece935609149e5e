"""The command `deepseek-operator`: settings from the environment, logs to standard output, exit status for the kubelet.

0: told to stop. 1: can't go on, start me again. 2: settings or credentials are wrong.
"""

from __future__ import annotations

import asyncio
import sys

from pydantic import ValidationError

from deepseek_operator.cluster.credentials import LoginError
from deepseek_operator.logs import configure_logging, get_logger
from deepseek_operator.runtime import run
from deepseek_operator.settings import ENV_PREFIX, Settings


def main() -> int:
    """Runs the operator; returns the exit status."""
    try:
        settings = Settings()
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            name = ENV_PREFIX + "_".join(map(str, wrong["loc"])).upper()
            sys.stderr.write(f"{name}: {wrong['msg']}\n")
        return 2
    configure_logging(settings.log_level)
    log = get_logger("deepseek_operator")
    try:
        asyncio.run(run(settings))
    except LoginError as error:
        log.error("no access to Kubernetes", error=str(error))
        return 2
    except (Exception, BaseExceptionGroup) as error:  # the last line of defence: one line a cause, no traceback
        for cause in _leaves(error):
            log.error("operator ends", error=str(cause), kind=type(cause).__name__)
        return 1
    return 0


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group of groups; an exception that is none, itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


if __name__ == "__main__":
    raise SystemExit(main())
