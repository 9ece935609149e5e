"""`python -m deepseek_trainer.data.audit FOLDER`: proves that a job's data was used exactly once.

FOLDER is the job's folder on the checkpoint volume, or its URL in an object store; nothing is written there, and nothing of the training is needed.
Exit status: 0 proven; 1 not proven: samples were lost or repeated; 2 it can't be judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deepseek_trainer.data.audit.proof import Verdict
from deepseek_trainer.data.audit.summary import answer, brief

EXIT = {Verdict.PROVEN: 0, Verdict.NOT_PROVEN: 1, Verdict.UNKNOWN: 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the answer; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_trainer.data.audit", description=__doc__)
    parser.add_argument("folder", help="the job's folder on the checkpoint volume, or its URL in an object store")
    parser.add_argument(
        "--endpoint", default="", metavar="URL", help="of the object store's server, if not the provider's"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--at", type=int, metavar="STEP", help="show the chain at this step too")
    parser.add_argument("--brief-to", type=Path, metavar="FILE", help="put 4 KiB of JSON there, a pod's last words")
    told = parser.parse_args(arguments)
    found = answer(told.folder, at=told.at, endpoint=told.endpoint)
    if told.brief_to is not None:
        told.brief_to.write_text(json.dumps(brief(found)), encoding="utf-8")
    print(json.dumps(found, sort_keys=True) if told.json else _table(found["rows"]))  # noqa: T201  its output is the answer
    return EXIT[Verdict(found["verdict"])]


def _table(shown: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name:{width}}  {text}" for name, text in shown)


if __name__ == "__main__":
    sys.exit(main())
