"""The convolutional network: start, sizes, every parameter used, stitching, training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch.config import CnnConfig, Config, override_config
from ptychodus_pinn_torch.networks.cnn import CnnNetwork, num_levels
from ptychodus_pinn_torch.networks.patchwise import find_stacks
from ptychodus_pinn_torch.networks.stack_network import AMPLITUDES
from ptychodus_pinn_torch.networks.stitching import PatchStack, phase_factors
from ptychodus_pinn_torch.physics import losses
from ptychodus_pinn_torch.physics.canvas import take_patches
from ptychodus_pinn_torch.physics.forward_model import predict
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.probe import support_box
from ptychodus_pinn_torch.physics.propagation import intensity
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.training.batches import make_batch
from ptychodus_pinn_torch.training.plans import Task, plan_epoch


def make_network(size: int = 32, **options: Any) -> CnnNetwork:
    torch.manual_seed(0)
    options = {'first_width': 8, **options}
    return CnnNetwork(CnnConfig(kind='cnn', pattern_size=size, **options))


def wake(network: CnnNetwork) -> CnnNetwork:
    """Gives the last layers weights, so that the network says something."""
    heads = network.head, network.outer_head, network.second_head, network.second_outer_head
    for head in heads:
        if head is not None:
            torch.nn.init.normal_(head.weight, std=0.05)
    return network.eval()


def make_groups(scan: Scan, num_groups: int, size: int) -> Any:
    measured = measure_scan(scan)
    indices = numpy.arange(num_groups * size).reshape(num_groups, size) % scan.num_patterns
    return make_batch(measured, Task(0, indices))


def predict_all(canvas: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns expected and measured counts of all patterns of a batch."""
    chunk = batch.measurement.chunk(torch.arange(batch.measurement.num_patterns))
    return predict(canvas.object_, chunk), chunk.counts


@pytest.mark.parametrize('size', [32, 48, 64, 96, 100, 128, 256])
def test_any_pattern_size_gives_patches_of_that_size(size: int) -> None:
    network = make_network(size, first_width=4)
    counts = torch.rand(2, 1, size, size) * 10
    patches = network.map_stacks(counts, counts.sum(dim=(-2, -1)), None)
    assert patches.shape == (2, 1, size, size)
    assert size // network.stem // 2 ** num_levels(size // network.stem) < 16 or size == 100


@pytest.mark.parametrize(
    'options',
    [
        {'head': 'real_imaginary'},
        {'has_shared_decoder': False},
        *({'amplitude': name} for name in AMPLITUDES),
    ],
    ids=str,
)
def test_it_starts_at_the_flat_object(tiny_scan: Scan, options: dict[str, Any]) -> None:
    batch = make_groups(tiny_scan, 3, 1)
    canvas = make_network(**options)(batch)
    for group in range(3):
        power = intensity(batch.measurement.probe).sum()
        level = torch.sqrt(batch.measurement.counts[group].sum() / power)
        seen = canvas.object_[group][canvas.coverage[group] > 1e-3 * canvas.coverage[group].max()]
        assert torch.allclose(seen, torch.full_like(seen, level.item()), rtol=1e-4)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'attention': 'cbam'},
        {'attention': 'eca'},
        {'attention': 'spatial'},
        {'has_outer_branch': True},
        {'has_skips': False},
        {'head': 'real_imaginary', 'stem': 2},
        {'num_channels': 4},
        {'has_norm': True},
        {'bottleneck_attention': True},
        {'has_shared_decoder': False, 'has_outer_branch': True},
        *({'amplitude': name} for name in AMPLITUDES),
    ],
    ids=str,
)
def test_every_parameter_learns(tiny_scan: Scan, options: dict[str, Any]) -> None:
    network = wake(make_network(**options)).train()
    batch = make_groups(tiny_scan, 2, network.num_channels)
    canvas = network(batch)
    losses.poisson_loss(*predict_all(canvas, batch)).backward()  # type: ignore[no-untyped-call]
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.abs().sum() > 0)
    ]
    assert not idle


def test_held_out_patterns_are_not_looked_at(tiny_scan: Scan) -> None:
    network = wake(make_network())
    batch = make_groups(tiny_scan, 1, 6)
    held_out = torch.tensor([True, False, False, False, False, False])
    batch = replace(batch, held_out=held_out)
    counts = torch.where(held_out[:, None, None], 7.0, batch.measurement.counts)
    other = replace(batch, measurement=replace(batch.measurement, counts=counts))
    assert torch.equal(network(batch).object_, network(other).object_)


@pytest.mark.parametrize('channels', [1, 4])
def test_result_does_not_depend_on_the_size_of_chunks(tiny_scan: Scan, channels: int) -> None:
    network = wake(make_network(num_channels=channels))
    found = []
    for chunk_bytes in (1, 2**18, 2**26):
        measurement = measure_scan(tiny_scan, chunk_bytes=chunk_bytes).measurement
        with torch.inference_mode():
            found.append(network.reconstruct(measurement).object_)
    for other in found[1:]:
        assert float((other - found[0]).abs().max()) < 1e-5


def test_dose_and_probe_power_do_not_matter(tiny_scan: Scan) -> None:
    network = wake(make_network())
    batch = make_groups(tiny_scan, 1, 4)
    given = batch.measurement
    brighter = replace(given, counts=100.0 * given.counts, probe=10.0 * given.probe)
    bright = replace(batch, measurement=brighter)
    with torch.inference_mode():
        difference = network(bright).object_ - network(batch).object_
    assert float(difference.abs().max()) < 1e-3


def test_wrong_pattern_size_is_one_sentence(tiny_scan: Scan) -> None:
    with pytest.raises(ValueError, match='made for patterns of 64 px, the scan has 32 x 32 px'):
        make_network(64)(make_groups(tiny_scan, 1, 1))


def test_stem_must_divide_the_pattern() -> None:
    with pytest.raises(ValueError, match='stem = 4 does not divide patterns of 50 px'):
        make_network(50, stem=4)


def random_patches(number: int = 60) -> tuple[Any, Any, Any]:
    rng = numpy.random.default_rng(3)
    y, x = numpy.mgrid[:80, :90] / 10.0
    object_ = (1.0 + 0.3 * numpy.sin(y)) * numpy.exp(1j * numpy.cos(x + 0.3 * y))
    corners = numpy.stack([rng.integers(0, 48, number), rng.integers(0, 58, number)], axis=1)
    canvas = torch.from_numpy(object_.astype(numpy.complex64))[None]
    rows = torch.zeros(number, dtype=torch.int64)
    return canvas, take_patches(canvas, rows, torch.from_numpy(corners), (32, 32)), corners


def test_phase_synchronisation_undoes_random_phases() -> None:
    _, patches, corners = random_patches()
    phases = numpy.exp(2j * numpy.pi * numpy.random.default_rng(4).random(len(corners)))
    factors = phase_factors(patches.numpy() * phases[:, None, None], corners)
    left = factors * phases
    assert numpy.abs(left - left[0]).max() < 1e-4


def test_stitch_recovers_the_object_on_the_covered_area() -> None:
    canvas, patches, corners = random_patches()
    phases = torch.polar(torch.ones(60), 6.0 * torch.rand(60))
    weights = torch.outer(torch.hann_window(34)[1:-1], torch.hann_window(34)[1:-1]).expand(
        60, -1, -1
    )
    for max_bytes, tolerance in ((2**30, 1e-4), (30 * 32 * 32 * 8, 4e-3), (0, 4e-3)):
        stack = PatchStack((slice(0, 32), slice(0, 32)), max_bytes=max_bytes)
        stack.add(patches[:20] * phases[:20, None, None], weights[:20], torch.tensor(corners[:20]))
        stack.add(patches[20:] * phases[20:, None, None], weights[20:], torch.tensor(corners[20:]))
        found = stack.put((1, 80, 90))
        coverage = torch.zeros(80, 90)
        for (top, left), weight in zip(corners.tolist(), weights):
            coverage[top : top + 32, left : left + 32] += weight
        seen = coverage > 0.1
        ratio = (found[0] / coverage.clamp(min=1e-9) / canvas[0])[seen]
        assert float((ratio - ratio.mean()).abs().max()) < tolerance
        assert abs(float(ratio.mean().abs()) - 1.0) < 1e-3


def test_separate_islands_and_single_patches_keep_a_phase() -> None:
    _, patches, corners = random_patches(12)
    corners = corners + numpy.repeat([[0, 0], [500, 0], [0, 900]], 4, axis=0)
    factors = phase_factors(patches.numpy(), corners)
    assert numpy.allclose(numpy.abs(factors), 1.0, atol=1e-5)
    single = phase_factors(patches.numpy()[:1], corners[:1])
    assert single.tolist() == [1.0]


def test_support_box_holds_the_probe() -> None:
    y, x = numpy.mgrid[:64, :64] - 31.5
    power = numpy.exp(-(y**2 + x**2) / 50.0)
    box = support_box(power)
    side = box[0].stop - box[0].start
    assert side % 8 == 0 and side < 64
    assert power[box].sum() >= 0.999 * power.sum()
    assert support_box(numpy.ones((64, 64))) == (slice(0, 64), slice(0, 64))


def test_stacks_of_four_hold_every_pattern_in_order() -> None:
    rng = numpy.random.default_rng(0)
    corners = torch.from_numpy(rng.integers(0, 60, (37, 2)))
    rows = torch.from_numpy(numpy.repeat([0, 1], [20, 17]))
    stacks = find_stacks(rows, corners, 4)
    assert set(stacks.reshape(-1).tolist()) == set(range(37))
    for stack in stacks:
        assert len(set(rows[stack].tolist())) == 1
        top, bottom = corners[stack[:2]], corners[stack[2:]]
        assert int(top[:, 0].max()) <= int(bottom[:, 0].min())
        assert top[0, 1] <= top[1, 1] and bottom[0, 1] <= bottom[1, 1]


@pytest.mark.slow
def test_training_on_measured_patterns_leaves_the_flat_object(small_real_scan: Scan) -> None:
    torch.manual_seed(0)
    measured = measure_scan(small_real_scan)
    config = override_config(
        Config(),
        {
            'network.kind': 'cnn',
            'network.pattern_size': 128,
            'network.first_width': 8,
            'training.batch_size': 8,
        },
    )
    network = CnnNetwork(config.network).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    values = []
    for task in [task for epoch in range(5) for task in plan_epoch([measured], config, epoch)]:
        batch = make_batch(measured, task)
        counts = predict_all(network(batch), batch)
        loss = losses.poisson_loss(*counts, batch.measurement.good_pixels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(float(loss.detach()))
    assert numpy.mean(values[-5:]) < 0.6 * values[0]
