"""Data of PtychoPINN's NPZ files, as its scripts load them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy

from .grouped_data import MemmapDatasetBridge, RawDataTorch

__all__ = ['load_data']

logger = logging.getLogger(__name__)


def load_data(
    file_path: Path | str,
    n_images: int | None = None,
    n_subsample: int | None = None,
    *,
    flip_x: bool = False,
    flip_y: bool = False,
    swap_xy: bool = False,
    coord_scale: float = 1.0,
    subsample_seed: int | None = None,
    config: Any = None,
) -> RawDataTorch:
    """Returns the raw data of an NPZ; flips, exchange and scale act on the coordinates alone.

    Args:
        file_path: With `xcoords`, `ycoords`, `diff3d` and `probeGuess`.
        n_images: Take so many patterns from the beginning.
        n_subsample: Take so many at random instead.
        flip_x: Mirror the columns within their range; `flip_y` the rows.
        swap_xy: Exchange rows and columns of the positions.
        coord_scale: Factor on all positions, about their origin.
        subsample_seed: Of the random patterns; None is 0.
        config: PtychoPINN's configuration.

    Raises:
        KeyError: a required key is missing; lists what is there.
        ValueError: more patterns than there are, or a scale that is not positive.
    """
    if not coord_scale > 0.0:
        raise ValueError(f'coord_scale = {coord_scale} must be positive: use the flips to mirror.')
    if n_subsample is not None and n_images is not None:
        logger.warning('n_images = %s is left out: n_subsample says how many.', n_images)
    if n_subsample is None and subsample_seed is not None:
        logger.warning('subsample_seed is left out: only n_subsample takes patterns at random.')
    given = MemmapDatasetBridge(file_path, config).raw_data_torch
    number = len(given.xcoords)
    wanted = n_subsample if n_subsample is not None else n_images
    if wanted is not None and not 0 < wanted <= number:
        raise ValueError(f'{file_path}: {wanted} patterns were asked for, and there are {number}.')
    chosen = numpy.arange(number if wanted is None else wanted)
    if n_subsample is not None:
        rng = numpy.random.default_rng(subsample_seed or 0)
        chosen = numpy.sort(rng.choice(number, n_subsample, replace=False))
    x, y = given.xcoords, given.ycoords
    x = x.min() + x.max() - x if flip_x else x
    y = y.min() + y.max() - y if flip_y else y
    x, y = (y, x) if swap_xy else (x, y)
    patterns = given.diff3d if wanted is None else numpy.asarray(given.diff3d)[chosen]
    return RawDataTorch(
        coord_scale * x[chosen],
        coord_scale * y[chosen],
        patterns,
        given.probeGuess,
        given.scan_index[chosen],
        given.objectGuess,
        config,
        kind=given.kind,
    )
