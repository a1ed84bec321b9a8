"""Large scans are solved on tiles: the image does not get worse with the size of the scan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.physics.variation import Variation
from ptychodus_pinn_torch.reconstruction.misfit import misfit
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.solver import batch_update
from ptychodus_pinn_torch.solver.momentum import Momentum
from ptychodus_pinn_torch.solver.rpie import RpieSettings, rpie_epoch
from ptychodus_pinn_torch.solver.state import Freed, SolverState
from ptychodus_pinn_torch.solver.tiles import Tiles


@pytest.fixture(scope='module')
def wide_scan() -> Scan:
    return pinn.simulate(
        num_positions=2025, pattern_size=32, step_px=8.0, object_kind='leaves', seed=0
    )


def shuffled(number: int, epoch: int = 0) -> torch.Tensor:
    return torch.from_numpy(numpy.random.default_rng(epoch).permutation(number))


def test_every_pattern_is_in_one_part_and_in_the_box_of_its_tile() -> None:
    window, shape = (16, 24), (1, 400, 300)
    rng = numpy.random.default_rng(0)
    corners = torch.from_numpy(rng.integers(0, (385, 277), size=(500, 2)))
    corners[:4] = torch.tensor([[0, 0], [384, 276], [0, 276], [384, 0]])
    tiles = Tiles.make(500, window, shape[1:])
    assert len(tiles) == 9 * 4
    groups = tiles.parts(shuffled(500), corners)
    met = torch.cat([part.indices for parts in groups for part in parts])
    assert torch.equal(met.sort().values, torch.arange(500))
    assert len(groups) == 4
    for parts in groups:
        touched = numpy.zeros(shape[1:], int)
        for part in parts:
            touched[part.box] += 1
            (y, x), places = part.box, corners[part.indices]
            assert int(places[:, 0].min()) >= y.start and int(places[:, 1].min()) >= x.start
            assert int(places[:, 0].max()) + window[0] <= y.stop <= shape[1]
            assert int(places[:, 1].max()) + window[1] <= x.stop <= shape[2]
        assert touched.max() == 1


@pytest.mark.parametrize(
    ('number', 'shape', 'expected'),
    [
        (50, (1, 64, 64), 1),
        (1024, (1, 198, 198), 1),
        (4096, (1, 326, 326), 9),
        (90, (1, 190, 64), 1),
    ],
)
def test_tiles_have_enough_patterns_and_are_no_smaller_than_a_window(
    number: int, shape: tuple[int, int, int], expected: int
) -> None:
    tiles = Tiles.make(number, (64, 64), shape[1:])
    assert len(tiles) == expected
    for axis, edges in enumerate(tiles.edges):
        ends = [*edges.tolist(), shape[1 + axis] - 63]
        sides = [end - start for start, end in zip(ends, ends[1:])]
        assert len(edges) == 1 or 64 <= min(sides) <= max(sides) < 4 * 64


def test_a_wide_scan_gets_as_good_an_image_as_a_part_of_it(wide_scan: Scan) -> None:
    # the momentum of batches that are spread over all of a large canvas goes too far
    image = pinn.reconstruct(wide_scan)
    places = wide_scan.positions_px - wide_scan.positions_px.mean(axis=0)
    part = wide_scan.select(numpy.flatnonzero(numpy.abs(places).max(axis=1) < 60.0))
    assert 150 < part.num_patterns < 300
    errors = []
    for scan, found in ((wide_scan, image), (part, pinn.reconstruct(part))):
        metrics = pinn.compare_objects(
            found.object_, scan.truth, weights=(found.coverage > 0.3).astype(float)
        )
        errors.append(metrics.nrmse)
    assert errors[0] < 1.25 * errors[1]
    assert not any('finite' in message or 'worse' in message for message in image.messages)


def test_a_probe_that_is_free_is_found_from_all_tiles(wide_scan: Scan) -> None:
    y, x = numpy.mgrid[:32, :32] - 15.5
    bent = wide_scan.probe * numpy.exp(0.03j * (y**2 + x**2))
    measurement = measure_scan(replace(wide_scan, probe=bent.astype(numpy.complex64))).measurement
    assert len(Tiles.of(measurement)) > 9
    given = torch.from_numpy(wide_scan.probe[0])

    def overlap(probe: torch.Tensor) -> float:
        norms = torch.linalg.vector_norm(probe) * torch.linalg.vector_norm(given)
        return float(torch.vdot(probe[0].flatten(), given.flatten()).abs() / norms)

    with torch.inference_mode():
        state = SolverState.start(measurement.flat(), measurement)
        momentum, before = Momentum(state), overlap(state.probe)
        settings = RpieSettings(alpha=1.0, probe_step=1.0, freed=Freed(probe=True))
        for epoch in range(6):
            batches = shuffled(2025, epoch).split(8)
            rpie_epoch(state, measurement, batches, settings, momentum=momentum)
    assert before < 0.9
    assert overlap(state.probe) > 0.98


def varying(measurement: Measurement) -> Measurement:
    rng = numpy.random.default_rng(3)
    mode = measurement.probe[0] * torch.linspace(-0.2, 0.2, measurement.window[1])
    weights = numpy.stack(
        [numpy.ones(measurement.num_patterns), rng.normal(size=len(measurement.rows))]
    )
    return replace(
        measurement, variation=Variation(mode[None], torch.from_numpy(weights.T.astype('float32')))
    )


@pytest.mark.parametrize('has_variation', [False, True])
@pytest.mark.parametrize('is_likely', [False, True])
def test_a_batch_that_does_not_fit_into_memory_is_done_in_parts_and_comes_to_the_same(
    wide_scan: Scan, monkeypatch: pytest.MonkeyPatch, has_variation: bool, is_likely: bool
) -> None:
    freed = Freed(probe=True, positions=True, factors=True, background=True)
    settings = RpieSettings(alpha=1.0, is_likely=is_likely, freed=freed)
    original, said = batch_update.expose, []

    def tight(canvas: Any, chunk: Any) -> Any:
        if len(chunk.indices) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return original(canvas, chunk)

    found = []
    for expose in (original, tight):
        monkeypatch.setattr(batch_update, 'expose', expose)
        measurement = measure_scan(wide_scan.select(numpy.arange(300))).measurement
        measurement.limit.say = said.append
        measurement = varying(measurement) if has_variation else measurement
        state = SolverState.start(measurement.flat(), measurement)
        error = rpie_epoch(state, measurement, shuffled(300).split(8), settings)
        found.append((state, error))
    (whole, expected), (parts, error) = found
    assert said == [f'out of memory: going on with {n} patterns at a time.' for n in (4, 2)]
    assert error == pytest.approx(expected, rel=1e-4)
    for name in ('canvas', 'probe', 'shifts', 'factors', 'background'):
        a, b = getattr(whole, name), getattr(parts, name)
        assert torch.linalg.vector_norm(a - b) < 1e-3 * torch.linalg.vector_norm(a), name
    assert (
        misfit(parts, measurement).relative
        < 0.85 * misfit(SolverState.start(measurement.flat(), measurement), measurement).relative
    )


def test_a_single_pattern_that_does_not_fit_is_an_error(
    wide_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(canvas: Any, chunk: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(batch_update, 'expose', never)
    measurement = measure_scan(wide_scan.select(numpy.arange(60))).measurement
    state = SolverState.start(measurement.flat(), measurement)
    with pytest.raises(MemoryError):
        rpie_epoch(state, measurement, shuffled(60).split(8), RpieSettings())
