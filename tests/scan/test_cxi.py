"""CXI files, written by Ptychodus' own writers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy
import pytest

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


def test_a_cxi_file_without_its_product_is_a_sentence(tmp_path: Path, tiny_scan: Scan) -> None:
    path = write_cxi(tmp_path, tiny_scan)
    (tmp_path / 'product.cxi').unlink()
    with pytest.raises(ValueError, match='--positions'):
        read_scan(path)
