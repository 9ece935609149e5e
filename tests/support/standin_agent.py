"""A worker without torch, for tests of what launches workers: it counts steps, saves, resumes, and can misbehave.

It keeps the agent's contract (environment, membership file, /healthz, /progress, termination log, exit status) and
starts one child in a session of its own, as torchrun does. STANDIN_* variables steer it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOTAL = int(os.environ.get("STANDIN_STEPS", "60"))
STEP_S = float(os.environ.get("STANDIN_STEP_S", "0.02"))
HOLD = int(os.environ.get("STANDIN_HOLD", "-1"))
"""The first generation gets to this step and stays there: it can't be over before a test has done something to it."""
SAVE_EVERY = 10
BATCH = 4


class Worker:
    def __init__(self) -> None:
        self.membership: dict[str, Any] = {}
        self.step = 0
        self.resumed: int | None = None
        self.phase = "starting"
        self.folder = Path(os.environ["DEEPSEEKJOB_CHECKPOINT_DIR"])
        self.folder.mkdir(parents=True, exist_ok=True)

    def progress(self) -> dict[str, Any]:
        saved = self.saved()
        checkpoint = {"step": saved, "time": datetime.now(UTC).isoformat(), "path": str(self.folder), "bytes": 1}
        return {
            "version": 1,
            "pod": os.environ["DEEPSEEKJOB_POD_NAME"],
            "generation": self.membership.get("generation", 0),
            "attempt": self.membership.get("attempt", 0),
            "nodeRank": self.membership.get("nodeRank"),
            "phase": self.phase,
            "step": self.step,
            "totalSteps": TOTAL,
            "position": self.step * BATCH,
            "loss": 8.0 / (1 + self.step),
            "validationLoss": 4.0,
            "unigramEntropy": 6.0,
            "tokensPerSecond": 1000.0,
            "resumedStep": self.resumed,
            "checkpoint": checkpoint | {"seconds": 0.1} if saved else None,
        }

    def saved(self) -> int:
        try:
            return int((self.folder / "newest").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def join(self) -> bool:
        """Takes up the file's generation; True when it is another than before."""
        found = json.loads(Path(os.environ["DEEPSEEKJOB_MEMBERSHIP_FILE"]).read_text())
        if found.get("generation") == self.membership.get("generation"):
            return False
        self.step = self.saved()
        self.resumed = self.step or None
        self.membership = found  # last: whoever is told of the new generation is told what it resumed from
        return True

    def train(self) -> None:
        while self.step < TOTAL:
            self.join()
            self.phase = "training"
            time.sleep(STEP_S)
            if self.step == HOLD and self.membership["generation"] == 1:
                continue
            self.step += 1
            if self.membership["nodeRank"] == 0 and self.step % SAVE_EVERY == 0:
                (self.folder / ".new").write_text(str(self.step))
                os.replace(self.folder / ".new", self.folder / "newest")
        self.phase = "finished"


def serve(worker: Worker) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(worker.progress()).encode() if self.path == "/progress" else b"ok"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    address = (os.environ["DEEPSEEKJOB_POD_IP"], int(os.environ["DEEPSEEKJOB_AGENT_PORT"]))
    threading.Thread(target=ThreadingHTTPServer(address, Handler).serve_forever, daemon=True).start()


def main() -> int:
    print("stand-in starts", os.environ["DEEPSEEKJOB_POD_NAME"], flush=True)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if os.environ.get("STANDIN_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = Worker()
    worker.join()
    serve(worker)
    if code := int(os.environ.get("STANDIN_EXIT", "0")):
        print("stand-in fails on purpose", flush=True)
        failure = {"rank": 0, "exitCode": code, "message": "ValueError: on purpose"}
        text = json.dumps(worker.progress() | {"failure": failure})
        Path(os.environ["DEEPSEEKJOB_TERMINATION_LOG"]).write_text(text)
        return code
    worker.train()
    Path(os.environ["DEEPSEEKJOB_TERMINATION_LOG"]).write_text(json.dumps(worker.progress()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
