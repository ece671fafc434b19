"""A network that has become NaN is neither evaluated nor saved; what was saved before stays and can be gone on from."""

import pytest
import torch

from protoseg_deploy.methods import build_method
from protoseg_deploy.models import load_network
from protoseg_deploy.models.tensor_checks import NotFiniteError, first_fault
from protoseg_deploy.training import Run, Trainer, train


def break_after(monkeypatch, step, network, key, value):
    """Put one number into the student or the teacher once `step` steps are done."""
    whole = Trainer.train_step

    def train_step(self, batch):
        outcome = whole(self, batch)
        if self.step + 1 == step:
            tensors = (self.student if network == "student" else self.ema.network).state_dict()
            next(tensor for name, tensor in tensors.items() if name.endswith(key)).view(-1)[0] = value
        return outcome

    monkeypatch.setattr(Trainer, "train_step", train_step)


@pytest.mark.parametrize(
    ("network", "key", "value"),
    [
        ("student", "head.bias", float("nan")),
        ("teacher", "running_mean", float("inf")),
        ("teacher", "running_var", float("nan")),
    ],
)
def test_the_last_finite_network_and_checkpoint_are_kept(tiny_recipe, tmp_path, monkeypatch, network, key, value):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        break_after(patch, 5, network, key, value)
        with pytest.raises(NotFiniteError) as caught:
            train(tiny_recipe, folder, build_method, quiet=True)
    assert f"{network}." in caught.value.message
    assert key in caught.value.message
    assert "of step 4 is kept" in caught.value.message
    run = Run(folder)
    for file in (run.best, run.last):
        kept, spec = load_network(file)
        assert spec.provenance["step"] == 4
        assert first_fault(kept.state_dict()) is None
    state, damaged = run.checkpoints.load_newest()
    assert not damaged
    assert state["step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["student"].values() if torch.is_floating_point(tensor))
    assert train(tiny_recipe, folder, build_method, resume=True, quiet=True)["steps"] == 8


def test_a_network_that_was_never_finite_leaves_no_network(tiny_recipe, tmp_path, monkeypatch):
    break_after(monkeypatch, 1, "student", "head.bias", float("nan"))
    with pytest.raises(NotFiniteError, match="no network was saved before"):
        train(tiny_recipe, tmp_path / "run", build_method, quiet=True)
    assert not list((tmp_path / "run").glob("*.safetensors"))
