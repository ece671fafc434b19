"""What TensorRT is asked for when it builds, on a stand-in for its module: the real one needs a GPU to build."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting.engines.building import build_engine
from protoseg_deploy.exporting.engines.options import EngineOptions, engine_name
from protoseg_deploy.runtimes.tensorrt import Profile
from tests.exporting.families import FAMILIES, exported

FAMILY = next(family for family in FAMILIES if family.backbone == "resnet10t")
PROFILE = Profile(min=(1, 64, 64), opt=(1, 96, 96), max=(2, 128, 128))


class FakeLayer:
    name, num_outputs = "conv", 1
    type = SimpleNamespace(name="CONVOLUTION")

    def get_input(self, _number: int) -> None:
        return None

    def get_output(self, _number: int) -> Any:
        return SimpleNamespace(name="features", dtype=SimpleNamespace(name="HALF"))


class FakeTensorRT(SimpleNamespace):
    """As much of TensorRT 10 as a build uses; notes what it is asked for, and builds engines of the type `computes`."""

    __name__ = "tensorrt"
    __version__ = "10.13.3.9"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    BuilderFlag = SimpleNamespace(VERSION_COMPATIBLE="version compatible")
    HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere and later")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    class ILogger:
        ERROR, INTERNAL_ERROR = range(2)

    def __init__(self, computes: str = "Half", known_cache: bytes = b"") -> None:
        super().__init__(computes=computes, known_cache=known_cache, asked={}, flags=set())

    def Builder(self, _log: Any) -> Any:
        images = SimpleNamespace(name="images")
        network = SimpleNamespace(num_layers=1, get_layer=lambda _: FakeLayer(), get_input=lambda _: images)
        return SimpleNamespace(
            create_network=lambda flags: self.asked.update(network_flags=flags) or network,
            create_builder_config=lambda: self._config,
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda name, *shapes: self.asked.update(profile=(name, shapes))
            ),
            build_serialized_network=lambda _network, _config: b"a plan",
        )

    @property
    def _config(self) -> Any:
        config = SimpleNamespace(
            set_memory_pool_limit=lambda pool, limit: self.asked.update({pool: limit}),
            set_flag=self.flags.add,
            add_optimization_profile=lambda _profile: None,
            create_timing_cache=lambda content: SimpleNamespace(content=content),
            set_timing_cache=self._set_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: self.asked["cache"] + b"+"),
        )
        self.asked["config"] = config
        return config

    def _set_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        fits = cache.content in (b"", self.known_cache)
        if fits:
            self.asked["cache"] = cache.content
        return fits

    def OnnxParser(self, _network: Any, _log: Any) -> Any:
        return SimpleNamespace(parse_from_file=lambda _path: True)

    def Runtime(self, _log: Any) -> Any:
        kernel = {"Name": "conv", "LayerType": "conv", "Inputs": [{"Format/Datatype": self.computes}]}
        text = json.dumps({"Layers": [kernel]})
        inspector = SimpleNamespace(get_engine_information=lambda _format: text)
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
        self.asked["runtime"] = SimpleNamespace(deserialize_cuda_engine=lambda _plan: engine)
        return self.asked["runtime"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    exported(FAMILY, "fp16")  # made once, and before PyTorch believes in the GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    return monkeypatch


def build(gpu: pytest.MonkeyPatch, folder: Path, library: FakeTensorRT, **changes: Any) -> Any:
    gpu.setitem(sys.modules, "tensorrt", library)
    options = EngineOptions("tensorrt", profile=PROFILE, **changes)
    return build_engine(exported(FAMILY, "fp16"), folder / f"{engine_name('fp16', options)}.engine", options)


def test_what_tensorrt_is_asked_for(tmp_path: Path, gpu: pytest.MonkeyPatch) -> None:
    library = FakeTensorRT()
    made = build(gpu, tmp_path, library, workspace_bytes=2**30, version_compatible=True, hardware_compatible=True)
    assert library.asked["network_flags"] == 1 << 1
    assert library.asked["profile"] == ("images", ((1, 64, 64, 3), (1, 96, 96, 3), (2, 128, 128, 3)))
    assert library.asked["workspace"] == 2**30
    assert library.flags == {"version compatible"}
    assert library.asked["config"].hardware_compatibility_level == "ampere and later"
    assert library.asked["config"].profiling_verbosity == "detailed"
    assert library.asked["runtime"].engine_host_code_allowed
    assert (made.targets, made.gpu, made.library_version) == (("8.6",), "Some GPU", "10.13.3.9")
    assert (made.layers.evidence, made.layers.heavy) == ("engine", {"fp16": 1})
    assert (tmp_path / "fp16-sm86.engine").read_bytes() == b"a plan"


def test_an_engine_that_computes_in_fp32_is_not_kept(tmp_path: Path, gpu: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtosegError, match=r"asked for fp16, but .* compute in 1 fp32") as caught:
        build(gpu, tmp_path, FakeTensorRT(computes="Float"))
    assert "no kernels of that precision" in caught.value.hint
    assert not list(tmp_path.glob("*.engine"))


def test_the_timing_cache_is_read_and_written(tmp_path: Path, gpu: pytest.MonkeyPatch) -> None:
    build(gpu, tmp_path, FakeTensorRT())
    (cache,) = tmp_path.glob("timing-*.cache")
    assert cache.name == "timing-sm86-10.13.3.9.cache"
    assert cache.read_bytes() == b"+"
    build(gpu, tmp_path, FakeTensorRT(known_cache=b"+"))
    assert cache.read_bytes() == b"++"
    build(gpu, tmp_path, FakeTensorRT(known_cache=b"of another driver"))
    assert cache.read_bytes() == b"+"


def test_turing_cannot_build_for_later_gpus(tmp_path: Path, gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(UsageError, match=r"--hardware-compatible needs a GPU of compute capability 8\.0"):
        build(gpu, tmp_path, FakeTensorRT(), hardware_compatible=True)


def test_an_old_library_is_refused(tmp_path: Path, gpu: pytest.MonkeyPatch) -> None:
    old = FakeTensorRT()
    old.__version__ = "8.6.1"
    with pytest.raises(UsageError, match=r"TensorRT 8\.6\.1 is too old: 10 or newer is needed"):
        build(gpu, tmp_path, old)
