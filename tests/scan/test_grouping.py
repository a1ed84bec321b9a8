"""Groups: complete, compact, limited, seeded."""

from __future__ import annotations

import numpy
import pytest

from ptychodus_pinn_torch.scan.grouping import choose_held_out, draw_groups


def raster(side: int = 12, step: float = 4.0) -> numpy.ndarray:
    y, x = numpy.mgrid[:side, :side].reshape(2, -1)
    return step * numpy.stack([y, x], axis=1).astype(float)


@pytest.mark.parametrize('size', [1, 4, 16])
def test_every_pattern_is_in_a_group_and_its_seed_comes_first(size: int) -> None:
    groups = draw_groups(raster(), size, numpy.random.default_rng(0))
    assert set(groups.flatten()) == set(range(144))
    assert groups.shape[1] == size
    assert all(len(set(row)) == size for row in groups)


def test_groups_stay_within_the_distance_limit() -> None:
    positions = raster()
    groups = draw_groups(positions, 9, numpy.random.default_rng(0), max_distance_px=5.0)
    offset = positions[groups] - positions[groups[:, :1]]
    assert numpy.hypot(*offset.transpose(2, 0, 1)).max() <= 5.0
    assert set(groups.flatten()) == set(range(144))


def test_same_seed_same_groups_and_other_seed_other_groups() -> None:
    def draw(seed: int) -> numpy.ndarray:
        return draw_groups(raster(), 9, numpy.random.default_rng(seed))

    assert numpy.array_equal(draw(0), draw(0))
    assert not numpy.array_equal(draw(0)[:3], draw(1)[:3])


def test_held_out_patterns_are_scattered_over_the_whole_scan() -> None:
    positions = raster(20)
    held_out = choose_held_out(positions, 0.05, numpy.random.default_rng(0))
    assert len(held_out) == len(set(held_out)) == 20
    quadrant = (positions[held_out] > positions.mean(axis=0)) @ [2, 1]
    assert numpy.bincount(quadrant, minlength=4).min() >= 4


def test_nothing_is_held_out_of_a_handful() -> None:
    rng = numpy.random.default_rng(0)
    assert len(choose_held_out(raster(2), 0.3, rng)) == 0
    assert len(choose_held_out(raster(), 0.0, rng)) == 0


def test_too_few_members_is_a_sentence() -> None:
    with pytest.raises(ValueError, match='a group takes 200 patterns but only 144'):
        draw_groups(raster(), 200, numpy.random.default_rng(0))
