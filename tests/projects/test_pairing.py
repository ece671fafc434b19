"""Masks are found in the layouts that people have."""

from pathlib import Path

import pytest

from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.projects.pairing import find_pairs

LAYOUTS = {
    "folders beside each other": ["images/a.jpg=masks/a.png", "images/b.jpg=masks/b.png", "images/c.jpg"],
    "an ending": ["a.jpg=a_mask.png", "b.jpg=b_mask.png", "c.jpg"],
    "CamVid": ["701/0001TP_1.png=Labels/0001TP_1_L.png", "701/0001TP_2.png=Labels/0001TP_2_L.png"],
    "Cityscapes": [
        "leftImg8bit/train/aachen/aachen_0_leftImg8bit.png=gtFine/train/aachen/aachen_0_gtFine_labelIds.png",
        "leftImg8bit/train/bonn/bonn_0_leftImg8bit.png=gtFine/train/bonn/bonn_0_gtFine_labelIds.png",
    ],
    "VOC": ["JPEGImages/2007_1.jpg=SegmentationClass/2007_1.png", "JPEGImages/2007_2.jpg"],
    "a beginning": ["scans/x1.png=gt/gt_x1.png", "scans/x2.png=gt/gt_x2.png"],
    "the same names in several folders": ["images/d/1.jpg=masks/d/1.png", "images/n/1.jpg=masks/n/1.png"],
    "SegNet": ["train/0.png=trainannot/0.png", "train/1.png=trainannot/1.png"],
    "nnU-Net": ["imagesTr/case_1_0000.png=labelsTr/case_1.png", "imagesTr/case_2_0000.png=labelsTr/case_2.png"],
    "no common ending": ["img-7.jpg=img-7_seg.png", "img-70.jpg=img-70_seg.png"],
}


def make(folder: Path, layout: list[str]) -> dict[Path, Path]:
    expected = {}
    for line in layout:
        files = [folder / name for name in line.split("=")]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        if len(files) == 2:
            expected[files[0]] = files[1]
    return expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    lines = LAYOUTS[layout]
    expected = make(tmp_path, lines)
    pairs = find_pairs([tmp_path], None)
    assert pairs.masks == expected
    assert pairs.images == tuple(sorted(tmp_path / line.split("=")[0] for line in lines))
    assert pairs.unused_masks == ()
    assert "{stem}" in pairs.how
    top = {Path(line.split("=")[0]).parts[0] for line in lines if "/" in line}
    if len(top) == 1:  # the folder of images alone, masks beside it
        assert find_pairs([tmp_path / top.pop()], None).masks == expected


def test_a_folder_of_masks_is_said(tmp_path: Path) -> None:
    expected = make(tmp_path, ["photos/a.jpg=truth/a.png", "photos/b.jpg=truth/b.png"])
    (tmp_path / "truth/old.png").touch()
    assert find_pairs([tmp_path / "photos"], None).masks == {}
    pairs = find_pairs([tmp_path / "photos"], tmp_path / "truth")
    assert pairs.masks == expected
    assert pairs.unused_masks == (tmp_path / "truth/old.png",)


def test_what_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, ["images/a.jpg=masks/1/a.png", "images/b.jpg=masks/2/a.png"])
    with pytest.raises(DataError, match=r"could both be its mask"):
        find_pairs([tmp_path / "images"], tmp_path / "masks")
    with pytest.raises(UsageError, match="no such folder"):
        find_pairs([tmp_path / "absent"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="--masks: no masks in"):
        find_pairs([tmp_path / "images"], tmp_path / "empty")
    with pytest.raises(UsageError, match="there is no image"):
        find_pairs([tmp_path / "empty"], None)
