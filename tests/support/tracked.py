"""Three starts of a run as its tracker sees them: the first is killed, the others go on from an earlier step and end.

usage: python -m support.tracked KIND FOLDER       KIND: MLflow or WandB, whose package is on the path
Prints the runs as MLflow reads them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from deepseek_trainer.tracking import kinds
from deepseek_trainer.tracking.record import Place, Record

PROJECT, JOB, UID = "projects", "tracked", "u-1"
CONFIG = {"job": JOB, "trainer": {"training": {"steps": 6}, "logging": {"kinds": ["MLflow", "WandB"]}}}


def trained(step: int) -> Record:
    return Record(step, 1000.0 + step, {"train/loss": 8.0 / step})


def evaluated(step: int) -> Record:
    return Record(step, 1000.5 + step, {"eval/loss": 9.0 / step}, {"samples": f"Grüß Gott {step}"})


STARTS = (
    (None, [[trained(1), trained(2)], [evaluated(2)], [trained(3)]]),
    (2, [[trained(3), trained(4)], [evaluated(4), trained(5)]]),
    (4, [[trained(5), trained(6)]]),
)
"""The step of the checkpoint that each goes on from, and the records that are written together."""


def start(kind: str, folder: Path, after: int | None, told: list[list[Record]], *, killed: bool) -> None:
    """In a process of its own, which has ended then."""
    child = os.fork()
    if child == 0:
        sink = kinds.opener(kind)(Place(folder, JOB, UID, PROJECT, None, True, CONFIG), after)
        for records in told:
            sink.write(records)
        if not killed:
            sink.close()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        sys.exit(status)


def read_mlflow(folder: Path) -> list[dict[str, Any]]:
    """All runs there, by MLflow's own client."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # the sink did so for itself
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"file:{folder / 'mlflow'}")
    experiment = client.get_experiment_by_name(PROJECT)
    return [
        {
            "name": run.info.run_name,
            "status": run.info.status,
            "params": run.data.params,
            "tags": run.data.tags,
            "metrics": {
                name: [(one.step, one.value, one.timestamp) for one in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            "files": {
                file.path: Path(client.download_artifacts(run.info.run_id, file.path)).read_text()
                for folder in (None, "samples")
                for file in client.list_artifacts(run.info.run_id, folder)
                if not file.is_dir
            },
        }
        for run in client.search_runs([experiment.experiment_id])
    ]


def main(kind: str, folder: Path) -> None:
    importlib.import_module(str(kinds.KINDS[kind].package))  # once for all of them
    for number, (after, told) in enumerate(STARTS):
        start(kind, folder, after, told, killed=number == 0)
    if kind == "MLflow":
        print(json.dumps(read_mlflow(folder)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
