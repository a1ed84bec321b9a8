"""Probe modes that are nearly copies of each other, though the modes of a probe are orthogonal."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ['describe_similar_modes', 'find_similar_modes', 'separate_modes']

TOO_SIMILAR = 0.9
"""Overlap of two modes from which on they are copies: between orthogonal ones it is zero."""

_MOST_SHOWN = 3


def find_similar_modes(probe: NDArray[numpy.complex64]) -> list[tuple[int, int, float]]:
    """Returns which modes are near copies: two numbers, counted from the brightest, and overlap.

    The overlap of two modes is `|sum conj(P) Q| / sqrt(sum |P|**2 sum |Q|**2)`, which a factor
    on one of them, complex or not, does not change. The most similar come first.

    Args:
        probe: Modes (P, H, W) in any order; dark ones are like no other.
    """
    modes = probe.reshape(len(probe), -1).astype(numpy.complex128)
    power = (numpy.abs(modes) ** 2).sum(axis=1)
    order = numpy.argsort(-power, kind='stable')
    modes, power = modes[order], power[order]
    unit = modes / numpy.sqrt(numpy.where(power > 0.0, power, numpy.inf))[:, None]
    overlap = numpy.abs(unit.conj() @ unit.T)
    pairs = zip(*numpy.triu_indices(len(modes), k=1))
    found = [(int(i), int(j), float(overlap[i, j])) for i, j in pairs]
    return sorted((pair for pair in found if pair[2] > TOO_SIMILAR), key=lambda pair: -pair[2])


def describe_similar_modes(probe: NDArray[numpy.complex64]) -> str:
    """Returns a sentence that names near copies among the modes and what to do, or nothing.

    Args:
        probe: Modes (P, H, W) in any order. In the sentence the brightest is mode 1.
    """
    similar = find_similar_modes(probe)
    if not similar:
        return ''
    shown = ', '.join(f'{i + 1} and {j + 1} ({100 * x:.0f} %)' for i, j, x in similar[:_MOST_SHOWN])
    copies = {j for _, j, _ in similar}
    num_first = min(copies)
    remedy = 'give a probe with orthogonal modes'
    if len(copies) == len(probe) - num_first:  # all others are copies
        remedy = f'pass --physics.num-probe-modes {num_first} to reconstruct and train, or {remedy}'
    return (
        f'Of the {len(probe)} probe modes, brightest first, these overlap as copies do: '
        f'{shown}{", ..." if len(similar) > _MOST_SHOWN else ""}, though modes are orthogonal: '
        f'{remedy}.'
    )


def separate_modes(probe: NDArray[numpy.complex64]) -> NDArray[numpy.complex64]:
    """Returns modes (P, H, W) in which copies have given way to what they may have stood for.

    Those that stay are orthogonal to each other. A copy becomes the brightest mode times a
    coordinate, or the square of one, orthogonal to all before it and with the power of the copy:
    as the modes of a partially coherent beam are, and different enough for updates to tell apart.

    Args:
        probe: Modes (P, H, W) in any order; the brightest are first afterwards.
    """
    copies = {j for _, j, _ in find_similar_modes(probe)}
    order = numpy.argsort(-(numpy.abs(probe) ** 2).sum(axis=(1, 2)), kind='stable')
    probe = probe[order]
    power = numpy.abs(probe[0]) ** 2
    axes = numpy.indices(power.shape) - numpy.reshape(ndimage.center_of_mass(power), (2, 1, 1))
    y, x = axes / numpy.sqrt((axes**2 * power).sum() / power.sum())
    shapes = iter((x, y, x * y, x * x - y * y, x * x + y * y))
    found: list[NDArray[numpy.complex128]] = []
    for number, mode in enumerate(probe.astype(numpy.complex128)):
        shape = next(shapes, None) if number in copies else 1.0
        if shape is None:
            continue
        new = (probe[0] if number in copies else mode) * shape
        for other in found:
            new = new - other * numpy.vdot(other, new) / numpy.vdot(other, other)
        length = numpy.linalg.norm(new)
        if length > 0.0:
            found.append(new * numpy.linalg.norm(mode) / length)
    return numpy.stack(found).astype(numpy.complex64)
