"""Devices: everything is where it has to be, and nobody waits for them within a loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fake_device import DEVICE, Watch, watched_device

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.config import CnnConfig, Config, UnrolledConfig
from ptychodus_pinn_torch.networks.unrolled import UnrolledNetwork
from ptychodus_pinn_torch.physics import measured_scan
from ptychodus_pinn_torch.physics.devices import set_threads
from ptychodus_pinn_torch.physics.group_batch import GroupBatch
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.physics.noise import root_noise
from ptychodus_pinn_torch.reconstruction.misfit import misfit, misfit_map
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.solver.momentum import Momentum
from ptychodus_pinn_torch.solver.rpie import RpieSettings, rpie_epoch
from ptychodus_pinn_torch.solver.state import Freed, SolverState
from ptychodus_pinn_torch.training.module import PtychoPINN
from ptychodus_pinn_torch.training.synthetic import random_batch

CHUNK = 10
NETWORK = UnrolledConfig(num_stages=2, width=4, num_subsets=3)
CNN = CnnConfig(pattern_size=32, num_channels=1, first_width=8)


@pytest.fixture(params=[False, True], ids=['all pixels good', 'bad pixels'])
def scan(request: pytest.FixtureRequest, tiny_scan: Scan) -> Scan:
    good = tiny_scan.good_pixels.copy()
    good[3, 4] = not request.param
    return replace(tiny_scan, good_pixels=good)


@pytest.fixture
def has_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Decides whether the patterns of a scan fit on the device."""

    def decide(fits: bool) -> None:
        monkeypatch.setattr(measured_scan, '_has_room', lambda device, num_bytes: fits)

    decide(True)
    return decide


def on_device(scan: Scan) -> Measurement:
    return replace(measure_scan(scan, device=DEVICE).measurement, chunk_size=CHUNK)


def network_on_device() -> UnrolledNetwork:
    with torch.device(DEVICE):
        return UnrolledNetwork(NETWORK).eval()


@pytest.mark.parametrize('fits', [True, False], ids=['resident', 'streamed'])
def test_a_reconstruction_does_not_wait_for_the_device(
    scan: Scan, has_room: Callable[[bool], None], fits: bool
) -> None:
    has_room(fits)
    with watched_device() as watch, torch.no_grad():
        network, measurement = network_on_device(), on_device(scan)
        watch.waits.clear()
        canvas = network.reconstruct(measurement)
    assert canvas.object_.device.type == canvas.coverage.device.type == DEVICE.type
    assert (watch.waits, watch.wide, watch.atomic) == ([], [], [])


def test_a_scan_that_fits_is_uploaded_once(scan: Scan, has_room: Callable[[bool], None]) -> None:
    def num_uploaded(watch: Watch) -> int:
        window = (torch.uint16, *scan.pattern_shape)
        return sum(shape[0] for kind, shape in watch.uploads if (kind, *shape[1:]) == window)

    def twice(fits: bool) -> int:
        has_room(fits)
        with watched_device() as watch, torch.no_grad():
            measurement = on_device(scan)
            state = SolverState.start(measurement.flat(), measurement)
            for _ in range(2):
                misfit(state, measurement)
        return num_uploaded(watch)

    assert twice(True) == scan.num_patterns
    assert twice(False) == 2 * scan.num_patterns


def test_a_map_of_the_misfit_reads_no_counts_and_does_not_wait_for_the_device(
    scan: Scan, has_room: Callable[[bool], None]
) -> None:
    has_room(False)
    with watched_device() as watch, torch.no_grad():
        measurement = on_device(scan)
        state = SolverState.start(measurement.flat(), measurement)
        ratios = misfit(state, measurement).ratios
        watch.waits.clear()
        watch.uploads.clear()
        found = misfit_map(state, measurement, ratios)
    assert found.device.type == DEVICE.type and found.shape == measurement.canvas_shape[1:]
    assert (watch.waits, watch.wide, watch.atomic) == ([], [], [])
    assert not any(shape[1:] == scan.pattern_shape for _, shape in watch.uploads)


@pytest.mark.parametrize('kind', ['amplitude', 'poisson'])
@pytest.mark.parametrize('network', [NETWORK, CNN], ids=['unrolled', 'cnn'])
def test_a_training_step_does_not_wait_for_the_device(
    network: UnrolledConfig | CnnConfig, kind: str
) -> None:
    batch = random_batch(5, num_groups=2, num_patterns=12, pattern_size=32, canvas_size=64)
    held_out = torch.arange(24) % 12 == 3
    probe = batch.measurement.probe[0]
    batch = replace(batch, scan=0, object_=None, held_out=held_out)
    config = Config.model_validate(
        {
            'network': network.model_dump(),
            'loss': {'kind': kind, 'deep_supervision': 0.3, 'tv_phase': 0.1, 'tv_amplitude': 0.1},
            'physics': {'train_probe': True, 'train_scale': True},
        }
    )
    with watched_device() as watch:
        module, moved = module_on_device(config, probe, batch)
        [optimizer], _ = module.configure_optimizers()
        watch.waits.clear()
        for step in range(2):
            loss = module.training_step(moved, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        assert watch.waits == []
        if network is NETWORK:  # patches are put together on the host, unless they are trained
            module.eval().validation_step(moved, 0)
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert (watch.waits, watch.wide, watch.atomic) == ([], [], [])


def module_on_device(
    config: Config, probe: torch.Tensor, batch: GroupBatch
) -> tuple[PtychoPINN, GroupBatch]:
    there = probe.to(DEVICE)
    with torch.device(DEVICE):
        module = PtychoPINN(config, [there])
    return module, module.transfer_batch_to_device(batch, DEVICE, 0)


def parts(measured: Measurement) -> tuple[torch.Tensor, ...]:
    return torch.arange(measured.num_patterns).flip(0).split(8)


def test_an_rpie_epoch_waits_for_the_device_only_at_its_end(
    scan: Scan, has_room: Callable[[bool], None]
) -> None:
    settings = RpieSettings(freed=Freed(probe=True, positions=True))
    with watched_device() as watch, torch.no_grad():
        measurement = on_device(scan)
        state = SolverState.start(measurement.flat(), measurement)
        watch.waits.clear()
        waited: list[int] = []
        batches = parts(measurement)
        rpie_epoch(
            state, measurement, batches, settings, lambda done: waited.append(len(watch.waits))
        )
    assert waited == [0] * len(batches)
    assert watch.waits == 2 * ['aten::_to_copy']  # the windows follow; the error
    assert watch.wide == watch.atomic == []


def test_an_epoch_on_tiles_waits_for_the_device_only_at_its_end(
    has_room: Callable[[bool], None],
) -> None:
    wide = pinn.simulate(num_positions=400, pattern_size=32, step_px=8.0)
    freed = Freed(probe=True, positions=True, factors=True, background=True)
    with watched_device() as watch, torch.no_grad():
        measurement = on_device(wide)
        state = SolverState.start(measurement.flat(), measurement)
        waited: list[int] = []
        batches, momentum = torch.arange(400).split(8), Momentum(state)
        root_noise(state.shifts)  # whose table is handed over once
        watch.waits.clear()

        def note(done: int) -> None:
            waited.append(len(watch.waits))

        rpie_epoch(state, measurement, batches, RpieSettings(freed=freed), note, momentum)
    assert len(waited) > len(batches)  # every tile has a smaller last batch
    assert set(waited) == {0}
    assert watch.waits == 2 * ['aten::_to_copy']  # the windows follow; the error
    assert watch.wide == watch.atomic == []


def test_the_watch_sees_waiting_and_wide_numbers() -> None:
    with watched_device() as watch:
        values = torch.ones(3).to(DEVICE, non_blocking=True)
        assert watch.waits == []
        float(values.sum())
        values.cpu()
        values.double()
        values.index_add_(0, torch.zeros(3, dtype=torch.int64, device=DEVICE), values)
        with pytest.raises(AssertionError, match='between two devices'):
            values + torch.ones(3)
    assert watch.waits == ['aten::_local_scalar_dense', 'aten::_to_copy']
    assert watch.wide == ['aten::_to_copy']
    assert watch.atomic == ['aten::index_add_']
    assert watch.uploads == [(torch.float32, (3,))]


@pytest.mark.parametrize(
    ('asked', 'cores', 'load', 'variable', 'threads'),
    [
        (0, 8, 0.1, '', 8),
        (0, 8, 6.2, '', 2),
        (0, 8, 30.0, '', 1),
        (0, 64, 0.0, '', 16),
        (0, 8, 0.0, '3', 3),
        (0, 2, 0.0, '16', 2),  # more than there are idle cores would wait for each other
        (0, 8, 7.0, '4', 1),
        (0, 8, 0.0, 'all', 8),
        (5, 2, 0.0, '1', 5),  # what is asked for outright is done
    ],
)
def test_threads_are_no_more_than_idle_cores(
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
    cores: int,
    load: float,
    variable: str,
    threads: int,
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, 'set_num_threads', taken.append)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(os, 'getloadavg', lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setenv('OMP_NUM_THREADS', variable)
    assert set_threads(asked) == threads and taken == [threads]
