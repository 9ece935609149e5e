"""Runs a command that dies with the agent: `python exec.py AGENT_PID COMMAND ARGS…`, run by path.

In a container the kernel kills everything when the agent dies. Outside of one (the local mode, tests) a training
process would live on, hold its port and write checkpoints of a generation that is gone. The kernel's death signal
survives exec, so what runs afterwards is exactly the user's command. Standard library only, for a fast start.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    agent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write("deepseek agent: no death signal here; processes may outlive a killed agent\n")
    if os.getppid() != agent:  # the agent died before the signal was set
        os.kill(os.getpid(), signal.SIGKILL)
    os.execv(command[0], command)  # noqa: S606 - no shell: the command is the interpreter and its arguments


if __name__ == "__main__":
    main()
