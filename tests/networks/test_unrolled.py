"""The unrolled network: start values, invariances, what it may see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ptychodus_pinn_torch.config import UnrolledConfig
from ptychodus_pinn_torch.networks.blocks import HALO_PX, CanvasUNet
from ptychodus_pinn_torch.networks.unrolled import UnrolledNetwork, subset_numbers
from ptychodus_pinn_torch.physics.group_batch import GroupBatch
from ptychodus_pinn_torch.physics.losses import object_loss
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.training.synthetic import random_batch

CONFIG = UnrolledConfig(num_stages=2, width=4, num_subsets=3)


@pytest.fixture
def network() -> UnrolledNetwork:
    torch.manual_seed(0)
    return UnrolledNetwork(CONFIG)


@pytest.fixture(scope='module')
def batch() -> GroupBatch:
    return random_batch(5, num_groups=2, num_patterns=12, pattern_size=32, canvas_size=64)


def test_the_untrained_network_is_already_better_than_a_flat_object(
    network: UnrolledNetwork, batch: GroupBatch
) -> None:
    canvas = network.eval()(batch)
    assert batch.object_ is not None
    flat = torch.ones_like(canvas.object_) * canvas.object_.abs().mean()
    ours = object_loss(canvas.object_, batch.object_, canvas.coverage)
    assert ours < 0.7 * object_loss(flat, batch.object_, canvas.coverage)


def test_every_parameter_receives_a_gradient(network: UnrolledNetwork, batch: GroupBatch) -> None:
    canvas = network(batch)
    assert batch.object_ is not None
    loss = object_loss(canvas.object_, batch.object_, canvas.coverage)
    loss.backward()
    unused = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert unused == []


def test_held_out_patterns_are_not_looked_at(network: UnrolledNetwork, batch: GroupBatch) -> None:
    held_out = torch.zeros(batch.measurement.num_patterns, dtype=torch.bool)
    held_out[[0, 13]] = True
    spoilt = batch.measurement.counts.clone()
    spoilt[held_out] = 1e6
    other = replace(batch, measurement=replace(batch.measurement, counts=spoilt))
    first = network.eval()(replace(batch, held_out=held_out))
    second = network(replace(other, held_out=held_out))
    assert torch.equal(first.object_, second.object_)


def test_groups_of_a_batch_do_not_touch_each_other(
    network: UnrolledNetwork, batch: GroupBatch
) -> None:
    network.eval()
    both = network(batch).object_
    for row in range(2):
        measurement = batch.measurement
        mine = measurement.rows == row
        alone = replace(
            measurement.select(mine),
            rows=torch.zeros(int(mine.sum()), dtype=torch.int64),
            probe=measurement.probe[row : row + 1],
            canvas_shape=(1, *measurement.canvas_shape[1:]),
        )
        assert torch.allclose(network.reconstruct(alone).object_[0], both[row], atol=1e-5)


def test_the_order_of_patterns_does_not_matter(network: UnrolledNetwork, batch: GroupBatch) -> None:
    order = torch.randperm(
        batch.measurement.num_patterns, generator=torch.Generator().manual_seed(1)
    )
    network.eval()
    assert torch.allclose(
        network.reconstruct(batch.measurement.select(order)).object_,
        network(batch).object_,
        atol=1e-4,
    )


def test_a_stronger_probe_and_a_weaker_object_give_the_same_counts_and_image(
    network: UnrolledNetwork, batch: GroupBatch
) -> None:
    network.eval()
    image = network(batch).object_
    scaled = network(batch.with_probe(2.0 * batch.measurement.probe)).object_
    assert torch.allclose(2.0 * scaled, image, rtol=1e-3, atol=1e-3)


def test_neighbours_are_in_different_subsets_and_subsets_are_even() -> None:
    y, x = torch.meshgrid(torch.arange(6) * 5, torch.arange(6) * 5, indexing='ij')
    corners = torch.stack([y.flatten(), x.flatten()], dim=1)
    numbers = subset_numbers(torch.zeros(36, dtype=torch.int64), corners, 9)
    assert torch.equal(torch.bincount(numbers), torch.full((9,), 4))
    by_place = numbers.reshape(6, 6)
    assert int((by_place[:, 1:] == by_place[:, :-1]).sum()) <= 4


def test_tiles_do_not_show_in_the_result() -> None:
    torch.manual_seed(0)
    network = CanvasUNet(3, 2, 4).eval()
    x = torch.randn(1, 3, 150, 3 * HALO_PX + 70)

    def features(rows: slice, columns: slice) -> torch.Tensor:
        return x[..., rows, columns]

    with torch.inference_mode():
        whole = network(x)

        def use(rows: slice, columns: slice, output: torch.Tensor) -> None:
            assert torch.allclose(output, whole[..., rows, columns], atol=1e-5)
            x[..., rows, columns] = torch.nan  # nobody looks at it any more
            done[rows, columns] += 1

        done = torch.zeros(x.shape[-2:])
        network.forward_tiled(features, (1, *x.shape[-2:]), use, tile=64)
    assert bool((done == 1).all())


def test_chunks_of_any_size_give_the_same_image(network: UnrolledNetwork) -> None:
    scan = simulate_scan(SimulationSpec(pattern_size=32, num_positions=64, step_px=3.0, seed=1))
    images = []
    with torch.inference_mode():
        for size in (1, 7, 4096):
            measurement = replace(measure_scan(scan).measurement, chunk_size=size)
            images.append(network.eval().reconstruct(measurement).object_)
    assert torch.allclose(images[0], images[2], atol=1e-5)
    assert torch.allclose(images[1], images[2], atol=1e-5)
