"""A bundle goes where the figures of its run went: to MLflow, as a model."""

import os
import threading
from pathlib import Path
from typing import Any

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.runtimes.mlflow_model import log_model
from protoseg_deploy.training.trackers.mlflow_store import MlflowTracker, known_run, open_client, tracking_uri

_SECONDS = 600.0


def log_bundle(run: Path, bundle: Bundle, seconds: float = _SECONDS) -> str | None:
    """Log a bundle as a model into the MLflow run of the run folder it was exported from.

    Args:
        run: a run folder, or a network file in one.
        bundle: as exported.
        seconds: after which it is given up.

    Returns:
        The model's URI, such as ``models:/m-…``; None where the run was not tracked by MLflow.

    Raises:
        ProtosegError: the store cannot be reached, takes too long or does not know the run; the bundle is as it was.
    """
    folder = RunFolder.around(run)
    if not (folder.mlflow_folder / "run.json").is_file():
        return None
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (folder.mlflow_folder / "mlflow.db").is_file():
        raise _elsewhere(bundle)
    done: list[str] = []
    failed: list[str] = []
    refused: list[ProtosegError] = []

    def work() -> None:
        try:
            done.append(_log(folder, bundle))
        except ProtosegError as error:
            refused.append(error)
        except Exception as error:
            lines = str(error).strip().splitlines()
            failed.append(lines[0] if lines else type(error).__name__)

    thread = threading.Thread(target=work, name="bundle to MLflow", daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    if refused:
        raise refused[0]
    why = failed[0] if failed else f"no answer within {seconds:g} s"
    raise ProtosegError(f"{bundle.folder} could not be logged to MLflow: {why}", "The bundle itself is complete.")


def _elsewhere(bundle: Bundle) -> ProtosegError:
    return ProtosegError(
        f"{bundle.folder} is not logged to MLflow: its run is not in this store",
        "Set MLFLOW_TRACKING_URI as it was in training; the bundle itself is complete.",
    )


def _log(run: RunFolder, bundle: Bundle) -> str:
    MlflowTracker.require("mlflow")
    import mlflow

    run_id = known_run(run, open_client(run))
    if run_id is None:
        raise _elsewhere(bundle)
    before, active = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_RUN_ID")
    mlflow.set_tracking_uri(tracking_uri(run))
    try:
        ended = mlflow.get_run(run_id).info.status
        with mlflow.start_run(run_id=run_id):
            info: Any = log_model(bundle)
        mlflow.MlflowClient().set_terminated(run_id, ended)  # leaving the block has called it finished
    finally:
        mlflow.set_tracking_uri(before)
        if active is not None:
            os.environ["MLFLOW_RUN_ID"] = active
    return str(info.model_uri)
