"""A growing image: what comes row by row does not leave its large scales wrong."""

from __future__ import annotations

import numpy
import torch

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.live.growing_image import GrowingImage
from ptychodus_pinn_torch.metrics.comparison import compare_objects


def test_large_scales_of_a_scan_that_grows_row_by_row_come_right() -> None:
    scan = pinn.simulate(
        num_positions=900, pattern_size=32, step_px=4.0, object_kind='leaves', seed=0
    )
    growing = GrowingImage(scan.probe, scan.good_pixels, None, torch.device('cpu'))
    for first in range(0, scan.num_patterns, 30):
        rows = numpy.arange(first, first + 30)
        growing.see(scan.patterns[: first + 30], rows, scan.positions_px[rows])
        for _ in range(6):
            growing.refine(64)
    for _ in range(40):
        growing.refine(128)
    canvas, coverage, (y, x) = growing.image()
    object_, weight = numpy.ones_like(scan.truth), numpy.zeros(scan.truth.shape)
    first, last = numpy.maximum((y, x), 0), numpy.minimum((y, x) + numpy.array(canvas.shape),
                                                          scan.truth.shape)  # fmt: skip
    there = tuple(slice(a, b) for a, b in zip(first, last))
    here = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, (y, x)))
    object_[there], weight[there] = canvas[here], coverage[here] > 0.3
    assert (
        compare_objects(object_, scan.truth, weights=weight).nrmse < 0.08
    )  # 0.145 without straightening
