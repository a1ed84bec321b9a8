"""What comes back from an engine as a product of Ptychodus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import LossValue, Product

from ..config import ReconstructionConfig
from ..scan.products import grid_of_product

__all__ = ['TrainingCurve', 'make_product']


@dataclass(frozen=True)
class TrainingCurve:
    """The loss of a training run, epoch by epoch, and the error on held-out patterns."""

    training: tuple[LossValue, ...] = ()
    validation: tuple[LossValue, ...] = ()

    def append(self, epoch: int, loss: float | None, held_out: float | None) -> TrainingCurve:
        """Returns the curve with one epoch more; what is not known is left out."""
        return TrainingCurve(
            self.training if loss is None else (*self.training, LossValue(epoch, loss)),
            self.validation if held_out is None else (*self.validation, LossValue(epoch, held_out)),
        )


def join_losses(curve: TrainingCurve, refinement: Sequence[tuple[int, float]]) -> list[LossValue]:
    """Returns training, validation and refinement one after the other, as Ptychodus plots them.

    Ptychodus draws one line; a NaN between the parts keeps it from joining them.
    """
    last_epoch = max((item.epoch for item in (*curve.training, *curve.validation)), default=-1)
    first = min((epoch for epoch, _ in refinement), default=0)
    offset = last_epoch + 1 - first if last_epoch >= 0 else 0
    parts = [
        curve.training,
        curve.validation,
        tuple(LossValue(epoch + offset, value) for epoch, value in refinement),
    ]
    joined: list[LossValue] = []
    for part in parts:
        if joined and part:
            joined.append(LossValue(joined[-1].epoch, float('nan')))
        joined.extend(part)
    return joined


def make_product(
    given: Product, folder: Path, losses: list[LossValue], config: ReconstructionConfig
) -> Product:
    """Returns the given product with the reconstructed object in place of its own.

    Object grid, pixel size and centre stay; so do positions and probe, unless the options that
    refine them were on.

    Args:
        given: The product that was handed to the reconstructor.
        folder: Where the worker has left its arrays.
        losses: To be plotted.
        config: Which of positions and probe were refined.

    Raises:
        ValueError: the worker's object lies on another grid.
    """
    array = numpy.load(folder / 'result_object_.npy', allow_pickle=False)
    grid = grid_of_product(given)
    if array.shape != grid.shape:
        raise ValueError(
            f'The engine returned an object of {array.shape} pixels for one of {grid.shape}.'
        )
    product = replace(
        given,
        object_=grid.make_object(array.astype(given.object_.dtype, copy=False)),
        losses=losses,
    )
    if config.update_positions:
        positions_px = numpy.load(folder / 'result_positions_px.npy', allow_pickle=False)
        indexes, photons = zip(
            *((old.index, old.probe_photon_count) for old in given.probe_positions)
        )
        moved = grid.make_positions(positions_px, indexes, photons)
        product = replace(product, probe_positions=moved)
    if config.update_probe:
        probe = numpy.load(folder / 'result_probe.npy', allow_pickle=False)
        product = replace(product, probes=_replace_probe(given.probes, probe))
    return product


def _replace_probe(given: ProbeSequence, probe: NDArray[Any]) -> ProbeSequence:
    """Returns the refined modes; those of orthogonal probe relaxation stay when they still fit."""
    array = given.get_array()
    if array.shape[1:] == probe.shape:
        array = array.copy()
        array[0] = probe
        weights = given.get_opr_weights_or_none()
        return ProbeSequence(array, weights, given.get_pixel_geometry())
    return ProbeSequence(probe[numpy.newaxis], None, given.get_pixel_geometry())
