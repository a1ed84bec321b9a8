"""PINN-Torch inside Ptychodus, driven from a script: load, reconstruct, save the product.

Usage: python 04_ptychodus_from_a_script.py [FOLDER]

FOLDER holds `diffraction.h5` and `product.h5`, as Ptychodus writes them; without one, a scan is
simulated into a temporary folder. The settings are those of batch mode, see docs/ptychodus.md.
"""

import sys
import tempfile
from pathlib import Path

import numpy
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.io import load_product, save_diffraction_data, save_product
from ptychodus.model import ModelCore

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.scan.io.products import make_host_product

ALGORITHM = 'pinn-torch_unsupervised'
SETTINGS = """
[Processing]
Algorithm = pinn-torch_unsupervised
[PINNTorchReconstruction]
refine_epochs = 4
"""


def write_simulated_scan(folder: Path) -> None:
    """Writes what a beamline would have measured, and a product with a flat object."""
    scan = pinn.simulate(pattern_size=32, num_positions=100, step_px=3.0)
    pixel = PixelGeometry(width_m=75e-6, height_m=75e-6)
    numbers = numpy.arange(scan.num_patterns)
    save_diffraction_data(
        folder / 'diffraction.h5',
        AssembledDiffractionData(numbers, scan.patterns, pixel, ~scan.good_pixels),
    )
    product = make_host_product(scan, scan.object_, scan.positions_px, scan.probe)
    save_product(folder / 'product.h5', product)


def main() -> None:
    """Reconstructs the scan of a folder; the image lies beside it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / 'diffraction.h5').is_file():
        write_simulated_scan(folder)
    if not (folder / 'settings.ini').is_file():
        (folder / 'settings.ini').write_text(SETTINGS)
    with ModelCore(folder / 'settings.ini') as core:
        api = core.workflow_api
        diffraction = api.load_assembled_diffraction_data(folder / 'diffraction.h5')
        product = api.load_product(folder / 'product.h5', diffraction=diffraction)
        image = product.reconstruct_local(algorithm=ALGORITHM, block=True)
        image.save_product(folder / 'image.h5', file_type='HDF5')
    layer = load_product(folder / 'image.h5').object_.get_layer(0)
    print(f'{folder / "image.h5"}: an object of {layer.shape[0]} x {layer.shape[1]} pixels')


if __name__ == '__main__':
    main()
