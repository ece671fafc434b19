"""A bundle reads no file but its own, compares each with its checksum, and inherits no verdict about another."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from protoseg_deploy.bundles import Bundle, GraphMetadata
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.bundles.digests import file_sha256, joint_digest
from protoseg_deploy.bundles.manifest import Manifest
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes import open_runtime


@pytest.fixture
def bundle(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil, with fp32, fp16 and bf16."""
    return shutil.copytree(folder / "bundle", tmp_path / "bundle")


def edit(bundle: Path, change: Any) -> None:
    """Change the tree of a manifest in place."""
    tree = json.loads((bundle / "manifest.json").read_text())
    change(tree)
    (bundle / "manifest.json").write_text(json.dumps(tree))


ESCAPES = [
    "../outside/model.onnx", "/etc/model.onnx", "a/../../model.onnx", "./model.onnx", "a//model.onnx", "", ".", "..",
    "..\\outside\\model.onnx", "C:\\model.onnx", "C:model.onnx", "\\\\host\\share\\model.onnx", "model.onnx:stream",
    ".. /model.onnx", "model.onnx.", "model\0.onnx", "model\n.onnx", "a/", "/",
]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_lead_out_of_the_bundle_are_refused(bundle: Path, name: str) -> None:
    """Wherever a manifest names a file, and with a checksum that would be right."""
    (bundle.parent / "outside").mkdir()
    shutil.copy(bundle / "model.onnx", bundle.parent / "outside")
    entry = file_entry(bundle / "model.onnx").model_dump()
    engine = {"sidecar": "engines/a.json", "precision": "fp32", "graph": "model.onnx", "engine": "tensorrt"}

    def graph(tree: dict[str, Any]) -> None:
        tree["graphs"]["fp32"] |= {"file": name, "files": [name]}
        tree["files"][name] = entry

    def weights(tree: dict[str, Any]) -> None:
        tree["graphs"]["fp32"]["files"].append(name)
        tree["files"][name] = entry

    def listed(tree: dict[str, Any]) -> None:
        tree["files"][name] = entry

    def built(tree: dict[str, Any]) -> None:
        tree["engines"]["a"] = {**engine, "file": name}
        tree["files"] |= {name: entry, "engines/a.json": entry}

    original = (bundle / "manifest.json").read_bytes()
    for change in (graph, weights, listed, built):
        edit(bundle, change)
        for path in (bundle, bundle / "model.onnx"):
            with pytest.raises(ProtosegError, match=r"manifest\.json is damaged .*is not a path of a file inside"):
                open_runtime(path)
        (bundle / "manifest.json").write_bytes(original)


def test_links_out_of_the_bundle_are_refused(bundle: Path) -> None:
    inside, outside = bundle / "model.onnx", bundle.parent / "elsewhere.onnx"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(ProtosegError, match="is a link to a file outside the bundle"):
        open_runtime(bundle)
    inside.unlink()
    (bundle / "kept").mkdir()
    outside.rename(bundle / "kept" / "a.onnx")
    inside.symlink_to(Path("kept") / "a.onnx")
    assert open_runtime(bundle).info.precision == "fp32"
    # the bundle itself may be reached by a link
    (bundle.parent / "link").symlink_to(bundle)
    assert open_runtime(bundle.parent / "link").info.precision == "fp32"


def test_no_checksum_can_be_left_out(bundle: Path) -> None:
    original = (bundle / "manifest.json").read_bytes()
    for change, words in (
        (lambda tree: tree["graphs"]["fp32"].update(files=[]), r"graphs\.fp32\.files does not hold model\.onnx"),
        (lambda tree: tree["files"].pop("model.onnx"), r"files holds no checksum of model\.onnx"),
        (lambda tree: tree["files"]["model.onnx"].update(sha256="0"), r"files\.model\.onnx\.sha256"),
        (lambda tree: tree["files"]["model.onnx"].update(bytes=-1), r"files\.model\.onnx\.bytes"),
        (lambda tree: tree["graphs"].pop("fp32"), "has no fp32 graph"),
    ):
        edit(bundle, change)
        with pytest.raises(ProtosegError, match=words):
            open_runtime(bundle)
        (bundle / "manifest.json").write_bytes(original)


def test_a_file_that_no_manifest_names_is_unverified(bundle: Path) -> None:
    """Though it lies in a verified bundle, and is a copy of a verified graph."""
    manifest = Bundle.open(bundle).manifest
    Bundle.create(bundle, manifest.model_copy(update={"verification": passed(manifest)}))
    assert open_runtime(bundle / "model.onnx").info.verified is True
    shutil.copy(bundle / "model.onnx", bundle / "other.onnx")
    assert open_runtime(bundle / "other.onnx").info.verified is None


def test_a_damaged_manifest_beside_a_graph_is_an_error(bundle: Path) -> None:
    """It is a bundle's, so that the graph is not one that belongs to none."""
    edit(bundle, lambda tree: tree.update(network=3))
    with pytest.raises(ProtosegError, match=r"manifest\.json is damaged or of another version: network"):
        open_runtime(bundle / "model.onnx")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp16"}, "precision fp16 instead of fp32"),
        ({"ignore_index": 9}, "ignore index 9 instead of 254"),
        ({"input_scale": 0.5}, "input scale 0.5 instead of 1.0"),
        ({"mean": (1.0, 2.0, 3.0)}, "mean"),
        ({"std": (1.0, 2.0, 3.0)}, "std"),
    ],
)
def test_a_graph_that_is_not_the_one_described_is_refused(bundle: Path, change: dict[str, Any], words: str) -> None:
    """Its checksum is right; what it says of itself is not what the manifest says."""
    model = onnx.load(bundle / "model.onnx")
    metadata = GraphMetadata.from_properties({p.key: p.value for p in model.metadata_props}, "graph")
    onnx.helper.set_model_props(model, metadata.model_copy(update=change).to_properties())
    onnx.save(model, bundle / "model.onnx")
    entry = file_entry(bundle / "model.onnx").model_dump()
    edit(bundle, lambda tree: tree["files"].update({"model.onnx": entry}))
    for path in (bundle, bundle / "model.onnx"):
        with pytest.raises(ProtosegError) as caught:
            open_runtime(path)
        assert words in caught.value.message


def test_another_graph_under_the_name_of_fp32_is_refused(bundle: Path) -> None:
    edit(bundle, lambda tree: tree["graphs"].update(fp32=tree["graphs"]["fp16"]))
    with pytest.raises(ProtosegError, match=r"precision fp16 instead of fp32"):
        open_runtime(bundle)


def test_other_classes_in_the_manifest_are_refused(bundle: Path) -> None:
    edit(bundle, lambda tree: tree["classes"].update(names=["sky", "road", "sea"]))
    with pytest.raises(ProtosegError, match=r"classes 3 \(sky, road, tree\) instead of 3 \(sky, road, sea\)"):
        open_runtime(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"null", b"\xff\xfe", b'{"format": NaN}'])
def test_a_manifest_of_another_shape_is_one_error(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(ProtosegError, match=r"manifest\.json"):
        open_runtime(bundle)


def test_a_pipe_for_a_manifest_is_not_waited_for(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    with pytest.raises(ProtosegError, match="a named pipe"):
        open_runtime(bundle)
    assert open_runtime(bundle / "model.onnx").info.verified is None


def passed(manifest: Manifest, **changes: Any) -> Verification:
    """fp32 against PyTorch and fp16 against fp32, both passed."""
    pairs = (("onnx fp32", "model.onnx", "pytorch", "reference.safetensors"),)
    pairs += (("onnx fp16", "model.fp16.onnx", "onnx fp32", "model.onnx"),)
    stages = tuple(
        StageVerdict(
            **{
                "stage": stage,
                "artefact": artefact,
                "artefact_sha256": manifest.digest_of(artefact),
                "against": against,
                "against_sha256": manifest.digest_of(reference),
                "status": "passed",
                **changes,
            }
        )
        for stage, artefact, against, reference in pairs
    )
    return Verification(
        passed=True,
        images=1,
        masks=0,
        fitted_images=0,
        images_sha256="",
        miou_pytorch_percent=None,
        stages=stages,
    )


def test_a_verdict_is_about_the_files_that_were_compared(bundle: Path) -> None:
    """Whatever takes the place of one of them is unverified, and so is what was compared with it."""
    before = Bundle.open(bundle).manifest
    verification = passed(before)
    assert before.digest_of("model.onnx") == file_sha256(bundle / "model.onnx")
    for name, remaining in (
        ("model.fp16.onnx", {"model.onnx": True, "model.fp16.onnx": None}),
        ("model.onnx", {"model.onnx": None, "model.fp16.onnx": None}),
        ("reference.safetensors", {"model.onnx": None, "model.fp16.onnx": None}),
    ):
        other = before.files[name].model_copy(update={"sha256": "0" * 64})
        exchanged = before.model_copy(update={"verification": verification, "files": {**before.files, name: other}})
        assert {file: exchanged.verified(file) for file in remaining} == remaining
    whole = before.model_copy(update={"verification": verification})
    assert whole.verified("model.onnx") is whole.verified("model.fp16.onnx") is True
    assert whole.verified("model.onnx@openvino") is None


def test_verdicts_without_digests_are_read(bundle: Path) -> None:
    """As earlier versions wrote them: they hold for the files listed beside them."""
    manifest = Bundle.open(bundle).manifest
    verification = passed(manifest, artefact_sha256=None, against_sha256=None)
    Bundle.create(bundle, manifest.model_copy(update={"verification": verification}))
    edit(bundle, lambda tree: [stage.pop("artefact_sha256") for stage in tree["verification"]["stages"]])
    edit(bundle, lambda tree: [stage.pop("against_sha256") for stage in tree["verification"]["stages"]])
    assert open_runtime(bundle, precision="fp16").info.verified is True


def test_stages_that_refer_to_each_other_verify_nothing(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    verification = passed(manifest, against="onnx fp16", against_sha256=None)
    assert manifest.model_copy(update={"verification": verification}).verified("model.onnx") is None


def test_one_digest_for_several_files() -> None:
    assert joint_digest(["a"]) == "a"
    assert joint_digest(["a", "b"]) not in (joint_digest(["b", "a"]), joint_digest(["ab"]))
    assert joint_digest(["a", None]) is joint_digest([]) is None
