"""`python -m deepseek_trainer.data.audit FOLDER [--json] [--at STEP]`: proves that a job's data was used exactly once.

FOLDER is the job's folder on the checkpoint volume; nothing is written there, and nothing of the training is needed.
Exit status: 0 proven; 1 not proven: samples were lost or repeated; 2 it can't be judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deepseek_trainer.data.audit.proof import Verdict, prove
from deepseek_trainer.data.audit.summary import rows
from deepseek_trainer.errors import DataError

EXIT = {Verdict.PROVEN: 0, Verdict.NOT_PROVEN: 1, Verdict.UNKNOWN: 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the answer; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_trainer.data.audit", description=__doc__)
    parser.add_argument("folder", type=Path, help="the job's folder on the checkpoint volume")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--at", type=int, metavar="STEP", help="show the chain at this step too")
    told = parser.parse_args(arguments)
    try:
        proof = prove(told.folder, at=told.at)
    except (DataError, OSError) as error:
        return _sorry(str(error), as_json=told.json)
    shown = rows(proof)
    if told.json:
        print(json.dumps({**proof.to_json(), "rows": shown}, sort_keys=True))  # noqa: T201  its output is the answer
    else:
        width = max(len(name) for name, _ in shown)
        print("\n".join(f"{name:{width}}  {text}" for name, text in shown))  # noqa: T201
    return EXIT[proof.verdict]


def _sorry(message: str, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"verdict": Verdict.UNKNOWN.value, "error": message, "rows": [["verdict", message]]}))  # noqa: T201
    else:
        print(f"unknown: {message}", file=sys.stderr)  # noqa: T201
    return EXIT[Verdict.UNKNOWN]


if __name__ == "__main__":
    sys.exit(main())
