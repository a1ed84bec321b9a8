"""The procedure of a reconstruction: from a scan to its image, the same for every engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from ..backend import Backend, Reconstruction, ReconstructRequest, Report, get_backend
from ..config import Config
from ..models.archive import Archive, shipped_model
from ..models.opening import open_model
from ..networks.contract import Network
from ..physics.devices import choose_device, set_threads
from ..physics.measured_scan import MeasuredScan, ScanCounts, measure_scan
from ..physics.memory import ChunkLimit
from ..physics.shifted_probes import ShiftedProbes
from ..physics.team import ALONE, Team
from ..scan.io.build import ESTIMATED
from ..scan.probe_mask import mask_probe
from ..scan.scan import Scan, fingerprint
from ..scan.triage import examine_frames
from ..solver.state import tilted_phase
from ..solver.tiles import is_wide
from .centring import centre_beam
from .defocus import with_found_defocus
from .making import ImageMaking
from .near_field import describe_near_field
from .placing import place_on_grid
from .refined import Refined
from .run_log import RunLog
from .starts import with_separate_modes, with_variation_that_helps
from .trust import judge_image

__all__ = ['LoadedModel', 'load_model', 'reconstruct']

CPU_CHUNK_BYTES, DEVICE_CHUNK_BYTES = 3 * 2**20, 2**30
"""Of a chunk of patterns: what a thread's cache holds, and what keeps an accelerator busy."""

KEPT_BYTES = 2**28
"""Memory that the counts of all patterns may take, and their shifted probes, to be made once."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its network on the device, for any number of scans."""

    archive: Archive
    network: Network


def load_model(path: Path | None, config: Config, backend: str) -> LoadedModel:
    """Returns the model of an archive, by default the shipped one, for a backend.

    Raises:
        ArchiveError: it cannot be used, or not by that backend.
    """
    archive = open_model(path or shipped_model())
    return LoadedModel(archive, get_backend(backend).load_network(archive, config))


def reconstruct(
    request: ReconstructRequest,
    report: Report,
    model: LoadedModel | None = None,
    team: Team = ALONE,
) -> Reconstruction:
    """Returns the image of a scan on the grid of its object.

    Args:
        request: What is wanted.
        report: Takes progress.
        model: That of the request, where it is loaded already.
        team: Processes that share the work; each of them gets the image.

    Raises:
        ValueError: a scan without patterns, or a model that does not fit it.
        KeyboardInterrupt: raised by `report` to stop.
    """
    scan, config = request.scan, request.config
    if scan.num_patterns == 0:
        raise ValueError(f'{scan.name}: has no patterns: there is nothing to reconstruct.')
    backend = get_backend(request.backend)
    log = RunLog(report, budget_s=config.reconstruction.time_budget_s or math.inf, team=team)
    with log.phase('load'):
        set_threads(int(team.agree(float(set_threads(config.execution.num_threads)))))
        device = choose_device(config.execution.accelerator)
        network = None
        if config.reconstruction.start == 'network':
            model = model or load_model(request.model, config, request.backend)
            scan = _with_trained_probe(scan, model.archive, log)
            network = model.network
        scan = mask_probe(scan, config.physics.probe_mask_px)
        for finding in scan.findings:
            if finding.level == 'warning':
                log.say(f'{scan.name}: {finding.message}')
        triage = examine_frames(scan)
        if triage.sentence():
            log.say(f'{scan.name}: {triage.sentence()}')
        scan = with_found_defocus(scan, log.say, triage)
        # a probe that was given is that of somebody who knows
        if ESTIMATED in scan.metadata and (sentence := describe_near_field(scan, triage)):
            log.say(f'{scan.name}: {sentence}')
        measured = measure_scan(
            scan,
            triage=triage,
            device=device,
            num_probe_modes=config.physics.num_probe_modes,
            chunk_bytes=_chunk_bytes(config, device),
        )
    is_shared = team.size > 1 and is_wide(measured.measurement)
    if team.size > 1 and not is_shared:  # waiting for each other would take longer
        log.say(
            f'{scan.name}: is too small to be shared: each of {team.size} processes makes all of it.'
        )
    measurement = replace(
        measured.measurement, limit=ChunkLimit(log.say), team=team if is_shared else ALONE
    )
    measured = with_separate_modes(replace(measured, measurement=measurement), config, log)
    measured = with_variation_that_helps(measured, config, log)
    if config.reconstruction.start != 'object':  # which has a ramp of its own
        measured = centre_beam(measured, log)
    measured = _with_what_is_kept(measured)
    with torch.inference_mode():
        refined = ImageMaking(measured, network, config, log).run()
    result = _finish(refined, measured, config, log, backend)
    log.close()
    return result


def _with_trained_probe(scan: Scan, archive: Archive, log: RunLog) -> Scan:
    """Returns the scan with the probe that training has found for these very counts, if any.

    A probe that varies over the scan is left as it is: training finds the mean one.
    """
    if scan.probe_variation is not None:
        return scan
    own = None
    for index, known in enumerate(archive.details.get('fingerprints', ())):
        array = archive.weights.get(f'probe.{index}')
        own = own or fingerprint(scan)
        if array is None or known != own:
            continue
        if array.shape[1:-1] != scan.pattern_shape:
            log.say(
                f'{scan.name}: the probe that training has adjusted has another size: left out.'
            )
            continue
        log.say(
            f'{scan.name}: the probe that training has adjusted is used, {len(array)} of '
            f'{len(scan.probe)} modes.'
        )
        parts = numpy.asarray(array, dtype=numpy.float32)
        probe = (parts[..., 0] + 1j * parts[..., 1]).astype(numpy.complex64)
        metadata = {**scan.metadata}
        metadata.pop(ESTIMATED, None)
        return replace(scan, probe=probe, metadata=metadata)
    return scan


def _with_what_is_kept(measured: MeasuredScan) -> MeasuredScan:
    """Returns the scan with counts that are read, and shifted probes that are made, only once.

    Unless they are many.
    """
    measurement = measured.measurement
    kept = ShiftedProbes.within(KEPT_BYTES, measurement.probe, measurement.shifts)
    counts = measurement.counts
    counts = counts.kept(KEPT_BYTES) if isinstance(counts, ScanCounts) else counts
    return replace(measured, measurement=replace(measurement, shifted=kept, counts=counts))


def _chunk_bytes(config: Config, device: torch.device) -> int:
    budget = config.reconstruction.memory_MB * 2**20
    # exit waves, far fields and differences of a chunk live at the same time
    is_on_host = device.type == 'cpu'  # where every thread has a cache
    limit = CPU_CHUNK_BYTES * torch.get_num_threads() if is_on_host else DEVICE_CHUNK_BYTES
    return max(2**20, min(budget // 8, limit))


def _finish(
    refined: Refined, measured: MeasuredScan, config: Config, log: RunLog, backend: Backend
) -> Reconstruction:
    with log.phase('place'):
        state, scan, measurement = refined.state, measured.scan, measured.measurement
        coverage = state.seen(measurement).coverage()[0]
        tilt = torch.tensor(measured.tilt, device=measurement.device)
        canvas = state.canvas[0].detach() * tilted_phase(tilt, measurement.canvas_shape[1:])
        object_, covered = place_on_grid(
            canvas.cpu().numpy(),
            (coverage / coverage.max()).cpu().numpy(),
            measured.origin,
            scan.object_,
        )
        positions_px = scan.positions_px.copy()
        positions_px[measured.frames] += state.moves(measurement).cpu().numpy()
        probe: NDArray[Any] = scan.probe  # as it came: modes that were left out are still there
        variation = scan.probe_variation
        if refined.freed.probe:
            modes = state.probe.detach() * tilted_phase(-tilt, measurement.window)
            probe = modes.cpu().numpy() / measured.calibration
            variation = measured.variation_of_scan(state.variation)
    with log.phase('judge'):
        trust = judge_image(refined, measured, log)
    return Reconstruction(
        object_=object_,
        positions_px=positions_px,
        probe=probe.astype(numpy.complex64),
        losses=tuple(refined.losses),
        coverage=covered,
        seconds=log.seconds,
        start=refined.start,
        held_out=refined.held_out,
        messages=tuple(log.messages),
        backend=backend.name,
        freed=refined.freed.names(),
        trust=trust,
        probe_variation=variation,
    )
