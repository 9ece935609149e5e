"""A training process: `python -m deepseek_trainer`, alone or under torchrun.

Reads the run config from the file that $DEEPSEEKJOB_RUN_CONFIG_FILE names, and ends with an exit status of the
contract. What a user can act on is one line; a traceback is a defect and is left whole.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

from deepseek_trainer import imports, logs
from deepseek_trainer.config import ConfigError, load
from deepseek_trainer.contract import Env, ExitCode, Paths
from deepseek_trainer.errors import PeerLostError, TrainerError, first_line
from deepseek_trainer.memory import is_exhausted, recipe
from deepseek_trainer.pulse import PulseWriter
from deepseek_trainer.report import Reporter
from deepseek_trainer.signals import StopSignal
from deepseek_trainer.tracking import kinds

log = logging.getLogger("deepseek_trainer")


def main(environ: Mapping[str, str] = os.environ) -> ExitCode:
    logs.configure(int(environ.get("RANK", "0")))
    try:
        _run(environ)
    except ConfigError as error:
        return _failed(ExitCode.CONFIG_ERROR, error, environ)
    except TrainerError as error:
        return _failed(error.exit_code, error, environ)
    except Exception as error:
        from deepseek_trainer.distributed.world import lost_peer

        if not lost_peer(error):
            raise
        lost = PeerLostError(f"a peer was lost: {first_line(error)}")
        return _failed(lost.exit_code, lost, environ)
    return ExitCode.SUCCESS


def _run(environ: Mapping[str, str]) -> None:
    stop = StopSignal()
    reporter, pulse = Reporter.from_environment(environ), PulseWriter.from_environment(environ)
    config = load(environ.get(Env.RUN_CONFIG_FILE) or Paths.RUN_CONFIG_FILE)
    kinds.require(config.trainer.logging)

    # torch and transformers take seconds to import: a wrong config has already been refused.
    with imports.lasting():
        from deepseek_trainer.distributed.world import join
        from deepseek_trainer.progress import Progress
        from deepseek_trainer.tasks import TASKS

    progress = Progress(reporter, pulse)
    try:
        progress.update(phase="starting")
        with join(config.backend, environ) as world:
            TASKS[config.trainer.task](config, world, progress, stop, environ)
    except Exception as error:
        if is_exhausted(error):
            raise recipe(error, config.trainer) from error
        raise
    finally:
        progress.close()


def _failed(code: ExitCode, error: Exception, environ: Mapping[str, str]) -> ExitCode:
    """Says why, where people look and where torchrun's agent does."""
    level = logging.WARNING if code is ExitCode.PREEMPTED else logging.ERROR
    log.log(level, "%s exit_code=%d: %s", code.name.lower(), code, error)
    if environ.get("TORCHELASTIC_ERROR_FILE"):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)
    return code


def end(code: ExitCode) -> None:
    """Ends the process; at once if a save, or a log, that can't be waited for any more is under way."""
    from deepseek_trainer.checkpoint import flight
    from deepseek_trainer.tracking import runlog

    if flight.is_any_under_way() or runlog.is_any_under_way():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(main())
