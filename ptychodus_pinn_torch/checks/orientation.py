"""Finds out whether flipped or transposed positions explain a scan better than those given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy
import torch

from ..physics.noise import root_noise
from ..reconstruction.defocus import quick_misfit
from ..reconstruction.splitting import take_middle
from ..scan.calibration import calibrate_scan
from ..scan.findings import Finding, found_ok, found_warning
from ..scan.positions import PositionTransform
from ..scan.resampling import crop_scan
from ..scan.scan import Scan
from ..scan.triage import Triage

__all__ = [
    'ORIENTATIONS',
    'OrientationErrors',
    'compare_orientations',
    'describe_orientation',
    'examine_orientation',
]

ORIENTATIONS: dict[str, PositionTransform] = {
    'as given': PositionTransform(),
    'y flipped': PositionTransform(flip_y=True),
    'x flipped': PositionTransform(flip_x=True),
    'y and x flipped': PositionTransform(flip_y=True, flip_x=True),
    'y and x exchanged': PositionTransform(exchange_axes=True),
    'y and x exchanged, then y flipped': PositionTransform(exchange_axes=True, flip_y=True),
    'y and x exchanged, then x flipped': PositionTransform(exchange_axes=True, flip_x=True),
    'y and x exchanged, then both flipped': PositionTransform(True, True, True),
}
"""All orientations that positions on a grid can be mistaken for, by name."""

GAIN = 1.25
"""An orientation is better than another one when its error is that many times smaller."""

ALIKE = 1.1
"""Two orientations explain the counts alike when their errors differ by less than this factor."""

EXPLAINS, BARELY = 2.0, 1.5
"""Error of positions in random order over that of the best orientation, both without photon noise:
from `EXPLAINS` on, the orientation is found; below `BARELY`, none explains the counts."""

_ADVICE = (
    'check the unit and scale of the positions (--scale-positions), the probe, and whether the '
    'frames are in the order of the positions'
)

_NOISE_PART = 0.8
"""The part of photon noise that is left after a fit to a few patterns, at least."""

_NUM_FRAMES = 48
_NUM_MODES = 2
_NUM_EPOCHS = 12
_MAX_SIZE = 128


@dataclass(frozen=True)
class OrientationErrors:
    """Relative amplitude errors after a few physics steps.

    Attributes:
        errors: By orientation; without those that do not change the positions of this scan.
        by_chance: That of the same positions in random order.
        noise: What photon noise alone would make of it.
    """

    errors: dict[str, float]
    by_chance: float
    noise: float

    @property
    def best(self) -> str:
        """The orientation with the least error."""
        return min(self.errors, key=lambda name: self.errors[name])

    @property
    def gain(self) -> float:
        """How many times smaller the least error is than that of the positions as given."""
        return self.errors['as given'] / max(self.errors[self.best], 1e-12)

    @property
    def contrast(self) -> float:
        """The error by chance over the least error, both without photon noise."""
        floor = _NOISE_PART * self.noise
        return (self.by_chance - floor) / max(self.errors[self.best] - floor, 1e-12)

    @property
    def is_told(self) -> bool:
        """Whether wrong positions do worse than right ones, or than photon noise, would."""
        return self.by_chance > GAIN * min(self.noise, self.errors[self.best])


def compare_orientations(scan: Scan) -> OrientationErrors:
    """Returns how well each of the eight orientations of the positions explains the counts.

    Neighbouring patterns in the middle of the scan are reconstructed from a flat object by a few
    epochs of the solver.
    """
    part = scan.select(take_middle(scan.positions_px, _NUM_FRAMES).numpy())
    part = crop_scan(part, _MAX_SIZE) if part.pattern_shape[0] > _MAX_SIZE else part
    part, _ = calibrate_scan(part)
    errors: dict[str, float] = {}
    for name, transform in ORIENTATIONS.items():
        turned = replace(part, positions_px=transform.apply(part.positions_px))
        is_same = numpy.allclose(turned.positions_px, part.positions_px, atol=1e-3)
        if name == 'as given' or not is_same:
            errors[name] = quick_misfit(turned, _NUM_EPOCHS, _NUM_MODES)
    order = numpy.random.default_rng(0).permutation(part.num_patterns)
    by_chance = quick_misfit(
        replace(part, positions_px=part.positions_px[order]), _NUM_EPOCHS, _NUM_MODES
    )
    return OrientationErrors(errors, by_chance, _photon_noise(part))


def _photon_noise(part: Scan) -> float:
    """Returns the relative amplitude error of a perfect image, from the mean of the patterns."""
    mean = numpy.asarray(part.patterns).mean(axis=0, dtype=numpy.float64)[part.good_pixels]
    noise = root_noise(torch.from_numpy(mean.astype(numpy.float32)))
    return float(noise.sum()) / max(float(mean.sum()), 1e-9)


def examine_orientation(scan: Scan, triage: Triage, change: PositionTransform) -> Iterator[Finding]:
    """Yields what is said of the orientation of the positions.

    Args:
        scan: Whose orientation is asked for.
        triage: Which of its frames can be believed.
        change: What was done to the positions of the file when it was read.
    """
    kept = triage.kept(scan.num_patterns)
    if len(kept) < 4:
        return
    middle = take_middle(scan.positions_px[kept], _NUM_FRAMES).numpy()
    result = compare_orientations(triage.take(scan, kept[middle]))
    if len(result.errors) > 1:  # else all positions are one
        yield describe_orientation(result, change)


def describe_orientation(result: OrientationErrors, change: PositionTransform) -> Finding:
    """Returns what is said of the orientation of the positions.

    Args:
        result: Of the positions as they were read, and of others.
        change: What was done to the positions of the file when it was read.
    """
    given, best = result.errors['as given'], result.errors[result.best]
    against = f'{result.by_chance:.4f} in random order, {result.noise:.4f} from photon noise alone'
    now = _name_change(change)
    if not result.is_told:
        return found_ok(
            'orientation',
            f'The counts hardly tell the orientation of the positions (error {given:.4f} {now}, '
            f'{against}): make certain of it with a scan of more overlap or photons.',
        )
    if result.contrast < (BARELY if result.best == 'as given' else EXPLAINS):
        name = now if result.best == 'as given' else f'with {result.best}'
        return found_warning(
            'orientation',
            f'No orientation explains the counts: the best, {name}, leaves an error of '
            f'{best:.4f} ({against}): {_ADVICE}.',
        )
    if result.contrast < EXPLAINS:
        return found_warning(
            'orientation',
            f'The positions explain the counts best {now}, but badly (error {given:.4f}; '
            f'{against}): {_ADVICE}.',
        )
    return _compare_with_given(result, change)


def _name_change(change: PositionTransform) -> str:
    return f'with {change.flags()}' if change.flags() else 'as given'


def _compare_with_given(result: OrientationErrors, change: PositionTransform) -> Finding:
    """Returns what is said where one of the orientations explains the counts."""
    given, best = result.errors['as given'], result.errors[result.best]
    if result.gain > GAIN:
        whole = change.then(ORIENTATIONS[result.best])
        remedy = f'pass {whole.flags()}' if whole.flags() else f'leave out {change.flags()}'
        if whole.flags() and change.flags():
            remedy += f' instead of {change.flags()}'
        return found_warning(
            'orientation',
            f'With {result.best} the positions explain the counts {result.gain:.1f} times better '
            f'(error {best:.4f} against {given:.4f}): {remedy}, or check the axes of scan and '
            'detector.',
        )
    now = _name_change(change)
    others = {name: error for name, error in result.errors.items() if name != 'as given'}
    second = min(others, key=lambda name: others[name])
    if others[second] < ALIKE * given:
        return found_warning(
            'orientation',
            f'The positions explain the counts {now} (error {given:.4f}) and as well with '
            f'{second} ({others[second]:.4f}): the image may be mirrored; check the axes of scan '
            'and detector with a known sample.',
        )
    return found_ok(
        'orientation',
        f'The positions explain the counts best {now} (error {given:.4f}, flipped or '
        f'exchanged at least {others[second]:.4f}).',
    )
