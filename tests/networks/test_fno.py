"""The Fourier operator: start, every parameter used, spectral layers, training, images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch.backend import ReconstructRequest, TrainRequest, ignore_report
from ptychodus_pinn_torch.config import Config, FnoConfig, override_config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.networks.fno import FnoNetwork
from ptychodus_pinn_torch.networks.fourier import FactorisedSpectralConv, SpectralConv
from ptychodus_pinn_torch.physics import losses
from ptychodus_pinn_torch.physics.forward_model import predict
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.training.batches import make_batch
from ptychodus_pinn_torch.training.plans import Task
from ptychodus_pinn_torch.training.run import train


def make_network(**options: Any) -> FnoNetwork:
    torch.manual_seed(0)
    sizes = {'pattern_size': 32, 'operator_width': 6, 'num_modes': 5, 'num_blocks': 2}
    return FnoNetwork(FnoConfig(**{**sizes, **options}))


def make_groups(scan: Scan, num_groups: int, size: int) -> Any:
    indices = numpy.arange(num_groups * size).reshape(num_groups, size)
    return make_batch(measure_scan(scan), Task(0, indices))


@pytest.mark.parametrize('head', ['amplitude_phase', 'real_imaginary'])
def test_it_starts_at_the_flat_object_whatever_it_sees(tiny_scan: Scan, head: str) -> None:
    batch = make_groups(tiny_scan, 2, 1)
    canvas = make_network(head=head)(batch)
    level = batch.measurement.level()
    for group in range(2):
        seen = canvas.object_[group][canvas.coverage[group] > 1e-3 * canvas.coverage[group].max()]
        assert torch.allclose(seen, torch.full_like(seen, level[group].item()), rtol=1e-4)


@pytest.mark.parametrize('num_channels', [1, 4])
def test_every_parameter_learns(tiny_scan: Scan, num_channels: int) -> None:
    network = make_network(num_channels=num_channels).train()
    torch.nn.init.normal_(network.body.output.weight, std=0.05)
    batch = make_groups(tiny_scan, 2, num_channels)
    chunk = batch.measurement.chunk(torch.arange(batch.measurement.num_patterns))
    loss = losses.amplitude_loss(predict(network(batch).object_, chunk), chunk.counts)
    loss.backward()  # type: ignore[no-untyped-call]
    idle = [n for n, p in network.named_parameters() if not float(p.grad.abs().sum()) > 0]
    assert not idle
    early = {id(parameter) for parameter in network.early_parameters()}
    assert 0 < len(early) < len(list(network.parameters()))


def test_a_spectral_layer_is_a_convolution_of_low_frequencies() -> None:
    """A shifted input gives a shifted output, and what is beyond the modes is gone."""
    torch.manual_seed(1)
    x = torch.randn(2, 3, 24, 20)
    for layer in (SpectralConv(3, 4, has_negative_rows=True), FactorisedSpectralConv(3, 4)):
        moved = layer(torch.roll(x, (5, 2), (-2, -1)))
        assert torch.allclose(moved, torch.roll(layer(x), (5, 2), (-2, -1)), atol=1e-5)
    spectrum = torch.fft.rfft2(SpectralConv(3, 4, has_negative_rows=True)(x))
    assert float(spectrum[:, :, :, 5:].abs().max()) < 1e-4
    assert float(spectrum[:, :, 5:-5].abs().max()) < 1e-4
    assert float(spectrum[:, :, -3:-1, 1:3].abs().min()) > 1e-3, 'rows have negative frequencies'


def test_more_modes_than_a_pattern_has_are_one_sentence() -> None:
    with pytest.raises(ValueError, match='num_modes = 17: patterns of 32 px have 16 at most'):
        make_network(num_modes=17)


def test_it_trains_from_counts_alone_and_comes_back_from_its_archive(tmp_path: Path) -> None:
    scan = simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, photons=1e6, seed=2)
    )
    options = {
        'network.kind': 'fno',
        'network.operator_width': 12,
        'network.num_modes': 12,
        'training.start': 'none',
        'training.max_steps': 200,
        'execution.num_threads': 1,
        'execution.logger': 'none',
    }
    config = override_config(Config(), options)
    path = train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore_report)
    found = {}
    for start in ('network', 'flat'):
        alone = {'reconstruction.refine_epochs': 0, 'reconstruction.start': start}
        alone['reconstruction.guard'] = False
        request = ReconstructRequest(scan, override_config(Config(), alone), path)
        image = reconstruct(request, ignore_report).object_
        assert scan.truth is not None
        found[start] = compare_objects(image, scan.truth, weights=coverage_mask(scan)).nrmse
    assert found['network'] < 0.8 * found['flat']
