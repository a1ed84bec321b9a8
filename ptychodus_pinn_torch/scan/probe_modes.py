"""Probe modes that are nearly copies of each other, though the modes of a probe are orthogonal."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ['add_mode', 'describe_similar_modes', 'find_similar_modes', 'separate_modes']

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
    shapes = iter(_shapes(probe[0]))
    found: list[NDArray[numpy.complex128]] = []
    for number, mode in enumerate(probe.astype(numpy.complex128)):
        shape = next(shapes, None) if number in copies else 1.0
        if shape is None:
            continue
        new = _part_of_its_own((probe[0] if number in copies else mode) * shape, found)
        length = numpy.linalg.norm(new)
        if length > 0.0:
            found.append(new * numpy.linalg.norm(mode) / length)
    return numpy.stack(found).astype(numpy.complex64)


def add_mode(probe: NDArray[numpy.complex64], part: float) -> NDArray[numpy.complex64]:
    """Returns one mode more, (P + 1, H, W), orthogonal to the others, at the end.

    It is the brightest mode times a coordinate, or the square of one: what has least of the modes
    that are there.

    Args:
        probe: Modes (P, H, W) in any order.
        part: Of the power of all modes that the new one takes from them.
    """
    modes = probe.astype(numpy.complex128)
    power = (numpy.abs(modes) ** 2).sum(axis=(1, 2))
    orthogonal: list[NDArray[numpy.complex128]] = []
    for mode in modes:
        own = _part_of_its_own(mode, orthogonal)
        if numpy.linalg.norm(own) > 0.0:
            orthogonal.append(own)
    brightest = modes[power.argmax()]
    tried = [brightest * shape for shape in _shapes(brightest)]
    tried = [_part_of_its_own(mode / numpy.linalg.norm(mode), orthogonal) for mode in tried]
    new = max(tried, key=numpy.linalg.norm)
    new *= numpy.sqrt(part * power.sum()) / numpy.linalg.norm(new)
    return numpy.concatenate([modes * numpy.sqrt(1.0 - part), new[None]]).astype(numpy.complex64)


def _shapes(mode: NDArray[Any]) -> tuple[NDArray[numpy.float64], ...]:
    """Returns the coordinates over a mode (H, W), in units of its width, and their squares."""
    power = numpy.abs(mode) ** 2
    axes = numpy.indices(power.shape) - numpy.reshape(ndimage.center_of_mass(power), (2, 1, 1))
    y, x = axes / numpy.sqrt((axes**2 * power).sum() / power.sum())
    return x, y, x * y, x * x - y * y, x * x + y * y


def _part_of_its_own(
    mode: NDArray[numpy.complex128], others: list[NDArray[numpy.complex128]]
) -> NDArray[numpy.complex128]:
    """Returns what is left of a mode (H, W) without what orthogonal others have of it."""
    for other in others:
        mode = mode - other * numpy.vdot(other, mode) / numpy.vdot(other, other)
    return mode
