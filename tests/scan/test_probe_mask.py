"""A probe that is dark outside of a disk."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch.backend import ReconstructRequest, TrainRequest, ignore_report
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.models.archive import read_archive
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.probe_mask import disk_mask, mask_probe
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.training.run import train


def test_the_mask_is_that_of_the_published_code(data_folder: Path) -> None:
    golden = numpy.load(data_folder / 'torch_checkpoints' / 'main_probemask_N64_io.npz')
    assert numpy.abs(disk_mask((64, 64), 32.0) - golden['out_probe_mask']).max() < 1e-6


@pytest.mark.parametrize('diameter_px', [0.0, 12.0])
def test_images_and_models_are_made_with_the_masked_probe(
    tiny_scan: Scan, tmp_path: Path, diameter_px: float
) -> None:
    masked = mask_probe(tiny_scan, diameter_px)
    assert numpy.array_equal(masked.probe, tiny_scan.probe) == (diameter_px == 0.0)
    options = {
        'network.kind': 'cnn',
        'network.first_width': 2,
        'training.max_steps': 2,
        'execution.logger': 'none',
        'reconstruction.refine_epochs': 1,
        'reconstruction.start': 'flat',
    }
    found = []
    for scan, asked in ((masked, 0.0), (tiny_scan, diameter_px)):
        config = override_config(Config(), {**options, 'physics.probe_mask_px': asked})
        image = reconstruct(ReconstructRequest(scan, config), ignore_report)
        path = tmp_path / f'{asked}.h5.zip'
        train(
            TrainRequest((scan,), config, path),
            ignore_report,
        ) if not path.exists() else None
        found.append((image.object_, read_archive(path).weights['network.head.weight']))
    for first, second in zip(*found):
        assert numpy.array_equal(first, second)
