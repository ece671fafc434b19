"""Manifest files in all their forms, and what is said of those that are wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.shards.listing import list_images
from protoseg_deploy.evaluation.shards.manifests import read_manifest
from tests.evaluation.shards.conftest import Predict, expected

NAMES = ["0/0003.png", "1/0010.png", "0/0001.png"]


def as_text(path: Path, names: list[str]) -> Path:
    lines = ["# images of today", "", *names, "   "]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def as_csv(path: Path, names: list[str]) -> Path:
    path.write_text("\ufeffid, image ,split\n" + "".join(f'{n},"{name}",a\n' for n, name in enumerate(names)))
    return path


def as_json_lines(path: Path, names: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"image": name, "id": 3}) for name in names) + "\n\n")
    return path


def as_parquet(path: Path, names: list[str]) -> Path:
    pq.write_table(pa.table({"id": list(range(len(names))), "image": names}), path)
    return path


def as_dictionary(path: Path, names: list[str]) -> Path:
    pq.write_table(pa.table({"image": pa.array(names).dictionary_encode()}), path)
    return path


FORMS = [
    ("list.txt", as_text),
    ("list", as_text),
    ("list.csv", as_csv),
    ("list.CSV", as_csv),
    ("list.jsonl", as_json_lines),
    ("list.parquet", as_parquet),
    ("dictionary.parquet", as_dictionary),
]


@pytest.mark.parametrize(("file", "form"), FORMS, ids=[name for name, _ in FORMS])
def test_every_form_names_the_images_from_its_folder_in_its_order(
    predict: Predict, images: Path, tmp_path: Path, file: str, form
) -> None:
    manifest = form(images / file, NAMES)
    assert [*read_manifest(str(manifest))] == NAMES
    result = predict([], tmp_path / "out", manifest=str(manifest), shards=1)
    assert (result.images, result.failed) == (3, 0)
    table = pq.read_table(tmp_path / "out/results/shard-00000.parquet").to_pydict()
    assert table["image"] == [str(images / name) for name in NAMES]
    for name in NAMES:
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/index" / name)), expected(images / name))


def test_names_as_data_sets_and_other_systems_write_them(tmp_path: Path) -> None:
    lines = ["a.jpg", "my photo.jpg", "b.jpg masks/b.png", "c.jpg\tmasks/c.png", '"two\\twords.jpg"', "x,y;z.jpg"]
    manifest = as_text(tmp_path / "list.txt", lines)
    assert [*read_manifest(str(manifest))] == [
        "a.jpg", "my photo.jpg", "b.jpg", "c.jpg", "two\twords.jpg", "x,y;z.jpg"
    ]  # fmt: skip


def test_paths_start_at_the_folder_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.jpg", "./b/../c.jpg", "../d.jpg", "/e/f.jpg", "file:///g/h.jpg", "s3://bucket/i.jpg", "..//j.jpg"]
    (tmp_path / "lists").mkdir()
    manifest = as_text(tmp_path / "lists/list.txt", names)
    monkeypatch.chdir(tmp_path)
    start = len(f"{tmp_path}/lists/")
    expected = [
        (f"{tmp_path}/lists/a.jpg", start),
        (f"{tmp_path}/lists/c.jpg", start),
        (f"{tmp_path}/d.jpg", -1),
        ("/e/f.jpg", -1),
        ("/g/h.jpg", -1),
        ("s3://bucket/i.jpg", -1),
        (f"{tmp_path}/j.jpg", -1),
    ]
    for given in (manifest, "lists/list.txt", f"file://{manifest}"):
        assert [*list_images([], str(given))] == expected


def test_no_mask_is_written_outside_of_the_results(predict: Predict, images: Path, tmp_path: Path) -> None:
    names = ["../../../../../../../../../../../../x.png", "a/../../in/0/0001.png", "0/0002.png"]
    manifest = as_text(images / "list.txt", names)
    result = predict([], tmp_path / "deep/er/out", manifest=str(manifest))
    assert (result.images, result.failed) == (2, 1)
    written = [path for path in tmp_path.rglob("*.png") if images not in path.parents]
    assert len(written) == 2
    assert all(tmp_path / "deep/er/out/index" in path.parents for path in written)


def test_images_that_are_not_there_are_failed_rows(predict: Predict, images: Path, tmp_path: Path) -> None:
    (images / "pipe.png").mkdir()
    manifest = as_text(images / "list.txt", ["0/0001.png", "none.png", "pipe.png"])
    result = predict([images / "1"], tmp_path / "out", manifest=str(manifest))
    assert (result.images, result.failed) == (3, 2)
    assert [os.path.relpath(reason, images) for reason in result.failures] == [
        "none.png: no such file",
        "pipe.png: cannot be read: a folder, not a file",
    ]


BAD = [
    ("none.txt", None, "No such file"),
    ("empty.txt", b"# nothing\n\n", "names no images"),
    ("zero.txt", b"a.jpg\nb\0.jpg\n", "not a text file: line 2"),
    ("binary.txt", b"\xff\xfe\x00", "not a text file"),
    ("columns.csv", b"id,path\n1,a.jpg\n", "names the columns id, path, not one 'image'"),
    ("twice.csv", b"image,image\na.jpg,b.jpg\n", "not one 'image'"),
    ("short.csv", b"id,image\n1,a.jpg\n2\n", "short.csv:3: no column 'image'"),
    ("blank.csv", b"id,image\n1,a.jpg\n2, \n", "blank.csv:3: an empty path"),
    ("empty.csv", b"", "(none)"),
    ("broken.jsonl", b'{"image": "a.jpg"}\n{"image": \n', "broken.jsonl:2: not JSON"),
    ("key.jsonl", b'{"image": "a.jpg"}\n{"path": "b.jpg"}\n["c.jpg"]\n', "key.jsonl:2: no text under the key 'image'"),
    ("list.parquet", b"PAR1 and nothing", "list.parquet cannot be read"),
    ("nul.jsonl", b'{"image": "a\\u0000.jpg"}', "nul.jsonl:1: a path cannot hold the character NUL"),
    ("half.jsonl", b'{"image": "a\\ud800.jpg"}', "half.jsonl:1: no file name in utf-8 can hold the character U+D800"),
    ("half.txt", b'"s3://bucket/a\\ud800.jpg"\n', "half.txt:1: no file name in utf-8 can hold the character U+D800"),
    ("open.csv", b'image\na.jpg\n"b.jpg\nc.jpg\nd.jpg\n', "the row that begins at line 3 is no CSV"),
    ("huge.csv", b"image\na.jpg\n" + b"x" * 140_000, "the row that begins at line 3 is no CSV"),
    ("long.csv", b"image\n" + b"x" * 300 + b"\n", "long.csv:2: a file or folder name of more than 255 bytes"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_manifest_is_named_with_its_line_before_anything_is_written(
    predict: Predict, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    manifest = tmp_path / name
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        predict([], tmp_path / "out", manifest=str(manifest))
    assert said in caught.value.message
    assert "A manifest is" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("values", [pa.array([1, 2]), pa.array(["a.jpg", None])], ids=["numbers", "null"])
def test_a_parquet_file_without_texts_is_refused(tmp_path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"image": values}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"x\.parquet:[12]: no text in the column 'image'"):
        [*read_manifest(str(tmp_path / "x.parquet"))]


def test_bad_lines_are_shown_up_to_twenty(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"{}\n" * 1000)
    with pytest.raises(UsageError) as caught:
        [*read_manifest(str(tmp_path / "x.jsonl"))]
    lines = caught.value.message.splitlines()
    assert len(lines) == 21
    assert ":20:" in lines[19]
