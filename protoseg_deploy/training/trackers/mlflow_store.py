"""MLflow: a run in a store below the run folder, or wherever ``MLFLOW_TRACKING_URI`` says."""

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from pydantic import BaseModel

from protoseg_deploy.documents import dump_document, read_document
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.training.trackers.base import Outcome, RunFacts, Tracker

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LONGEST_VALUE = 5000
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000
"""In one request."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""MLflow itself waits for minutes for a server that is gone."""


class MlflowIdentity(BaseModel):
    """``mlflow/run.json`` of a run folder: which run of MLflow it is."""

    run_id: str


class MlflowTracker(Tracker):
    """Parameters, metrics with their steps, tags, and small files as artefacts."""

    libraries: ClassVar = ("mlflow", "sqlalchemy", "alembic")
    extra: ClassVar = "mlflow"

    def start(self, facts: RunFacts) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._client = open_client(facts.run)
        known = known_run(facts.run, self._client)
        self.run_id = known or self._begin(facts)
        self._last: dict[str, int] = {}
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            for name in self._client.get_run(known).data.metrics:
                self._last[name] = max(metric.step for metric in self._client.get_metric_history(known, name))

    def _begin(self, facts: RunFacts) -> str:
        from mlflow.entities import Param

        tags = {f"protoseg.{name}" if name != "protoseg" else name: value for name, value in facts.tags.items()}
        run_id: str = self._client.create_run(
            _experiment(self._client, facts.run), tags=tags, run_name=facts.name
        ).info.run_id
        values = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in facts.parameters.items() if str(value)]
        for first in range(0, len(values), _MOST_PARAMETERS):
            self._client.log_batch(run_id, params=values[first : first + _MOST_PARAMETERS])
        write_atomically(_identity_path(facts.run), dump_document(MlflowIdentity(run_id=run_id).model_dump()))
        return run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Figures that were logged before a crash are the same now, and are not logged twice."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        fitting = {metric_name(name): value for name, value in values.items()}
        new = [Metric(name, value, now, step) for name, value in fitting.items() if step > self._last.get(name, -1)]
        for first in range(0, len(new), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=new[first : first + _MOST_METRICS])

    def finish(self, outcome: Outcome) -> None:
        for name, value in outcome.summary.items():
            if math.isfinite(value):
                self._client.set_tag(self.run_id, f"protoseg.{name}", f"{value:g}")
        for path in outcome.artefacts:
            self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id, _STATUS[outcome.status])


def tracking_uri(run: RunFolder) -> str:
    """The store of a run: as ``MLFLOW_TRACKING_URI`` says, else an SQLite file below its folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.mlflow_folder.absolute() / 'mlflow.db'}"


def open_client(run: RunFolder) -> Any:
    """A client for the store of a run, which is made where there is none."""
    import mlflow

    for name in ("mlflow", "alembic"):  # a new store is announced in twenty lines
        logging.getLogger(name).setLevel(logging.WARNING)
    run.mlflow_folder.mkdir(parents=True, exist_ok=True)
    uri = tracking_uri(run)
    if uri.startswith("file:") or "://" not in uri:  # asked for by name; MLflow otherwise refuses stores of plain files
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=uri)


def known_run(run: RunFolder, client: Any) -> str | None:
    """The identifier of what was begun for a run folder; None where the store does not know it."""
    from mlflow.exceptions import MlflowException

    try:
        identity = read_document(_identity_path(run), MlflowIdentity, "")
        client.get_run(identity.run_id)
    except (FileNotFoundError, ProtosegError):
        return None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return identity.run_id


def _identity_path(run: RunFolder) -> Any:
    return run.mlflow_folder / "run.json"


def _experiment(client: Any, run: RunFolder) -> str:
    """The experiment's identifier: ``MLFLOW_EXPERIMENT_NAME``, else ``protoseg``."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "protoseg"
    place = None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        place = (run.mlflow_folder.absolute() / "artifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        with suppress(MlflowException):  # another run has just made it
            return str(client.create_experiment(name, artifact_location=place))
        found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def metric_name(name: str) -> str:
    """A name that MLflow takes: classes may have any."""
    parts = [re.sub(r"[^\w\-. :]", "_", part) for part in name.split("/")]
    return "/".join("_" if not part.strip(" .") else part for part in parts)[:250]
