"""A network of your own, found by its entry point: trained, and compared with a flat object.

The network lies in `own_network/`. `pip install ./own_network` would register it for good; this
script registers it for one run, as an installer does, so that nothing is left behind.

Usage: python 03_own_network.py [FOLDER]
"""

import sys
import tempfile
import tomllib
from pathlib import Path

import ptychodus_pinn_torch as pinn

OWN = Path(__file__).resolve().parent / 'own_network'


def register(source: Path, site: Path) -> None:
    """Makes the entry points of a source folder known to this process."""
    project = tomllib.loads((source / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    information = site / f'{project["name"].replace("-", "_")}-{project["version"]}.dist-info'
    information.mkdir(parents=True, exist_ok=True)
    (information / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {project["name"]}\nVersion: {project["version"]}\n'
    )
    lines = []
    for group, names in project['entry-points'].items():
        lines += [f'[{group}]', *(f'{name} = {value}' for name, value in names.items())]
    (information / 'entry_points.txt').write_text('\n'.join(lines))
    sys.path += [str(site), str(source)]


def main() -> None:
    """Trains on one scan, reconstructs another of the same instrument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    register(OWN, folder / 'site')
    instrument = {'pattern_size': 32, 'num_positions': 100, 'step_px': 3.0, 'seed': 1}
    scan = pinn.simulate(**instrument)
    options = {
        'network.kind': 'learnt_steps',
        'network.num_steps': 8,
        'training.max_steps': 60,
        'training.learning_rate': 0.05,
        'grouping.group_size': 36,
    }
    model = pinn.train(scan, folder / 'model.h5.zip', options=options)

    other = pinn.simulate(**instrument, object_seed=2)
    # no refinement: what the network makes of it
    image = pinn.reconstruct(other, model, options={'reconstruction.refine_epochs': 0})
    ours = pinn.compare_objects(image.object_, other.truth, weights=image.coverage)
    flat = pinn.compare_objects(other.object_, other.truth, weights=image.coverage)
    print(f'{model}: the image starts from the {image.start}')
    print(f'phase error {ours.phase_rms_rad:.3f} rad, flat object {flat.phase_rms_rad:.3f} rad')


if __name__ == '__main__':
    main()
