"""The same shards as tasks of Ray, where that is installed."""

import importlib.util
import sys
from pathlib import Path

import pytest

from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.shards.predicting import Workforce
from tests.evaluation.shards import in_workers
from tests.evaluation.shards.conftest import Predict, everything

has_ray = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(not has_ray, reason="Ray is not installed")
def test_ray_leaves_the_same_files_and_finds_poison(predict: Predict, images: Path, tmp_path: Path) -> None:
    (images / "1/0011.png").write_bytes(b"no image")
    workforce = Workforce(engine="ray", workers=1, setup=in_workers.crash_at_two)
    result = predict(images, tmp_path / "out", shards=2, workforce=workforce)
    assert (result.images, result.failed) == (10, 2)
    assert ["worker processes die at it" in reason for reason in result.failures] == [True, False]
    (images / "0/0004.png").write_bytes(b"no image either")
    predict(images, tmp_path / "whole", shards=2)
    ours, theirs = everything(tmp_path / "whole"), everything(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if ours[name] != theirs[name]]
    assert differing == ["results/shard-00000.parquet"], "the one with the poisonous image"


def test_ray_that_is_missing_is_named(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        predict(images, tmp_path / "out", workforce=Workforce(engine="ray"))
    assert caught.value.hint == "pip install 'protoseg-deploy[ray]'"
