"""What evaluation and benchmarking do differently on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.models.saved import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Model
from protoseg_deploy.runtimes.opening import open_runtime

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
