"""As much of a model hub's HTTP interface as reading one dataset takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

COMMIT = "c" * 40


def handler(name: str, files: Mapping[str, bytes], asked: list[str]) -> type[BaseHTTPRequestHandler]:
    """Serves the dataset `name` at its only commit, and notes what is asked."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.endswith(f"/paths-info/{COMMIT}"):
                paths = json.loads(body)["paths"] if body.startswith(b"{") else []
                return self.say([entry for entry in listing(files) if entry["path"] in paths])
            self.say({"error": "not found"}, 404)

        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0]
            if path in (f"/api/datasets/{name}", *(f"/api/datasets/{name}/revision/{r}" for r in ("main", COMMIT))):
                siblings = [{"rfilename": file} for file in files]
                return self.say(
                    {
                        "id": name,
                        "sha": COMMIT,
                        "siblings": siblings,
                        "private": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                    }
                )
            if path.startswith(f"/api/datasets/{name}/tree/{COMMIT}"):
                return self.say(listing(files))
            found = re.fullmatch(rf"/datasets/{name}/resolve/(?:main|{COMMIT})/(.+)", path)
            if found and found[1] in files:
                content = files[found[1]]
                headers = {
                    "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                }
                return self.send(200, content, headers)
            self.send(
                404, b"{}", {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound", "X-Repo-Commit": COMMIT}
            )

        def say(self, value: Any, status: int = 200) -> None:
            self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the test's output clean."""

    return Hub


def listing(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in files.items()
    ]
