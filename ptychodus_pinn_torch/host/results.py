"""What comes back from an engine as a product of Ptychodus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePositionSequence
from ptychodus.api.product import LossValue, Product

from ..scan.io.comments import add_comment
from ..scan.io.products import grid_of_product

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
    refined = tuple(LossValue(epoch + offset, value) for epoch, value in refinement)
    joined: list[LossValue] = []
    for part in (curve.training, curve.validation, refined):
        if joined and part:
            joined.append(LossValue(joined[-1].epoch, float('nan')))
        joined.extend(part)
    return joined


def make_product(
    given: Product, folder: Path, losses: list[LossValue], comment: str = ''
) -> Product:
    """Returns the given product with the reconstructed object in place of its own.

    Object grid, pixel size and centre stay; so do positions and probe, unless the worker has left
    refined ones.

    Args:
        given: The product that was handed to the reconstructor.
        folder: Where the worker has left its arrays.
        losses: To be plotted.
        comment: Sentence for the comments of the product, whose other lines stay.

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
    if comment:
        comments = add_comment(given.metadata.comments, comment)
        product = replace(product, metadata=replace(given.metadata, comments=comments))
    positions, probes = folder / 'result_positions_px.npy', folder / 'result_probe.npy'
    if positions.exists():
        positions_px = numpy.load(positions, allow_pickle=False)
        moved = [
            replace(old, y_m=float(y_m), x_m=float(x_m))
            for old, (y_m, x_m) in zip(given.probe_positions, grid.to_m(positions_px), strict=True)
        ]
        product = replace(product, probe_positions=ProbePositionSequence(moved))
    if probes.exists():
        probe = numpy.load(probes, allow_pickle=False)
        varying = [folder / f'result_variation_{name}.npy' for name in ('modes', 'weights')]
        loaded = [numpy.load(path, allow_pickle=False) for path in varying if path.exists()]
        product = replace(product, probes=_replace_probe(given.probes, probe, *loaded))
    return product


def _replace_probe(
    given: ProbeSequence,
    probe: NDArray[Any],
    variations: NDArray[Any] | None = None,
    weights: NDArray[Any] | None = None,
) -> ProbeSequence:
    """Returns the refined modes; those of orthogonal probe relaxation stay when they still fit.

    Weights go with the probe that they were found with: of a probe that was refined as one for
    all patterns, none are left.

    Args:
        given: What was handed to the reconstructor.
        probe: (P, H, W).
        variations: (V, H, W) of its first mode, where they were refined as well.
        weights: (N, 1 + V) of these.
    """
    array = probe[numpy.newaxis]
    if given.get_array().shape[1:] == probe.shape:
        array = given.get_array().copy()
        array[0] = probe
    elif variations is not None:
        array = numpy.zeros((1 + len(variations), *probe.shape), probe.dtype)
        array[0] = probe
    if variations is not None:
        array[1:, 0] = variations
    return ProbeSequence(array, weights, given.get_pixel_geometry())
