"""Runs the installed wheel from outside of the source tree: simulate, reconstruct, compare."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.models.archive import shipped_model


def main() -> None:
    """Fails loudly when the wheel lacks something."""
    script = Path(sys.executable).parent / 'ptychodus-pinn'
    assert shipped_model().is_file(), 'the wheel has no model'
    assert shipped_model().stat().st_size <= 2_000_000
    subprocess.run([script, '--version'], check=True)
    subprocess.run([script, 'doctor'], check=True)
    with tempfile.TemporaryDirectory() as folder:
        scan_path, image_path = Path(folder) / 'scan.npz', Path(folder) / 'image.npz'
        subprocess.run(
            [script, 'simulate', scan_path, '--num-positions', '100', '--seed', '1'], check=True
        )
        subprocess.run([script, 'reconstruct', scan_path, '--output', image_path], check=True)
        scan = pinn.read_scan(scan_path)
        image = pinn.reconstruct(scan)
        assert scan.truth is not None
        error = compare_objects(image.object_, scan.truth, weights=coverage_mask(scan)).nrmse
        print(f'wheel: NRMSE {error:.4f} of 100 simulated patterns')
        assert error < 0.12
    code = (
        'import ptychodus.model.core as core; m = core.ModelCore(); m.__enter__(); '
        'names = list(m.processing_core.processing_api.available_reconstructors()); '
        "assert any('pinn-torch' in n.lower() for n in names), names; m.__exit__(None, None, None)"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    print('wheel: listed by Ptychodus')


if __name__ == '__main__':
    main()
