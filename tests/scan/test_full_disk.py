"""A disk that is full while something is written: an error that names the file, and nothing half written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ptychodus_pinn_torch.scan.io.output import write_product, write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan

WRITER = """
import resource, signal, sys
from ptychodus_pinn_torch.scan.io.output import write_product, write_reconstruction_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.io.hdf5 import write_scan_hdf5
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
import ptychodus.api.io
scan, path, kind = read_scan(sys.argv[1]), sys.argv[2], sys.argv[3]
image = dict(object_=scan.object_, positions_px=scan.positions_px, probe=scan.probe, losses=[])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    if kind == 'product':
        write_product(path, scan, **image)
    elif kind == 'image':
        write_reconstruction_npz(path, **image)
    elif kind == 'hdf5':
        write_scan_hdf5(path, scan)
    else:
        write_scan_npz(path, scan)
except OSError as error:
    sys.exit(f'{error.filename}: {error.strerror}')
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no such limit')
@pytest.mark.parametrize('limit', [0, 500, 3000, 30_000])
@pytest.mark.parametrize('kind', ['product', 'hdf5', 'npz', 'image'])
def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, tiny_scan: Scan, kind: str, limit: int
) -> None:
    scan = write_scan_npz(tmp_path / 'scan.npz', tiny_scan)
    folder = tmp_path / 'out'
    folder.mkdir()
    output = folder / ('out.h5' if kind in ('product', 'hdf5') else 'out.npz')
    before = write_product(
        output, tiny_scan, tiny_scan.object_, tiny_scan.positions_px, tiny_scan.probe, []
    ).read_bytes()
    words = [sys.executable, '-c', WRITER, str(scan), str(output), kind, str(limit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f'{done.returncode}: {done.stderr}'
    assert done.stderr.strip() == f'{output}: File too large'
    assert output.read_bytes() == before and list(folder.iterdir()) == [output]
