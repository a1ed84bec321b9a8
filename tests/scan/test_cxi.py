"""CXI files, written by Ptychodus' own writers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy
import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.scan.io.products import make_host_product
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan


def write_cxi(folder: Path, scan: Scan) -> Path:
    """Writes `diffraction.cxi` and `product.cxi`."""
    from ptychodus.plugins.cxi_file import CXIProductFileIO

    path = folder / 'diffraction.cxi'
    with h5py.File(path, 'w') as file:
        file['entry_1/instrument_1/detector_1/data'] = numpy.asarray(scan.patterns)
        file['entry_1/instrument_1/detector_1/mask'] = (~scan.good_pixels).astype(numpy.uint32)
        file['entry_1/data_1/data'] = h5py.SoftLink('/entry_1/instrument_1/detector_1/data')
    product = make_host_product(scan, scan.object_, scan.positions_px, scan.probe, ())
    CXIProductFileIO().write(folder / 'product.cxi', product)
    return path


def test_a_cxi_scan_is_the_scan_that_was_written(tmp_path: Path, tiny_scan: Scan) -> None:
    read = read_scan(write_cxi(tmp_path, tiny_scan))
    assert numpy.array_equal(read.patterns, tiny_scan.patterns)
    assert read.patterns.dtype == tiny_scan.patterns.dtype
    assert numpy.allclose(read.positions_px, tiny_scan.positions_px, atol=1e-6)
    assert numpy.allclose(read.probe, tiny_scan.probe)
    assert read.object_.shape == tiny_scan.object_.shape


ENERGY_J, PIXEL_M = 1e4 * 1.602176634e-19, 1e-8
DETECTOR_PIXEL_M = 12.398419843320026e-7 / 1e4 / (32 * PIXEL_M)
"""Of 32 pixels, one metre behind the sample."""
PLACES = (
    'entry_1/sample_1/geometry_1/translation',
    'entry_1/data_1/translation',
    'entry_1/instrument_1/detector_1/translation',
)


def write_raw_cxi(path: Path, scan: Scan, place: str = PLACES[0], num_axes: int = 3) -> Path:
    """Writes a CXI file as a beamline does: x, y, z in metres, and neither probe nor object."""
    with h5py.File(path, 'w') as file:
        file['entry_1/instrument_1/source_1/energy'] = ENERGY_J
        detector = file.create_group('entry_1/instrument_1/detector_1')
        detector['data'], detector['distance'] = numpy.asarray(scan.patterns), 1.0
        detector['x_pixel_size'] = detector['y_pixel_size'] = DETECTOR_PIXEL_M
        mask = numpy.zeros(scan.pattern_shape, numpy.uint32)
        mask[3, 4], mask[5, 6] = 1, 0x80
        detector['mask'] = mask
        y_m, x_m = scan.positions_px.T * PIXEL_M
        file[place] = numpy.stack([x_m, y_m, 0 * x_m], axis=-1)[:, :num_axes]
    return path


@pytest.mark.parametrize('num_axes', [2, 3])
@pytest.mark.parametrize('place', PLACES)
def test_a_raw_cxi_file_is_a_whole_scan(
    tmp_path: Path, tiny_scan: Scan, place: str, num_axes: int
) -> None:
    path = write_raw_cxi(tmp_path / 'raw.cxi', tiny_scan, place, num_axes)
    scan = read_scan(path)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    steps = numpy.diff(scan.positions_px, axis=0)
    assert numpy.allclose(steps, numpy.diff(tiny_scan.positions_px, axis=0), atol=1e-6)
    assert scan.pixel_size_m == pytest.approx((PIXEL_M, PIXEL_M))
    assert not scan.good_pixels[3, 4] and not scan.good_pixels[5, 6]
    assert scan.metadata['probe_is_estimated'] and not scan.has_object
    numpy.save(tmp_path / 'a.npy', tiny_scan.patterns)
    more = {'energy_ev': 1e4, 'distance_m': 1.0, 'detector_pixel_um': (1e6 * DETECTOR_PIXEL_M,)}
    apart = read_scan(tmp_path / 'a.npy', positions_file=path, **more)
    assert numpy.allclose(apart.positions_px, scan.positions_px, atol=1e-9)


def test_the_illumination_of_a_raw_cxi_file_is_its_probe(tmp_path: Path, tiny_scan: Scan) -> None:
    path = write_raw_cxi(tmp_path / 'raw.cxi', tiny_scan)
    with h5py.File(path, 'r+') as file:
        file['entry_1/instrument_1/source_1/illumination'] = tiny_scan.probe
    scan = read_scan(path)
    assert numpy.allclose(scan.probe, tiny_scan.probe)
    assert 'probe_is_estimated' not in scan.metadata


def test_check_reads_a_raw_cxi_file(
    tmp_path: Path, tiny_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['check', str(write_raw_cxi(tmp_path / 'raw.cxi', tiny_scan))]) == 0
    assert '35 positions span 17 x 17 pixels' in capsys.readouterr().out


def test_a_cxi_file_without_positions_asks_for_them(tmp_path: Path, tiny_scan: Scan) -> None:
    path = write_cxi(tmp_path, tiny_scan)
    (tmp_path / 'product.cxi').unlink()
    with pytest.raises(ValueError, match='diffraction.cxi holds no positions.*--positions'):
        read_scan(path)
    with h5py.File(path, 'r+') as file:
        file[PLACES[0]] = numpy.zeros((3, 35))[:1].T
    with pytest.raises(ValueError, match=r'diffraction.cxi: .* shape \(35, 1\)'):
        read_scan(path)


@pytest.mark.parametrize('name', ['gone.h5', '../other/gone.h5'])
def test_a_link_of_a_cxi_file_that_leads_nowhere_is_named(
    tmp_path: Path, tiny_scan: Scan, name: str
) -> None:
    path = write_raw_cxi(tmp_path / 'raw.cxi', tiny_scan)
    with h5py.File(path, 'r+') as file:
        file['entry_1/data_1/data'] = h5py.ExternalLink(name, '/x')
    with pytest.raises(ValueError, match=f'raw.cxi cannot be read: it links to {name}'):
        read_scan(path)
