"""Puts a scan into a folder as the batch mode of Ptychodus reads it."""

import numpy
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.io import save_diffraction_data, save_product


def stage(folder, parameters, settings=''):
    """Returns the folder, with diffraction.h5, product.h5 and settings.ini."""
    folder.mkdir(parents=True, exist_ok=True)
    positions = parameters.product.probe_positions
    save_diffraction_data(
        folder / 'diffraction.h5',
        AssembledDiffractionData(
            numpy.asarray(positions.get_indexes()),
            parameters.diffraction_patterns,
            PixelGeometry(width_m=75e-6, height_m=75e-6),
            parameters.bad_pixels,
        ),
    )
    save_product(folder / 'product.h5', parameters.product)
    if settings:
        (folder / 'settings.ini').write_text(settings)
    return folder
