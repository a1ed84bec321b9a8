"""Where the solver starts: the network, a flat object, or the object that came in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Complex, Int
from torch import Tensor

from ..config import Config
from ..networks.contract import Network
from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..scan.probe_modes import describe_similar_modes, find_similar_modes, separate_modes
from ..solver.sketching import sketch, sketch_epochs_of
from ..solver.state import SolverState
from .misfit import misfit
from .run_log import RunLog
from .splitting import sample_patterns, take_middle

__all__ = [
    'Chosen',
    'choose_start',
    'drop_broken_starts',
    'network_start',
    'object_start',
    'sketch_start',
    'with_separate_modes',
    'with_variation_that_helps',
]

VARIATION_PATTERNS, MISLEADING = 256, 1.1
"""Patterns by which weights of a varying probe are judged; error over that of the mean probe, from
which on they are of another scan."""


def network_start(
    network: Network, measurement: Measurement, config: Config, log: RunLog
) -> Complex[Tensor, '1 y x']:
    """Returns the canvas that a network makes; the result does not depend on the chunks."""
    device = measurement.device.type
    is_mixed = config.execution.precision == 'bf16-mixed'

    def run(part: Measurement) -> Tensor:
        counter = log.counter('network', network.num_passes * part.num_patterns)
        size = part.team.size  # the others are as far
        with (
            torch.no_grad(),
            torch.autocast(device, dtype=torch.bfloat16, enabled=is_mixed),
        ):
            return network.reconstruct(
                replace(part, after_chunk=lambda n: counter(size * n))
            ).object_

    with log.phase('network'):
        if measurement.team.size > 1:  # one that began again would not meet the others' sums
            return run(measurement)
        return with_chunks_that_fit(measurement, run)


def with_separate_modes(measured: MeasuredScan, config: Config, log: RunLog) -> MeasuredScan:
    """Returns the scan with modes that can be told apart, where the probe may be adjusted; says so.

    Updates of modes that are copies of each other are the same, and never part them.
    """
    measurement, name = measured.measurement, measured.scan.name
    modes = measurement.probe.cpu().numpy()
    power = (numpy.abs(modes) ** 2).sum(axis=(1, 2))
    if measurement.variation is not None and power.argmax() > 0:
        return measured  # the one that varies must stay first
    if config.reconstruction.update_probe == 'off' or not find_similar_modes(modes):
        return measured
    log.say(
        f'{name}: {describe_similar_modes(modes)} Orthogonal ones take the place of the copies.'
    )
    parted, scan = separate_modes(modes), measured.scan
    kept = numpy.concatenate([parted / measured.calibration, scan.probe[len(modes) :]])
    if measurement.variation is not None:
        kept[0] = scan.probe[0]  # what its weights belong to
    probe = torch.from_numpy(parted).to(measurement.device)
    return replace(
        measured,
        scan=replace(scan, probe=kept.astype(numpy.complex64)),
        measurement=replace(measurement, probe=probe),
    )


def with_variation_that_helps(measured: MeasuredScan, config: Config, log: RunLog) -> MeasuredScan:
    """Returns the scan without variations of the probe that explain less than their mean; says so.

    Nothing in a product says for certain which weight belongs to which pattern: a few epochs of the
    solver in the middle of the scan do.
    """
    measurement = measured.measurement
    if measurement.variation is None or not config.reconstruction.guard:
        return measured
    part, _ = measurement.part(take_middle(measured.positions_px, VARIATION_PATTERNS))
    errors: list[float] = []
    with log.phase('sketch'):
        number = 2 * sketch_epochs_of(part.num_patterns) * part.num_patterns
        counter = log.counter('sketch', number)
        for tried in (part, replace(part, variation=None)):
            for state in sketch(replace(tried, after_chunk=counter)):
                found = state
            errors.append(misfit(found, tried).to_noise)
    if not errors[0] > MISLEADING * errors[1]:
        return measured
    log.say(
        f'{measured.scan.name}: with the weights by which the probe varies over the scan (OPR) the '
        f'counts are explained {errors[0]:.3g} times as badly as photon noise allows, with the mean '
        f'probe {errors[1]:.3g} times: the variations are left out.'
    )
    return replace(measured, measurement=replace(measurement, variation=None))


def sketch_start(
    measurement: Measurement, which: Int[Tensor, ' seen'], log: RunLog
) -> Complex[Tensor, '1 y x']:
    """Returns the canvas that a few epochs of the solver over some patterns make from a flat one."""
    with log.phase('sketch'):
        counter = log.counter('sketch', sketch_epochs_of(len(which)) * len(which))
        for state in sketch(replace(measurement, after_chunk=counter), which=which):
            canvas = state.canvas
        return canvas


def object_start(measured: MeasuredScan) -> Complex[Tensor, '1 y x']:
    """Returns the object that came with the scan on the canvas."""
    measurement = measured.measurement
    window = measured.cut(measured.scan.object_, measurement.canvas_shape[1:])
    return torch.from_numpy(window)[None].to(measurement.device)


def drop_broken_starts(starts: dict[str, Tensor], measured: MeasuredScan, log: RunLog) -> None:
    """Takes out starts (1, Y, X) with pixels that are no numbers, and says so."""
    for name, canvas in list(starts.items()):
        if name != 'flat' and not bool(torch.isfinite(canvas).all()):
            del starts[name]
            log.say(
                f'{measured.scan.name}: the {name} start has pixels that are not finite: it is '
                'left out, and the flat start is used. Examine the model, or the object, and the '
                'probe with ptychodus-pinn check.'
            )


@dataclass(frozen=True)
class Chosen:
    """The start that explains the counts best.

    Attributes:
        name: Of the start.
        to_noise: Its error over that of photon noise.
    """

    name: str
    to_noise: float


def choose_start(
    starts: dict[str, Tensor], measured: MeasuredScan, config: Config, log: RunLog
) -> Chosen:
    """Returns the start that explains the counts best, saying so when it is not the wanted one.

    `starts` are objects (1, Y, X) by name.
    """
    measurement, preferred = measured.measurement, config.reconstruction.start
    sample, misfits = sample_patterns(measurement), {}
    for name, canvas in starts.items():
        state = SolverState.start(canvas, measurement)
        misfits[name] = misfit(state, measurement, sample)
    name = preferred if preferred in starts else 'flat'
    is_worse = misfits[name].relative > misfits['flat'].relative
    if is_worse and config.reconstruction.guard:
        log.say(
            f'{measured.scan.name}: the {name} start explains the counts worse than a flat object '
            f'(relative error {misfits[name].relative:.3g} against '
            f'{misfits["flat"].relative:.3g}): starting from the flat one.'
        )
        name = 'flat'
    return Chosen(name, misfits[name].to_noise)
