"""Parts of even classes, whole groups, the same for the same seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from protoseg_deploy.data.splitting import draw_covering, evenness, split_groups


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.integers(1, 5), st.integers(1, 6))
def test_groups_stay_together_and_both_parts_have_images(seed: int, images: int, classes: int, group: int) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 50, (images, classes)) * random.integers(0, 2, (images, classes))
    groups = (np.arange(images) // group).tolist()
    chosen = split_groups(pixels, groups, max(1, images // 5), seed)
    for name in set(groups):
        assert len({bool(chosen[index]) for index, other in enumerate(groups) if other == name}) == 1
    if len(set(groups)) > 1:
        assert 0 < chosen.sum() < images


def test_every_class_is_in_both_parts_in_equal_shares() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(500, 1000, (200, 6))
    pixels[:, 4] *= np.arange(200) % 40 == 0  # in five images
    pixels[:, 5] *= np.arange(200) < 2  # in two
    chosen = split_groups(pixels, list(range(200)), 40, seed=0)
    found = evenness(pixels, chosen)
    assert chosen.sum() == 40
    assert found.absent_in_training == found.absent_in_validation == ()
    assert found.classes == 6
    shares = pixels[chosen].sum(0) / pixels.sum(0)
    assert np.abs(shares[:4] - 0.2).max() < 0.02
    assert np.array_equal(chosen, split_groups(pixels, list(range(200)), 40, seed=0))
    assert not np.array_equal(chosen, split_groups(pixels, list(range(200)), 40, seed=1))


def test_what_one_group_alone_shows_is_said() -> None:
    pixels = np.array([[9, 0], [9, 0], [9, 5], [9, 5]])
    chosen = split_groups(pixels, [0, 1, 2, 2], 1, seed=0)
    found = evenness(pixels, chosen)
    assert found.absent_in_validation == (1,)
    assert chosen.sum() == 1


def test_few_images_that_show_every_class() -> None:
    pixels = np.eye(10, dtype=np.int64).repeat(8, axis=0)
    drawn = draw_covering(pixels, 10, seed=3)
    assert (pixels[drawn].sum(0) > 0).all()
    assert draw_covering(pixels, 100, seed=3) == list(range(80))
