"""What the containers of Ray are told by their environment, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import Env, RayPorts

Role = Literal["head", "node"]

MIN_OBJECT_STORE_BYTES = 80_000_000
"""Ray refuses less than 75 MiB."""
_MODE, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class Ports:
    """Where one node of Ray listens; every pod has an address of its own, so they are the same everywhere.

    Attributes:
        gcs: the head's, which all know.
        agents: the first of five in a row.
        workers: first and last.
    """

    gcs: int = RayPorts.GCS
    node_manager: int = RayPorts.NODE_MANAGER
    object_manager: int = RayPorts.OBJECT_MANAGER
    agents: int = RayPorts.AGENTS[0]
    workers: tuple[int, int] = RayPorts.WORKERS


@dataclass(frozen=True)
class Settings:
    """One node of the job's Ray cluster.

    Attributes:
        address: this pod's, which the others reach it at.
        head: host name or address of the head; for the head itself its own address.
        object_store_bytes: shared memory for the objects of this node.
        cpus: how many tasks of one CPU may run here at once; none on the head.
        folder: of Ray's sockets, logs and spilled objects; the containers of a pod share it.
    """

    role: Role
    address: str
    head: str
    object_store_bytes: int
    cpus: int
    ports: Ports = Ports()
    folder: Path = Path("/tmp/ray")  # noqa: S108  where Ray itself looks for it


def read(role: Role, environ: Mapping[str, str]) -> Settings:
    """The settings of this container.

    Raises:
        ConfigError: one is missing or wrong, or Ray would run without a token: whoever reached its ports could run code.
    """
    _require_token(environ)
    address = _text(environ, Env.POD_IP)
    return Settings(
        role=role,
        address=address,
        head=address if role == "head" else _text(environ, Env.RAY_HEAD),
        object_store_bytes=_number(
            environ, Env.RAY_OBJECT_STORE, MIN_OBJECT_STORE_BYTES, at_least=MIN_OBJECT_STORE_BYTES
        ),
        cpus=0 if role == "head" else _number(environ, Env.RAY_CPUS, 1, at_least=1),
    )


def _require_token(environ: Mapping[str, str]) -> None:
    mode, path = environ.get(_MODE, ""), environ.get(_TOKEN_PATH, "")
    if mode != "token":
        raise ConfigError(f"{_MODE} is {mode!r}: Ray runs code for whoever can reach it; set it to token")
    if not path:
        raise ConfigError(f"{_TOKEN_PATH} is not set: mount the job's Secret with the token and name its file here")
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_TOKEN_PATH} {path}: can't be read: {error}; is the Secret mounted?") from error
    if not token:
        raise ConfigError(f"{_TOKEN_PATH} {path}: is empty; put a token into the Secret")


def _text(environ: Mapping[str, str], name: str) -> str:
    if not (value := environ.get(name, "")):
        raise ConfigError(f"{name} is not set; the operator sets it in the pods of a job with data.ray")
    return value


def _number(environ: Mapping[str, str], name: str, default: int, *, at_least: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isdecimal() and int(text) >= at_least):
        raise ConfigError(f"{name} is {text!r}: it must be a whole number, {at_least} or more")
    return int(text)
