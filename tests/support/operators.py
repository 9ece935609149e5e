"""The operator as a process, as a kubelet would start it: settings from the environment, killed by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.eventually import eventually

# kopf imports the official client where it is installed. The operator's image doesn't have it; neither does this.
START = (
    "import sys; sys.modules['kubernetes'] = None; "
    "from deepseek_operator.__main__ import main; raise SystemExit(main())"
)


class OperatorProcess:
    """One operator; as a context manager it is killed at the end."""

    def __init__(self, kubeconfig: Path, log: Path, **settings: object) -> None:
        self.log = log
        values = {"PORT": 0, "BIND": "127.0.0.1", "IDENTITY": log.stem, **settings}
        env = {k: v for k, v in os.environ.items() if not k.startswith("DEEPSEEKJOB_OPERATOR_")}
        env |= {f"DEEPSEEKJOB_OPERATOR_{key.upper()}": str(value) for key, value in values.items()}
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START],
                env={**env, "KUBECONFIG": str(kubeconfig)},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> OperatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def lines(self) -> list[dict[str, Any]]:
        """What it logged; a line that is no JSON (a traceback) as {"event": line, "level": "raw"}.

        A line that it is just writing is not there yet.
        """
        alive, found = self.process.poll() is None, []
        text = self.log.read_text(errors="replace")
        for line in (text[: text.rfind("\n") + 1] if alive else text).splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"event": line, "level": "raw"})
        return found

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.lines() if line.get("event") == event]

    def wait_for(self, event: str, deadline_s: float = 60) -> dict[str, Any]:
        """The first log line of that event, once it is there."""
        found = eventually(
            lambda: self.said(event), deadline_s=deadline_s, what=f"operator says {event!r}", describe=self.tail
        )
        return found[0]

    @property
    def port(self) -> int:
        """Where the probes and metrics are."""
        return int(self.wait_for("operator started")["port"])

    def complaints(self) -> list[dict[str, Any]]:
        """Log lines of level error and tracebacks, and whatever says that it may not do something."""
        return [
            line
            for line in self.lines()
            if line.get("level") in ("error", "critical", "raw") or "forbidden" in json.dumps(line).lower()
        ]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """SIGKILL, as the kernel does it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)

    def terminate(self, within_s: float = 60) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)
