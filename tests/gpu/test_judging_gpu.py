"""What evaluation and benchmarking do differently on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.data import Sample
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.models import NetworkSpec, Segmenter, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Data, Model, Train
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.training.validation import validate
from tests.conftest import draw_scene

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_counts_on_the_gpu_equal_counts_on_the_cpu_and_do_not_wait() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 11, (2, 360, 480), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
    prediction = torch.randint(0, 11, truth.shape, generator=generator)
    on_cpu, on_gpu = ConfusionMatrix(11), ConfusionMatrix(11)
    maps = prediction.cuda(), truth.cuda()
    on_gpu.update(*maps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu.update(*maps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(2):
        on_cpu.update(prediction, truth)
    np.testing.assert_array_equal(on_gpu.counts(), on_cpu.counts())


@pytest.mark.parametrize("spec", [Train(eval_batch=2), Train(eval_window=32, eval_stride=20, eval_batch=3)])
def test_validation_on_the_gpu_waits_for_nothing_before_its_end(tmp_path: Path, spec: Train) -> None:
    samples = []
    for number in range(3):
        image, mask = draw_scene(number)
        samples.append(Sample(tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"))
        Image.fromarray(image).save(samples[-1].image)
        Image.fromarray(mask).save(samples[-1].mask)
    data = Data(classes=["ground", "red", "blue"])
    torch.manual_seed(0)
    network = Segmenter(Model(backbone="resnet10t", weights="none", decoder="fpn", decoder_channels=8), 3)
    torch.nn.init.normal_(network.head.weight, std=3.0)
    on_cpu = validate({"student": network}, samples, data, spec)["student"].counts()
    networks = {"student": network.to("cuda", memory_format=torch.channels_last)}
    validate(networks, samples, data, spec)
    torch.cuda.set_sync_debug_mode("error")
    try:
        matrix = validate(networks, samples, data, spec)["student"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert matrix.counts().sum() == on_cpu.sum()
    assert abs(matrix.counts() - on_cpu).sum() <= 0.01 * on_cpu.sum()


def test_latency_on_the_gpu_reports_its_memory(tmp_path: Path) -> None:
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16),
        ClassTable(("a", "b"), ((0, 0, 0), (255, 0, 0))),
    )
    save_network(tmp_path / "best.safetensors", build_segmenter(spec).state_dict(), spec)
    (report,) = measure_interleaved([open_runtime(tmp_path, device="cuda")], size=(128, 160), runs=10)
    assert report.machine.gpu == torch.cuda.get_device_name()
    assert report.gpu_peak_memory_mib is not None
    assert report.gpu_peak_memory_mib * 2**20 > 4 * report.info.parameters
    assert report.gpu_memory_used_mib is not None
    assert report.gpu_memory_used_mib * 2**20 > 4 * report.info.parameters
