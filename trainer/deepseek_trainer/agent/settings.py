"""What the agent is told: its command line and the environment of the pod, read once, all errors in one place."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never

from deepseek_trainer.agent.watchdog import Limits
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import AGENT_PORT, Env, Paths
from deepseek_trainer.preflight.records import Plan

PULSE_FLOOR_S = 60
"""Least patience with ranks that have a pulse. A script that has none, and tells no phases either, can't be told from one
that evaluates, so its floor is the timeout."""
STRAGGLER_WINDOW_S = "DEEPSEEKJOB_STRAGGLER_WINDOW_S"
"""Seconds of steps that are judged together to find a slow rank; three such windows in a row name one."""

BUILT_IN = ("-m", "deepseek_trainer")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that does not change while the agent lives. Seconds where a name ends in _s."""

    job: str
    namespace: str
    uid: str
    pod: str
    node: str
    """Kubernetes' name of the node; "" where it is not known."""
    pod_ip: str | None
    """None: address and interface are left to the system, and the HTTP server listens everywhere."""
    membership_file: Path
    run_dir: Path
    checkpoint_dir: Path | None
    """The job's folder on the checkpoint volume; made by the agent, for scripts too."""
    termination_log: Path
    proc_per_node: int
    backend: str
    max_process_restarts: int
    """Rounds after the first that a generation may have because training processes failed."""
    prewarm: bool
    """Keep a process that has imported torch, from which training processes are forked."""
    agent_port: int
    termination_grace_s: float
    """How long training processes may take to save after SIGTERM; less than the pod's own grace period."""
    rendezvous_timeout_s: float
    """How long the agent waits for a generation and its peers before it gives up as UNAVAILABLE."""
    departure_grace_s: float
    """How long an agent whose processes succeeded waits for a new generation when its peers have vanished."""
    hang: Limits
    """When a rank that has a pulse hangs."""
    report_hang: Limits
    """When a script hangs whose rank 0 writes reports and nobody a pulse."""
    fence_grace_s: float
    """How long an agent whose generation is over waits to be told a newer one, before it ends as UNAVAILABLE."""
    straggler_window_s: float
    """Over how long a rank's steps are judged together; longer in a large world."""
    preflight: Plan | None
    """None: the gang is not checked before the first step."""
    command: tuple[str, ...]
    """Arguments of the Python interpreter: `-m module args…` or `script args…`."""

    @property
    def is_built_in(self) -> bool:
        return self.command[:2] == BUILT_IN

    @property
    def run_id(self) -> str:
        return self.uid or self.job


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise ConfigError(f"agent's command line: {message}; see python -m deepseek_trainer.agent --help")


def load(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment.

    Raises:
        ConfigError: an option or a variable is wrong; the message names it.
    """
    options = _parser().parse_args(arguments)
    module, script = options.module, options.script
    if module == []:
        raise ConfigError("agent's command line: -m needs the name of a module")
    command = ("-m", *module) if module else tuple(script) or BUILT_IN
    pod = environ.get(Env.POD_NAME, "") or "local"
    return Settings(
        job=environ.get(Env.JOB_NAME, "") or "local",
        namespace=environ.get(Env.JOB_NAMESPACE, ""),
        uid=environ.get(Env.JOB_UID, ""),
        pod=pod,
        node=environ.get(Env.NODE_NAME, ""),
        pod_ip=_address(environ, Env.POD_IP),
        membership_file=Path(environ.get(Env.MEMBERSHIP_FILE) or Paths.MEMBERSHIP_FILE),
        run_dir=Path(environ.get(Env.RUN_DIR) or Paths.RUN_DIR),
        checkpoint_dir=Path(folder) if (folder := environ.get(Env.CHECKPOINT_DIR)) else None,
        termination_log=Path(environ.get(Env.TERMINATION_LOG) or Paths.TERMINATION_LOG),
        proc_per_node=_number(environ, Env.PROC_PER_NODE, 1, low=1, high=1024),
        backend=environ.get(Env.BACKEND) or "auto",
        max_process_restarts=_number(environ, Env.MAX_PROCESS_RESTARTS, 3, low=0, high=1_000_000),
        prewarm=_number(environ, Env.PREWARM, 0, low=0, high=1) == 1,
        agent_port=_number(environ, Env.AGENT_PORT, AGENT_PORT, low=1, high=65535),
        termination_grace_s=_number(environ, Env.TERMINATION_GRACE, 25, low=0, high=86_400),
        rendezvous_timeout_s=options.rendezvous_timeout_s,
        departure_grace_s=options.departure_grace_s,
        hang=_hang(environ, floor_s=PULSE_FLOOR_S),
        report_hang=_hang(environ, floor_s=None),
        fence_grace_s=options.fence_grace_s,
        straggler_window_s=_number(environ, STRAGGLER_WINDOW_S, 10, low=1, high=86_400),
        preflight=_preflight(environ),
        command=command,
    )


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m deepseek_trainer.agent",
        description="Runs the training processes of one worker pod under torchrun's elastic agent. Without a module or "
        "script it runs the built-in trainer. The rest is told by environment variables DEEPSEEKJOB_*.",
    )
    parser.add_argument(
        "--rendezvous-timeout-s",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long to wait for a generation and its peers before giving up with exit status 69 (default 1800)",
    )
    parser.add_argument(
        "--departure-grace-s",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for a new generation when this pod succeeded but its peers vanished (default 30)",
    )
    parser.add_argument(
        "--fence-grace-s",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait to be told a newer generation when this pod's is over (default 120)",
    )
    parser.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="module to run, then its arguments"
    )
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="script to run, then its arguments")
    return parser


def _number(environ: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    text = environ.get(name, "") or str(default)
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ConfigError(f"{name}={text}: set it to a whole number from {low} to {high}")
    return value


def _hang(environ: Mapping[str, str], *, floor_s: int | None) -> Limits:
    """Args: floor_s: where none is set; None: the timeout."""
    timeout_s = _number(environ, Env.HANG_TIMEOUT, 1800, low=1, high=604_800)
    floor = _number(environ, Env.HANG_FLOOR, timeout_s if floor_s is None else floor_s, low=1, high=604_800)
    factor = _number(environ, Env.HANG_FACTOR, 20, low=2, high=1000)
    return Limits(factor=factor, floor_s=floor, timeout_s=timeout_s)


def _preflight(environ: Mapping[str, str]) -> Plan | None:
    if not environ.get(Env.PREFLIGHT_TIMEOUT):
        return None
    timeout_s = _number(environ, Env.PREFLIGHT_TIMEOUT, 120, low=5, high=86_400)
    min_mbps = _number(environ, Env.PREFLIGHT_MIN_MBPS, 0, low=0, high=10_000_000)
    return Plan(timeout_s=timeout_s, min_mbps=min_mbps or None)


def _address(environ: Mapping[str, str], name: str) -> str | None:
    text = environ.get(name, "")
    try:
        return str(ipaddress.ip_address(text)) if text else None
    except ValueError as error:
        raise ConfigError(f"{name}={text}: set it to the pod's IP address, or leave it out") from error
