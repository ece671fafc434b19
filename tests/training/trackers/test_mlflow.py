"""MLflow in a local store: parameters, metrics with their steps, resuming, and the bundle as a model."""

import json
import math
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.cli import cli
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.runtimes import open_runtime
from protoseg_deploy.runtimes.mlflow_model import BundleModel
from protoseg_deploy.training import Run, train
from protoseg_deploy.training.trackers import Outcome, RunFacts, bundles, run_facts
from protoseg_deploy.training.trackers.bundles import log_bundle
from protoseg_deploy.training.trackers.mlflow_store import MlflowTracker, metric_name, open_client
from tests.conftest import draw_scene, with_values
from tests.training.crashing import STEPS, before_step, crash_at, run_segment, train_segment

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A store with its tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    open_client(RunFolder(folder)).search_experiments()
    return folder / "mlflow" / "mlflow.db"


@pytest.fixture
def folder(store, tmp_path):
    """A run folder with an empty store."""
    (tmp_path / "run/mlflow").mkdir(parents=True)
    shutil.copy(store, tmp_path / "run/mlflow/mlflow.db")
    return tmp_path / "run"


def tracked(folder, run_id=None):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db")
    run_id = run_id or json.loads((folder / "mlflow/run.json").read_text())["run_id"]
    return client, client.get_run(run_id)


def histories(client, run):
    return {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def test_a_run_that_is_killed_and_resumed_is_one_run_of_mlflow(recipe, tmp_path):
    """All of it through `train`, the store made by it."""
    followed = with_values(recipe, train={"trackers": ["mlflow"]})
    run_segment(tmp_path, train_segment, followed, tmp_path / "run", False, crash=crash_at(before_step, 8))
    client, run = tracked(tmp_path / "run")
    assert run.info.status == "RUNNING"
    assert max(step for step, _ in histories(client, run)["train/labeled"]) >= 6
    run_segment(tmp_path, train_segment, followed, tmp_path / "run", True)
    client, again = tracked(tmp_path / "run")
    assert again.info.run_id == run.info.run_id
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert (again.info.status, again.info.run_name) == ("FINISHED", "run")
    assert again.data.params["train.steps"] == str(STEPS)
    assert again.data.params["method.prototypes.per_class"] == "2"
    assert again.data.tags["protoseg.method"] == "prototype"
    logged = {
        (f"train/{name}", record["step"]): value
        for record in Run(tmp_path / "run").metrics()
        if record["kind"] == "train"
        for name, value in record.items()
        if isinstance(value, float) and name != "images_per_second"
    }
    found = histories(client, again)
    for (name, step), value in logged.items():
        assert [there for at, there in found[name] if at == step] == [value], (name, step)
    assert [step for step, _ in found["miou_percent/student"]] == [5, 10, 12]
    summary = Run(tmp_path / "run").summary()
    assert float(again.data.tags["protoseg.best_miou_percent"]) == pytest.approx(summary["best_miou_percent"], rel=1e-5)
    names = {artefact.path for artefact in client.list_artifacts(run.info.run_id)}
    assert names == {"recipe.yaml", "labeled.txt"}


def facts_of(folder, first_step=0, **parameters):
    return RunFacts(RunFolder(folder), "mine", first_step, parameters, {"protoseg": "1", "method": "fixmatch"})


def test_figures_of_any_name_and_value(folder):
    tracker = MlflowTracker()
    tracker.start(facts_of(folder, **{f"key.{number}": number for number in range(250)}, long="x" * 9000, empty=""))
    tracker.scalars({"a/ü (1), 50%/..": 1.5, "b": math.nan, "c": math.inf}, 1)
    tracker.scalars({f"many/{number}": number for number in range(2500)}, 2)
    tracker.finish(Outcome("stopped", {"best_miou_percent": math.nan}))
    _, run = tracked(folder)
    assert run.info.status == "KILLED"
    assert len(run.data.params) == 251
    assert len(run.data.params["long"]) == 5000
    assert run.data.metrics["a/ü _1__ 50_/_"] == 1.5
    assert math.isnan(run.data.metrics["b"])
    assert len(run.data.metrics) == 2503
    assert "protoseg.best_miou_percent" not in run.data.tags


def test_names():
    assert metric_name("train/loss") == "train/loss"
    assert metric_name("prototypes/use/road") == "prototypes/use/road"
    assert metric_name("../x//y/ . ") == "_/x/_/y/_"


def test_what_a_resumed_run_logs_again_is_logged_once(folder):
    first = MlflowTracker()
    first.start(facts_of(folder, lr=0.1))
    for step in range(1, 9):
        first.scalars({"loss": float(step)}, step)
    second = MlflowTracker()  # resumes from a checkpoint after step 6
    second.start(facts_of(folder, 6, lr=0.2))
    for step in range(7, 11):
        second.scalars({"loss": float(step), "other": 0.0}, step)
    second.finish(Outcome("finished", {}))
    client, run = tracked(folder)
    assert second.run_id == first.run_id
    assert histories(client, run)["loss"] == [(step, float(step)) for step in range(1, 11)]
    assert [step for step, _ in histories(client, run)["other"]] == [7, 8, 9, 10]
    assert run.data.params["lr"] == "0.1"


@pytest.mark.parametrize("content", [b"", b"{}", b'{"run_id": "0123456789abcdef0123456789abcdef"}'])
def test_a_run_that_the_store_does_not_know_is_begun_again(folder, content):
    (folder / "mlflow/run.json").write_bytes(content)
    tracker = MlflowTracker()
    tracker.start(facts_of(folder, 5))
    _, run = tracked(folder)
    assert run.info.run_id == tracker.run_id


def test_the_store_of_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cracks")
    tracker = MlflowTracker()
    tracker.start(facts_of(tmp_path / "other"))
    client, run = tracked(folder, tracker.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "cracks"
    assert not (tmp_path / "other/mlflow/mlflow.db").exists()
    secret = "https://user:s3cret@host"
    assert secret not in (tmp_path / "other/mlflow/run.json").read_text()


def test_a_store_of_plain_files(recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "files").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    train(with_values(recipe, train={"trackers": ["mlflow"]}), tmp_path / "run", build_method)
    assert "switched off" not in capfd.readouterr().err
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "files").as_uri())
    run = client.get_run(json.loads((tmp_path / "run/mlflow/run.json").read_text())["run_id"])
    assert run.data.params["train.steps"] == str(STEPS)
    assert [step for step, _ in histories(client, run)["train/labeled"]] == [*range(1, STEPS + 1)]
    names = {artefact.path for artefact in client.list_artifacts(run.info.run_id)}
    assert names == {"recipe.yaml", "labeled.txt"}


def test_a_store_that_cannot_be_reached_stops_nothing(recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(with_values(recipe, train={"trackers": ["mlflow"]}), tmp_path / "run", build_method)
    assert Run(tmp_path / "run").summary()["steps"] == STEPS
    assert capfd.readouterr().err.count("mlflow is switched off") == 1


def test_the_bundle_is_a_model_that_mlflow_runs(tiny_recipe, scenes, tmp_path):
    learning = {"steps": 60, "lr": 0.01, "eval_every": 60, "checkpoint_every": 60}
    recipe = with_values(
        tiny_recipe,
        model={"backbone": "test_resnet"},
        method={"name": "supervised"},
        train={"trackers": ["mlflow"], **learning},
    )
    folder = tmp_path / "run"
    train(recipe, folder, build_method, quiet=True)
    export = ["export", str(folder), "--bundle", str(tmp_path / "bundle"), "--images", str(scenes / "val/images")]
    result = CliRunner().invoke(cli, [*export, "--json"])
    assert result.exit_code == 0, result.output
    uri = json.loads(result.stdout)["mlflow_model"]
    client, run = tracked(folder)
    assert run.info.status == "FINISHED"
    (logged,) = client.search_logged_models([run.info.experiment_id])
    assert logged.source_run_id == run.info.run_id
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow/mlflow.db")
    try:
        model = mlflow.pyfunc.load_model(uri)
        images = np.stack([draw_scene(seed)[0] for seed in (1, 2)])
        expected = open_runtime(tmp_path / "bundle").predict(images)
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(model.predict(images), expected)
        assert model.metadata.signature.inputs.inputs[0].shape == (-1, -1, -1, 3)
        with pytest.raises(mlflow.exceptions.MlflowException, match="float32 does not match expected dtype uint8"):
            model.predict(images.astype(np.float32))
    finally:
        mlflow.set_tracking_uri(None)


def test_inputs_that_are_no_images(tmp_path):
    class Runtime:
        def predict(self, images):
            return images[..., 0]

    model = BundleModel(Runtime())
    assert model.predict([[[[1, 2, 3]]]]).tolist() == [[[1]]]
    with pytest.raises(UsageError, match="no parameters; got beam"):
        model.predict(np.zeros((1, 1, 1, 3), np.uint8), {"beam": 3})


def test_bundles_of_runs_that_are_not_tracked_stay_where_they_are(tmp_path):
    (tmp_path / "run").mkdir()
    assert log_bundle(tmp_path / "run", Bundle(tmp_path / "bundle", None)) is None
    assert not list((tmp_path / "run").iterdir())


def test_a_store_that_fails_or_hangs_leaves_the_bundle_as_it_is(folder, tmp_path, monkeypatch, release):
    (folder / "mlflow/run.json").write_text('{"run_id": "0123456789abcdef0123456789abcdef"}')
    bundle = Bundle(tmp_path / "bundle", None)
    with pytest.raises(ProtosegError, match="its run is not in this store") as error:
        log_bundle(folder, bundle)
    assert "MLFLOW_TRACKING_URI" in error.value.hint
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(ProtosegError, match="could not be logged to MLflow"):
        log_bundle(folder, bundle)
    monkeypatch.setattr(bundles, "open_client", lambda run: release.wait(60))
    with pytest.raises(ProtosegError, match=r"no answer within 0\.1 s"):
        log_bundle(folder, bundle, seconds=0.1)


def test_a_run_whose_store_is_elsewhere_makes_none(tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/run.json").write_text('{"run_id": "x"}')
    with pytest.raises(ProtosegError, match="its run is not in this store"):
        log_bundle(tmp_path, Bundle(tmp_path / "bundle", None))
    assert [path.name for path in (tmp_path / "mlflow").iterdir()] == ["run.json"]


def test_facts_of_a_recipe(recipe, tmp_path):
    facts = run_facts(RunFolder(tmp_path / "mine"), recipe, 3)
    assert (facts.name, facts.first_step, facts.tags["decoder"]) == ("mine", 3, "lraspp")
    assert "MLFLOW_DISABLE_TELEMETRY" in os.environ, "nothing is reported"
