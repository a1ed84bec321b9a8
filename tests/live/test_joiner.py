"""Frames and positions find each other, in whatever order and pieces they come."""

from __future__ import annotations

import numpy
import pytest

from ptychodus_pinn_torch.live.joiner import Joiner


@pytest.mark.parametrize('seed', range(5))
def test_any_order_and_any_pieces_join_the_same(seed: int) -> None:
    rng = numpy.random.default_rng(seed)
    joiner, number = Joiner(), 200
    ids = rng.permutation(10 * number)[:number]
    places = {int(n): (float(n), -float(n)) for n in ids}
    frames, positions = rng.permutation(ids), rng.permutation(ids)
    row_of = {int(n): row for row, n in enumerate(frames)}
    cuts = [numpy.sort(rng.integers(0, number, 12)) for _ in range(2)]
    pieces = [('frames', part) for part in numpy.split(frames, cuts[0])]
    pieces += [('positions', part) for part in numpy.split(positions, cuts[1])]
    order = rng.permutation(len(pieces))
    first_row = 0
    waiting = [piece for piece in (pieces[i] for i in order) if piece[0] == 'frames']
    for index in order:
        kind, part = pieces[index]
        if kind == 'positions':
            joiner.add_positions(part, numpy.asarray([places[int(n)] for n in part]).reshape(-1, 2))
            continue
        part = waiting.pop(0)[1]
        for row, n in enumerate(part, first_row):
            row_of[int(n)] = row
        joiner.add_frames(part, first_row)
        first_row += len(part)
    joined = joiner.joined()
    assert len(joined) == joiner.num_joined == number
    assert joiner.num_waiting_frames == joiner.num_waiting_positions == 0
    assert sorted(joined.ids.tolist()) == sorted(ids.tolist())
    for n, row, place in zip(joined.ids.tolist(), joined.rows.tolist(), joined.positions.tolist()):
        assert row == row_of[n] and tuple(place) == places[n]
    assert numpy.array_equal(joiner.joined(150).ids, joined.ids[150:])


def test_what_comes_again_is_counted_and_left_out() -> None:
    joiner = Joiner()
    ids = numpy.asarray([3, 4, 4, 5])
    assert joiner.new_frames(ids).tolist() == [True, True, False, True]
    joiner.add_frames(ids[[0, 1, 3]], 0)
    assert joiner.new_frames(numpy.asarray([5, 6])).tolist() == [False, True]
    joiner.add_positions(numpy.asarray([4]), numpy.zeros((1, 2)))
    assert joiner.new_frames(numpy.asarray([4])).tolist() == [False]
    assert joiner.new_positions(numpy.asarray([4, 3])).tolist() == [False, True]
    assert (joiner.repeated_frames, joiner.repeated_positions) == (3, 1)
    assert (joiner.num_joined, joiner.num_waiting_frames) == (1, 2)


def test_the_clock_says_since_when_a_frame_is_complete() -> None:
    now = [10.0]
    joiner = Joiner(clock=lambda: now[0])
    joiner.add_frames(numpy.arange(4), 0)
    now[0] = 12.5
    joiner.add_positions(numpy.asarray([2, 0]), numpy.zeros((2, 2)))
    assert joiner.joined().since_s.tolist() == [12.5, 12.5]
