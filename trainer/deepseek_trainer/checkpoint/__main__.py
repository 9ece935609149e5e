"""`python -m deepseek_trainer.checkpoint FOLDER`: lists a job's checkpoints, or trusts one that was marked bad.

FOLDER is the job's folder on the checkpoint volume, or its URL in an object store. Exit status: 0 done; 65 there is no such folder or checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_trainer.checkpoint import listing
from deepseek_trainer.config import ConfigError
from deepseek_trainer.contract import ExitCode
from deepseek_trainer.errors import TrainerError

COLUMNS = ("step", "state", "verified", "time", "bytes", "worldSize", "samples", "tokens", "loss")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the answer; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_trainer.checkpoint", description=__doc__)
    parser.add_argument("folder", help="the job's folder on the checkpoint volume, or its URL in an object store")
    parser.add_argument(
        "--endpoint", default="", metavar="URL", help="of the object store's server, if not the provider's"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--verify", action="store_true", help="hash every file, as a start does")
    parser.add_argument("--trust", type=int, metavar="STEP", help="forget that training failed soon after this one")
    parser.add_argument("--brief-to", type=Path, metavar="FILE", help="put 4 KiB of JSON there, a pod's last words")
    told = parser.parse_args(arguments)
    try:
        rows = _in_store(told) if "://" in told.folder else _in_folder(told)
    except (TrainerError, ConfigError) as error:
        if told.brief_to is not None:
            told.brief_to.write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return int(error.exit_code if isinstance(error, TrainerError) else ExitCode.CONFIG_ERROR)
    if told.brief_to is not None:
        told.brief_to.write_text(json.dumps(listing.brief(rows)), encoding="utf-8")
    print(json.dumps({"checkpoints": rows, "leftOut": 0}) if told.json else _table(rows))  # noqa: T201  its output is the answer
    return 0


def _in_folder(told: argparse.Namespace) -> list[dict[str, Any]]:
    folder = Path(told.folder)
    if told.trust is not None:
        listing.trust(folder, told.trust)
    return listing.checkpoints(folder, content=told.verify)


def _in_store(told: argparse.Namespace) -> list[dict[str, Any]]:
    from deepseek_trainer.checkpoint.objects import listing as objects
    from deepseek_trainer.checkpoint.objects.store import connect

    store = connect(told.folder, told.endpoint)
    if told.trust is not None:
        objects.trust(store, told.trust)
    return objects.checkpoints(store, content=told.verify)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        COLUMNS,
        *(tuple(str(row.get(name) if row.get(name) is not None else "-") for name in COLUMNS) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, *(f"step {row['step']}: {row['problem']}" for row in rows if row["problem"])])


if __name__ == "__main__":
    sys.exit(main())
