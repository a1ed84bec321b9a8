"""Fixtures for all tests: a measured scan where there is one, and small simulated scans."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from jaxtyping import install_import_hook

CHECKED_ROOMS = (
    'checks',
    'metrics',
    'networks',
    'physics',
    'reconstruction',
    'scan',
    'solver',
    'simulation',
    'training',
)
# not models and interop, whose work is to refuse values of wrong types with a sentence; and not
# tensorflow_backend, whose functions are traced with symbols that have no values yet
install_import_hook(
    [f'ptychodus_pinn_torch.{room}' for room in CHECKED_ROOMS], 'beartype.beartype'
)  # shapes and dtypes of arrays are checked at each call, while tests run

from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

DATA_VARIABLE = 'PTYCHODUS_PINN_DATA'
FULL, SMALL = 'velociprobe_siemens_128.npz', 'velociprobe_siemens_128_small.npz'
ELECTRONS = 'electron_cryo_160.npz'


def find_data(name: str) -> Path:
    """Returns the path of a data file, or skips the test and says where it was looked for."""
    folder = Path(
        os.environ.get(DATA_VARIABLE, Path(__file__).resolve().parent.parent / 'shared' / 'data')
    )
    if not (folder / name).exists():
        pytest.skip(f'{name} is not in {folder}: set {DATA_VARIABLE} to the folder that has it.')
    return folder / name


@pytest.fixture(scope='session')
def data_folder() -> Path:
    """The folder with measured data."""
    return find_data(FULL).parent


@pytest.fixture(scope='session')
def real_scan_path() -> Path:
    """A measured scan of 516 patterns of 128 x 128 pixels with three probe modes."""
    return find_data(FULL)


@pytest.fixture(scope='session')
def small_real_scan_path() -> Path:
    """The 102 patterns of it around the middle."""
    return find_data(SMALL)


@pytest.fixture(scope='session')
def real_scan(real_scan_path: Path) -> Scan:
    """The measured scan, read."""
    return read_scan(real_scan_path)


@pytest.fixture(scope='session')
def small_real_scan(small_real_scan_path: Path) -> Scan:
    """Its middle, read."""
    return read_scan(small_real_scan_path)


@pytest.fixture(scope='session')
def electron_scan() -> Scan:
    """A measured scan of electrons, 576 patterns of 160 x 160 pixels on an exact raster."""
    return read_scan(find_data(ELECTRONS))


@pytest.fixture(scope='session')
def tiny_scan() -> Scan:
    """A simulated scan of 35 patterns of 32 x 32 pixels, two modes, on a rectangular object."""
    scan = simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=35, step_px=3.0, seed=3, num_modes=2)
    )
    assert scan.truth is not None
    wider = ((0, 0), (0, 12))
    return replace(
        scan,
        object_=numpy.pad(scan.object_, wider, mode='edge'),
        truth=numpy.pad(scan.truth, wider, mode='edge'),
    )


@pytest.fixture(scope='session')
def simulated_scan() -> Scan:
    """A simulated scan of 144 patterns of 64 x 64 pixels."""
    return simulate_scan(SimulationSpec(num_positions=144, seed=5))


@pytest.fixture
def tiny_scan_path(tmp_path: Path, tiny_scan: Scan) -> Path:
    """The tiny scan in a file of its own."""
    return write_scan_npz(tmp_path / 'tiny.npz', tiny_scan)
