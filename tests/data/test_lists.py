"""List files as the public data sets write them."""

import os
import re
import unicodedata
from pathlib import Path

import pytest

from protoseg_deploy.data import DataSets, find_data
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Names of Pascal VOC, files empty: pairing looks at names only."""
    for name in ("2007_000032", "2007_000039", "2007_000063"):
        for file in (f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
    return tmp_path


def read(root: Path, text: str, **folders: str) -> DataSets:
    (root / "split.txt").write_text(text, encoding="utf-8")
    data = Data.model_validate({"root": str(root), "labeled": {"list": "split.txt", **folders}, "classes": ["a", "b"]})
    return find_data(data, need_unlabeled=False, need_val=False)


def stems(sets: DataSets) -> list[tuple[str, str]]:
    return [(sample.image.name, sample.mask.name) for sample in sets.labeled if sample.mask is not None]


TWO = [("2007_000032.jpg", "2007_000032.png"), ("2007_000039.jpg", "2007_000039.png")]
VOC_FOLDERS = {"images": "JPEGImages", "masks": "SegmentationClass"}


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("2007_000032\n2007_000039\n", VOC_FOLDERS),
        ("2007_000039.jpg\n2007_000032.jpg\n", VOC_FOLDERS),
        ("2007_000032.jpg 2007_000032.png\n2007_000039.jpg 2007_000039.png", VOC_FOLDERS),
        (
            "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png\n"
            "JPEGImages/2007_000039.jpg SegmentationClass/2007_000039.png\n",
            {},
        ),
        (
            "/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png\r\n"
            "/JPEGImages/2007_000039.jpg /SegmentationClass/2007_000039.png\r\n",
            {},
        ),
        ("JPEGImages/2007_000032.jpg\nJPEGImages/2007_000039.jpg\n", {"masks": "SegmentationClass"}),
        ("JPEGImages/2007_000032.jpg\nJPEGImages/2007_000039.jpg\n", VOC_FOLDERS),
        ("# two of them\n\n  2007_000032  \n2007_000039", VOC_FOLDERS),
        ("\ufeff2007_000032\n2007_000039", VOC_FOLDERS),
    ],
)
def test_public_split_lists(voc: Path, text: str, folders: dict[str, str]) -> None:
    assert stems(read(voc, text, **folders)) == TWO


def test_cityscapes_pairs(tmp_path: Path) -> None:
    image = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    mask = "gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png"
    for name in (image, mask):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (sample,) = read(tmp_path, f"{image} {mask}\n").labeled
    assert (sample.image, sample.mask) == (tmp_path / image, tmp_path / mask)


def test_unlabeled_lists_ignore_their_masks(voc: Path) -> None:
    line = "JPEGImages/2007_000063.jpg SegmentationClass/not-there.png\n"
    (voc / "unlabeled.txt").write_text(line + line, encoding="utf-8")
    data = Data.model_validate(
        {
            "root": str(voc),
            "labeled": VOC_FOLDERS,
            "unlabeled": {"list": "unlabeled.txt"},
            "classes": ["a", "b"],
        }
    )
    sets = find_data(data, need_unlabeled=True, need_val=False)
    assert list(sets.unlabeled) == [voc / "JPEGImages/2007_000063.jpg"]


def test_every_bad_line_is_listed_with_its_number(voc: Path) -> None:
    text = "2007_000032\n2007_999999\n2007_000039 2007_888888\na b c\n2007_000032\n"
    with pytest.raises(DataError) as caught:
        read(voc, text, **VOC_FOLDERS)
    faults = caught.value.faults
    assert len(faults) == 4
    assert "split.txt:2: no image 2007_999999" in faults[0]
    assert "split.txt:3: no mask 2007_888888" in faults[1]
    assert "split.txt:4: 3 columns" in faults[2]
    assert "2007_000032.jpg: listed twice" in faults[3]


def test_an_ambiguous_stem_is_a_fault(voc: Path) -> None:
    (voc / "JPEGImages/2007_000032.png").touch()
    with pytest.raises(DataError, match=r"split\.txt:1: 2007_000032 is ambiguous: 2007_000032\.jpg, 2007_000032\.png"):
        read(voc, "2007_000032\n", **VOC_FOLDERS)


def test_a_bare_stem_without_a_folder_says_what_to_set(voc: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.labeled\.images"):
        read(voc, "2007_000032\n")


def test_images_without_any_mask_say_what_to_set(voc: Path) -> None:
    with pytest.raises(DataError, match=r"no mask: set data\.labeled\.masks"):
        read(voc, "JPEGImages/2007_000032.jpg\n")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"\n# nothing\n", "lists no images"), (b"\xff\xfe\x00", "not a text")]
)
def test_a_list_without_images(voc: Path, content: bytes, reason: str) -> None:
    (voc / "bad.txt").write_bytes(content)
    data = Data.model_validate({"root": str(voc), "labeled": {"list": "bad.txt"}, "classes": ["a", "b"]})
    with pytest.raises(DataError, match=rf"data\.labeled\.list: .*{reason}"):
        find_data(data, need_unlabeled=False, need_val=False)


def test_a_missing_list_names_key_and_place(voc: Path) -> None:
    data = Data.model_validate({"root": str(voc), "labeled": {"list": "gone.txt"}, "classes": ["a", "b"]})
    with pytest.raises(DataError, match=rf"data\.labeled\.list: cannot read {voc}/gone\.txt"):
        find_data(data, need_unlabeled=False, need_val=False)


@pytest.mark.parametrize(
    "text",
    [
        "JPEGImages\\2007_000032.jpg SegmentationClass\\2007_000032.png\n",
        "JPEGImages\\2007_000032.jpg,SegmentationClass\\2007_000032.png\r\n",
        "JPEGImages/2007_000032.jpg,SegmentationClass/2007_000032.png\n",
        "JPEGImages/2007_000032.jpg, SegmentationClass/2007_000032.png\n",
        "JPEGImages/2007_000032.jpg;SegmentationClass/2007_000032.png\n",
        '"JPEGImages/2007_000032.jpg","SegmentationClass/2007_000032.png"\n',
        '"JPEGImages/2007_000032.jpg"\t"SegmentationClass/2007_000032.png"\n',
        "\ufeffJPEGImages/2007_000032.jpg\tSegmentationClass/2007_000032.png\r\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists_as_other_programs_write_them(voc: Path, text: str, encoding: str) -> None:
    (voc / "list.txt").write_bytes(text.encode(encoding))
    data = Data.model_validate({"root": str(voc), "labeled": {"list": "list.txt"}, "classes": ["a", "b"]})
    assert stems(find_data(data, need_unlabeled=False, need_val=False)) == TWO[:1]


def test_what_exists_as_it_stands_is_meant(tmp_path: Path) -> None:
    """A comma, a backslash or blanks in a name are no separators where a file has that name."""
    for name in ("a,b.png", "a\\c.png", "a  b;c.png", " d.png", "m.png"):
        (tmp_path / name).touch()
    for image in ("a,b.png", "a\\c.png", "a  b;c.png"):
        (sample,) = read(tmp_path, f"{image} m.png\n").labeled
        assert (sample.image.name, sample.mask) == (image, tmp_path / "m.png")
    (sample,) = read(tmp_path, " d.png\tm.png\n").labeled
    assert sample.image.name == " d.png"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_other_systems(tmp_path: Path, form: str) -> None:
    there = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "stra\u00dfe-\u00e4.png")
    (tmp_path / there).touch()
    (tmp_path / "m.png").touch()
    (sample,) = read(tmp_path, unicodedata.normalize(form, there) + "\tm.png\n").labeled
    assert sample.image.exists()


def test_bytes_that_are_no_text_are_read_and_a_list_in_latin_1_as_well(tmp_path: Path) -> None:
    (tmp_path / "m.png").touch()
    (tmp_path / "gr\u00fcn.png").touch()
    (tmp_path / "list.txt").write_bytes(b"gr\xfcn.png m.png\n")
    data = Data.model_validate({"root": str(tmp_path), "labeled": {"list": "list.txt"}, "classes": ["a", "b"]})
    (sample,) = find_data(data, need_unlabeled=False, need_val=False).labeled
    assert sample.image.name == "gr\u00fcn.png"
    try:
        (tmp_path / os.fsdecode(b"gr\xfcn.png")).touch()
    except OSError:
        pytest.skip("this file system takes text only")
    (sample,) = find_data(data, need_unlabeled=False, need_val=False).labeled
    assert os.fsencode(sample.image.name) == b"gr\xfcn.png", "the name as it stands comes first"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a" * 1000 + b".png\n", r"list\.txt:1: no image a{100}… \(1004 characters\).*file name too long"),
        (b"sub/" * 2000 + b"a.png\n", r"list\.txt:1: no image .*file name too long"),
        (b"x" * 1_000_000, "longer than 16384 characters"),
        (b"x.png " * 2000 + b"\n", r"list\.txt:1: 2000 columns"),
        (b"a.png\0b.png\n", "zero byte"),
        (b'"\\ud800.png"\n', "no name that a file can have"),
        (os.urandom(20_000) + b"\0", "not a text file|longer than|no image"),
    ],
)
def test_what_is_no_list_of_files_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    for part in ("labeled", "unlabeled"):
        parts = {"labeled": {"list": "split.txt"}, part: {"list": "list.txt"}}
        data = Data.model_validate({"root": str(tmp_path), "classes": ["a", "b"], **parts})
        with pytest.raises(DataError) as caught:
            find_data(data, need_unlabeled=part == "unlabeled", need_val=False)
        assert re.search(reason, "\n".join(caught.value.faults))


def test_of_endless_junk_the_first_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, "nothing.png here.png\n" * 20_000)
    assert 1000 <= len(caught.value.faults) <= 1002
    assert "too many errors" in caught.value.faults[-1]
    data = {"labeled": {"list": "none.txt"}, "unlabeled": {"list": "split.txt"}, "classes": ["a", "b"]}
    (tmp_path / "split.txt").write_text("nothing here\n" * 20_000)
    with pytest.raises(DataError) as caught:
        find_data(Data.model_validate({"root": str(tmp_path), **data}), need_unlabeled=True, need_val=False)
    assert 1000 <= len(caught.value.faults) <= 1004


def test_named_pipes_are_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    with pytest.raises(DataError) as caught:
        read(tmp_path, "pipe.png\nfolder.png\nlink.png\n")
    first, second, third = caught.value.faults
    assert "named pipe" in first
    assert "a folder" in second
    assert "a broken link" in third
    (tmp_path / "split.txt").unlink()
    os.mkfifo(tmp_path / "split.txt")
    data = Data.model_validate({"root": str(tmp_path), "labeled": {"list": "split.txt"}, "classes": ["a", "b"]})
    with pytest.raises(DataError, match=r"data\.labeled\.list: cannot read .*a named pipe"):
        find_data(data, need_unlabeled=False, need_val=False)
