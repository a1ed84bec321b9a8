"""A model of your own instrument, trained on one scan without labels, and what it is good for.

Usage: python 02_train_on_your_scan.py [FOLDER]; it simulates the scans of one instrument.
"""

import sys
import tempfile
from pathlib import Path

import ptychodus_pinn_torch as pinn

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
instrument = {'pattern_size': 32, 'num_positions': 100, 'step_px': 3.0, 'seed': 1}
measured = pinn.simulate(**instrument)  # or pinn.read_scan('scan.npz')
another = pinn.simulate(**instrument, object_seed=2)  # the same probe and positions

# from the model that comes with the package; 900 steps are the default
options = {'training.max_steps': 30, 'grouping.group_size': 16}
model = pinn.train(measured, folder / 'model.h5.zip', options=options)

image = pinn.reconstruct(another, model)
ours = pinn.compare_objects(image.object_, another.truth, weights=image.coverage)
flat = pinn.compare_objects(another.object_, another.truth, weights=image.coverage)
print(f'{model}: started from the {image.start}')
print(f'phase error {ours.phase_rms_rad:.3f} rad, of a flat object {flat.phase_rms_rad:.3f} rad')
