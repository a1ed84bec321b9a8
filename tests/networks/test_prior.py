"""The prior network: the solver's sketch, and a correction that is told what the counts say."""

from __future__ import annotations

from dataclasses import replace

import torch

from ptychodus_pinn_torch.config import PriorConfig
from ptychodus_pinn_torch.networks.prior import PriorNetwork
from ptychodus_pinn_torch.networks.residues import gather_residues
from ptychodus_pinn_torch.physics.group_batch import GroupBatch
from ptychodus_pinn_torch.physics.losses import object_loss
from ptychodus_pinn_torch.training.synthetic import random_batch


def batch_of(seed: int = 3, num_groups: int = 1) -> GroupBatch:
    shape = {'num_patterns': 25, 'pattern_size': 32, 'canvas_size': 64}
    return random_batch(seed, num_groups=num_groups, **shape)


def test_a_few_steps_of_training_correct_a_sketch() -> None:
    torch.manual_seed(0)
    network, batch = PriorNetwork(PriorConfig(canvas_width=8)), batch_of(5)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    coverage = batch.measurement.coverage()
    canvas = network.eval().reconstruct(batch.measurement).uncorrected[-1]

    def loss() -> torch.Tensor:
        return object_loss(network.correct(canvas, batch.measurement), batch.object_, coverage)

    before = float(object_loss(canvas, batch.object_, coverage))
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < 0.8 * before


def test_in_training_every_phase_of_the_sketch_is_corrected() -> None:
    network, batch = PriorNetwork(PriorConfig(canvas_width=4)), batch_of()
    found = network.train()(batch)
    assert len(found.uncorrected) == len(found.earlier) + 1 == 3
    assert not network.eval()(batch).earlier


def test_the_order_of_the_patterns_does_not_matter() -> None:
    torch.manual_seed(1)
    network, batch = PriorNetwork(PriorConfig(canvas_width=4)).eval(), batch_of()
    given = batch.measurement
    turned = given.select(torch.arange(given.num_patterns).flip(0))
    with torch.no_grad():
        first, second = network.reconstruct(given).object_, network.reconstruct(turned).object_
    assert torch.allclose(first, second, atol=1e-4)


def test_groups_do_not_see_each_other() -> None:
    torch.manual_seed(1)
    network, batch = PriorNetwork(PriorConfig(canvas_width=4)).eval(), batch_of(7, 2)
    given = batch.measurement
    dark = given.counts * (given.rows == 0).to(torch.float32)[:, None, None]
    with torch.no_grad():
        both = network.reconstruct(given).uncorrected[-1][0]
        alone = network.reconstruct(replace(given, counts=dark)).uncorrected[-1][0]
    assert torch.equal(both, alone)


def test_at_the_truth_the_counts_ask_for_nothing_but_noise() -> None:
    shape = {'num_patterns': 36, 'pattern_size': 32, 'canvas_size': 64}
    seeds = [seed for seed in range(40) if is_exact(random_batch(seed, num_groups=1, **shape))]
    batch = random_batch(seeds[0], num_groups=1, **shape)
    assert batch.object_ is not None
    right = gather_residues(batch.object_, batch.measurement)
    wrong = gather_residues(batch.measurement.flat(), batch.measurement)
    seen = right.coverage > 0.3 * right.coverage.max()
    assert right.wanted[seen].abs().mean() < 0.3 * wrong.wanted[seen].abs().mean()
    assert right.rings.mean(dim=0)[seen].mean() < 1.3 < wrong.rings.mean(dim=0)[seen].mean()


def is_exact(batch: GroupBatch) -> bool:
    """Returns whether the truth explains the counts of a random batch, and photons are many."""
    assert batch.object_ is not None
    if batch.measurement.good_pixels is not None or float(batch.measurement.totals) < 36e5:
        return False
    seen = gather_residues(batch.object_, batch.measurement)
    return 0.8 < float(seen.rings.amax(dim=(-2, -1)).max()) < 1.3
