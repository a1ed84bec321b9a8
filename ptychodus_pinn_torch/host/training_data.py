"""Training data: what Ptychodus exports, and what training finds in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptychodus.api.reconstruct import ReconstructInput

__all__ = ['VALIDATION_NAME', 'export_training_data', 'find_training_scans']

VALIDATION_NAME = 'test_data.npz'
_STAGED = ('diffraction.h5', 'product.h5')


def export_training_data(file_path: Path, parameters: ReconstructInput) -> Path:
    """Returns the NPZ that was written: the keys of Ptychodus, and what the counts are.

    Unlike Ptychodus' own writer it does not paint over bad pixels: they keep what was measured
    and `bad_pixels` says where they are, so that a loss can leave them out.
    """
    from ..scan.io.output import training_arrays, write_npz
    from ..scan.io.products import arrays_of_product
    from .payload import find_bad_pixels

    found = arrays_of_product(parameters.product)
    if file_path.suffix != '.npz':
        file_path = file_path.with_name(file_path.name + '.npz')
    arrays = training_arrays(
        positions_px=found.positions_px,
        patterns=parameters.diffraction_patterns,
        probe=found.probe,
        object_=found.object_,
        bad_pixels=find_bad_pixels(parameters),
        variation=found.variation,
    )
    return write_npz(file_path, arrays)


def find_training_scans(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Returns the scans to train on, and those to judge on.

    All exported `*.npz` of the folder, of which `test_data.npz` is only judged on; where there
    are none, the folder itself with its `diffraction.h5` and `product.h5`.

    Raises:
        FileNotFoundError: nothing to train on; says what is there instead.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is not a folder: choose the one with the exported data.')
    archives = sorted(path for path in folder.glob('*.npz') if not path.name.startswith('.'))
    training = tuple(path for path in archives if path.name != VALIDATION_NAME)
    if training:
        return training, tuple(path for path in archives if path.name == VALIDATION_NAME)
    if all((folder / name).is_file() for name in _STAGED):
        return (folder,), tuple(archives)
    present = ', '.join(sorted(path.name for path in folder.iterdir())[:8]) or 'nothing'
    raise FileNotFoundError(
        f'{folder} holds no training data (there is: {present}): export some *.npz into it, or '
        f'put {" and ".join(_STAGED)} there.'
    )
