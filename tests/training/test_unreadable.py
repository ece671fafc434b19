"""The record of images that cannot be read: each once, an error where they are too many, through interruptions."""

import json
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from protoseg_deploy.errors import DataError, WriteError
from protoseg_deploy.training.unreadable import UnreadableImages


def line(number: int) -> str:
    return f"/pool/a\tb {number}.jpg\tthe file is empty"


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (folder / "unreadable.jsonl").read_text().splitlines()]


def see(unreadable: UnreadableImages, numbers: list[int], step: int, drawn: int) -> None:
    unreadable.see([line(number) for number in numbers], step)
    unreadable.record(drawn)


def test_every_file_is_recorded_once(tmp_path: Path) -> None:
    unreadable = UnreadableImages(tmp_path, 0.5)
    see(unreadable, [], 1, 4)
    assert unreadable.report() is None
    assert not unreadable.path.exists(), "nothing to tell, nothing written"
    unreadable.see([line(1), line(2), line(1)], 2)
    see(unreadable, [2, 3], 3, 12)
    see(unreadable, [3], 4, 16)
    assert records(tmp_path) == [
        {"image": f"/pool/a\tb {number}.jpg", "reason": "the file is empty", "step": step}
        for number, step in ((1, 2), (2, 2), (3, 3))
    ]
    report = unreadable.report()
    assert report is not None
    for part in ("3 unlabelled images", "b 1.jpg", "the file is empty", str(unreadable.path)):
        assert part in report


def test_more_than_the_share_is_an_error(tmp_path: Path) -> None:
    unreadable = UnreadableImages(tmp_path, 0.02)
    see(unreadable, [1, 2], 1, 8)  # of the first 100, two may be
    see(unreadable, [*range(20)], 100, 1000)
    see(unreadable, [19], 101, 1000)
    with pytest.raises(DataError) as caught:
        see(unreadable, [20, 21], 102, 1016)
    for part in ("22 unlabelled images", "1016", "data.max_unreadable_share 0.02", "b 1.jpg", "19 more"):
        assert part in str(caught.value)
    assert str(unreadable.path) in caught.value.hint
    assert len(records(tmp_path)) == 22, "those of the last straw too"


def test_a_share_of_nothing_tolerates_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 unlabelled image could not"):
        see(UnreadableImages(tmp_path, 0.0), [1], 1, 10**6)


def test_an_interrupted_run_goes_on_counting(tmp_path: Path) -> None:
    whole = UnreadableImages(tmp_path, 0.03)
    for step in range(1, 4):
        see(whole, [step], step, 100)
    with (tmp_path / "unreadable.jsonl").open("a") as file:
        file.write('{"image": "torn')
    resumed = UnreadableImages(tmp_path, 0.03)
    resumed.forget_after(2)
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    see(resumed, [1, 3], 3, 100)
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    with pytest.raises(DataError):
        see(resumed, [4], 4, 100)


def _one_of_two(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    unreadable = UnreadableImages(folder, 0.04)
    for step in range(1, 4):
        unreadable.see([line(2 * (step % 2) + rank)], step)
    unreadable.record(100)
    unreadable.see([line(9)] if rank else [], 4)
    unreadable.record(200)
    (folder / f"{rank}.txt").write_text(str(unreadable.report()))
    try:
        unreadable.see([line(10), line(11)] if rank else [], 5)
        unreadable.record(150)
    except DataError as error:
        (folder / f"{rank}.txt").write_text((folder / f"{rank}.txt").read_text() + str(error))
    dist.destroy_process_group()


def test_all_processes_know_what_any_has_seen(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    steps = [(str(record["image"]).split()[-1], record["step"]) for record in records(tmp_path)]
    assert steps == [("2.jpg", 1), ("3.jpg", 1), ("0.jpg", 2), ("1.jpg", 2), ("9.jpg", 4), ("10.jpg", 5), ("11.jpg", 5)]
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert "5 unlabelled images could not be read: skipped and replaced" in texts[0]
    assert "7 unlabelled images could not be read among the first 150 drawn" in texts[0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"unreadable\.jsonl"):
        see(UnreadableImages(tmp_path / "gone", 1.0), [1], 1, 1)
