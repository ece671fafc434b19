"""Which image is in which shard, and how its mask is called."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.prediction_plan import name_outputs
from protoseg_deploy.evaluation.result_names import folded
from protoseg_deploy.evaluation.shards.plan import Plan, PlanReader, make_plan


def planned(found: list[tuple[str, int]], folder: Path, **options: object) -> tuple[Plan, list[list[tuple[str, str]]]]:
    file = folder / "plan.parquet"
    plan = make_plan(found, file, **{"shards": None, "dotless": False, **options})
    reader = PlanReader(str(file))
    return plan, [reader.rows(shard) for shard in range(plan.shards)]


def below(*relatives: str) -> list[tuple[str, int]]:
    return [(f"/in/{relative}", 4) for relative in relatives]


@pytest.mark.parametrize(
    ("images", "shards", "expected"),
    [(1, None, 1), (100, None, 7), (5_000, None, 64), (70_000, None, 70), (10, 3, 3), (3, 10, 3)],
)
def test_shards_are_even_and_hold_every_image_in_order(
    tmp_path: Path, images: int, shards: int | None, expected: int
) -> None:
    found = below(*(f"{number:06}.jpg" for number in range(images)))
    plan, rows = planned(found, tmp_path, shards=shards)
    assert (plan.images, plan.shards) == (images, expected)
    sizes = [len(part) for part in rows]
    assert sizes == [plan.size(shard) for shard in range(plan.shards)]
    assert max(sizes) - min(sizes) <= 1
    assert [image for part in rows for image, _ in part] == [image for image, _ in found]


def test_a_plan_depends_on_the_images_alone(tmp_path: Path) -> None:
    found = below("a.jpg", "b/c.jpg", "b/c.png")
    first, again = (planned(found, tmp_path) for _ in range(2))
    assert first == again
    others = (below("a.jpg", "b/c.jpg"), below("a.jpg", "b/c.png", "b/c.jpg"), [("/other/a.jpg", 7), *found[1:]])
    digests = {planned(other, tmp_path)[0].sha256 for other in others}
    assert len(digests | {first[0].sha256}) == 4


def test_an_image_named_twice_is_one_image(tmp_path: Path) -> None:
    found = [*below("a.jpg", "b.jpg"), ("/in/a.jpg", 1), *below("c.jpg", "b.jpg")]
    _, rows = planned(found, tmp_path, shards=1)
    assert rows == [[("/in/a.jpg", "a.png"), ("/in/b.jpg", "b.png"), ("/in/c.jpg", "c.png")]]


def test_images_outside_the_folder_of_a_manifest_are_named_from_their_common_folder(tmp_path: Path) -> None:
    found = [("/in/a.jpg", 4), ("/data/x/1.jpg", -1), ("/data/y/z/1.jpg", -1), ("s3://bucket/1.jpg", -1)]
    _, (rows,) = planned(found, tmp_path, shards=1)
    assert [name for _, name in rows] == ["a.png", "data/x/1.png", "data/y/z/1.png", "s3/bucket/1.png"]
    _, (rows,) = planned(found[:3], tmp_path, shards=1)
    assert [name for _, name in rows] == ["a.png", "x/1.png", "y/z/1.png"]


def test_there_is_no_plan_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        planned([], tmp_path)


def test_names_are_those_of_the_plain_form(tmp_path: Path) -> None:
    relatives = ["a.jpg", "a.png", "A.tif", "b.v2.jpg", "b/a.jpg", "c.jpg", "c.png/x.jpg", f"{'d' * 253}.jpg", "e"]
    _, (rows,) = planned(below(*relatives), tmp_path, shards=1)
    plain = name_outputs([(Path("/in", relative), Path(relative)) for relative in relatives])
    assert [name for _, name in rows] == [name.as_posix() for _, name in plain]


PART = st.text("aAäÄ._-", min_size=1, max_size=3).filter(lambda part: part.strip("."))
RELATIVE = st.lists(PART, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None)
@given(relatives=st.lists(RELATIVE, min_size=1, max_size=12, unique=True), dotless=st.booleans())
def test_no_two_masks_have_one_name_and_none_is_in_the_way_of_a_folder(
    tmp_path_factory: pytest.TempPathFactory, relatives: list[str], dotless: bool
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    _, (rows,) = planned(below(*relatives), folder, shards=1, dotless=dotless)
    names = [name for _, name in rows]
    assert len({folded(name) for name in names}) == len(relatives)
    folders = {folded(str(parent)) for name in names for parent in Path(name).parents}
    assert not folders & {folded(name) for name in names}
    for name, relative in zip(names, relatives, strict=True):
        assert name.endswith(".png")
        assert name.rpartition("/")[0] == relative.rpartition("/")[0]
        assert not dotless or name.rpartition("/")[2].count(".") == 1
