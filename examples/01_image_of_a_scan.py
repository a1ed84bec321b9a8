"""An image of a scan with the model that comes with the package.

Usage: python 01_image_of_a_scan.py [SCAN]; without a scan it simulates one.
"""

import sys

import ptychodus_pinn_torch as pinn

small = {'pattern_size': 32, 'num_positions': 100, 'step_px': 3.0}
scan = pinn.read_scan(sys.argv[1]) if len(sys.argv) > 1 else pinn.simulate(**small)
image = pinn.reconstruct(scan)
print(f'{scan.name}: {image.object_.shape}, error on held-out patterns {image.held_out}')
print(*image.messages, sep='\n')
