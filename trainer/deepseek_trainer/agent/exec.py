"""Runs a command that dies with the agent: `python exec.py AGENT_PID COMMAND ARGS…`, run by path.

In a container the kernel kills everything when the agent dies. Outside of one (the local mode, tests) a training
process would live on, hold its port and write checkpoints of a generation that is gone. The kernel's death signal
survives exec, so what runs afterwards is exactly the user's command.

With DEEPSEEKJOB_ZYGOTE set the command runs in a fork of the process behind that socket (see `zygote`), which has
torch imported already, and this process stands for it: it passes signals on, dies with it and ends as it ends.
Whatever fails before the fork falls back to the plain command. Standard library only, for a fast start.
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
ZYGOTE = "DEEPSEEKJOB_ZYGOTE"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    agent, command = int(sys.argv[1]), sys.argv[2:]
    die_with_parent(agent)
    address = os.environ.pop(ZYGOTE, "")
    if address and (status := run_forked(address, command)) is not None:
        end_as(status)
    os.execv(command[0], command)  # noqa: S606 - no shell: the command is the interpreter and its arguments


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent, the agent, dies."""
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write("deepseek agent: no death signal here; processes may outlive a killed agent\n")
    if os.getppid() != parent:  # it died before the signal was set
        os.kill(os.getpid(), signal.SIGKILL)


def run_forked(address: str, command: list[str]) -> int | None:
    """The wait status (as of os.waitpid) of the command in a fork of the zygote; None: it could not be had."""
    import json
    import socket

    lifeline, held = os.pipe()  # nobody else has `held`: when this process is gone, the kernel tells the fork
    request = json.dumps({"argv": command, "env": dict(os.environ), "cwd": os.getcwd()}).encode()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until there is somebody to pass them on to
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2, lifeline])
            connection.sendall(request)
            replies = connection.makefile("r")
            pid = replies.readline()
            if not pid:
                return None  # it ended before the fork: what it imports may be broken, and then says so itself
            for number in FORWARDED:
                signal.signal(number, lambda number, frame: _pass_on(int(pid), number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
            status = replies.readline()
            return int(status) if status else signal.SIGKILL  # a fork doesn't outlive its zygote
    except OSError:
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        os.close(lifeline)
        os.close(held)


def end_as(status: int) -> None:
    """Ends this process as another one has ended, by the same signal or exit status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _pass_on(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, and the status is on its way
        os.kill(pid, number)


if __name__ == "__main__":
    main()
