"""How a process that Ray did not start becomes a driver of the job's cluster.

`ray.init` looks for its node's raylet among the processes that it sees. In a pod each container sees its own only, and
it would look for two minutes and give up. So it is told which nodes there are by the head, and takes the one that has
this pod's address; sockets and objects it finds in the folders that the containers share.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping

from deepseek_trainer.contract import Env, RayPorts
from deepseek_trainer.errors import UnavailableError

REACH_S = 3.0
LOST_S = 1.0
PAUSE_S = 0.25


def head_address(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port of the cluster's head; None where the job has no Ray."""
    host, _, port = environ.get(Env.RAY_HEAD, "").partition(":")
    return (host, int(port or RayPorts.GCS)) if host else None


def await_head(environ: Mapping[str, str], seconds: float) -> None:
    """Returns when the head accepts connections: it is started when the workers are, and takes longer.

    Raises:
        UnavailableError: it doesn't within so many seconds.
    """
    address = head_address(environ)
    if address is None:
        raise UnavailableError("the job has no Ray")
    end = time.monotonic() + seconds
    while problem := unreachable(*address):
        if time.monotonic() > end:
            raise UnavailableError(f"the head {address[0]}: {problem}")
        time.sleep(PAUSE_S)


def unreachable(host: str, port: int) -> str | None:
    """Why no connection to the head can be had; None when there is one."""
    try:
        socket.create_connection((host, port), timeout=REACH_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_lost(host: str, port: int) -> bool:
    """Whether nobody listens where the head was. A network that is away for a moment doesn't say so."""
    try:
        socket.create_connection((host, port), timeout=LOST_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def connect(environ: Mapping[str, str]) -> None:
    """Makes this process a driver on its own pod's node. Ray may end the process later, and may take its time here.

    Raises:
        Exception: whatever Ray raises; it can't be reached, or has another version.
    """
    import ray
    from ray._private import services

    host, port = head_address(environ) or ("", 0)
    nodes = ray._raylet.GcsClient(address=f"{host}:{port}")
    services.find_node_ids = lambda: {node.hex() for node in nodes.get_all_node_info(timeout=REACH_S)}
    ray.init(
        address=f"{host}:{port}",
        namespace="deepseekjob",
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address=environ[Env.POD_IP],
    )
