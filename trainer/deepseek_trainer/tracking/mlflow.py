"""A run of MLflow, on a server or in files; one for all starts of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from deepseek_trainer.tracking.memo import Memo
from deepseek_trainer.tracking.record import Place, Record

AT_ONCE = 1000
"""Metrics in a request: MLflow's limit."""
PARAMS_AT_ONCE = 100
"""The same of parameters."""


class MLflow:
    """The run, by its client."""

    def __init__(self, place: Place, after: int | None) -> None:
        uri = place.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = f"file:{place.directory / 'mlflow'}"
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        self._memo = Memo.of(place, "mlflow", after)
        if self._memo.run is None:
            known = self._client.get_experiment_by_name(place.project)
            experiment = known.experiment_id if known is not None else self._client.create_experiment(place.project)
            tags = {"deepseekjob.uid": place.uid} if place.uid else {}
            self._memo.run = self._client.create_run(experiment, run_name=place.job, tags=tags).info.run_id
            self._memo.keep(self._memo.told)
            self._client.log_dict(self._memo.run, place.config, "run-config.json")
            self._log_params(self._memo.run, place.config)
        self._run = self._memo.run
        self._client.update_run(self._run, status="RUNNING")

    def _log_params(self, run: str, config: dict[str, Any]) -> None:
        """What runs are compared by: each field of the config."""
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in flat(config)]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(run, params=params[first : first + PARAMS_AT_ONCE])

    def write(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        new = self._memo.new(records)
        metrics = [
            Metric(name, value, int(one.time_s * 1000), one.step) for one in new for name, value in one.values.items()
        ]
        for first in range(0, len(metrics), AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[first : first + AT_ONCE])
        for one in new:
            for name, text in one.texts.items():
                self._client.log_text(self._run, text, f"{name}/step-{one.step:08d}.txt")
        if new:
            self._memo.keep(new[-1].step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The fields below all sections, as trainer.training.steps; a list is one value."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", str(value)
