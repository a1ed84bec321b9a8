"""Reading products of every format that Ptychodus reads; which one it is, the file tells."""

from __future__ import annotations

import contextlib
import importlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hdf5 import check_links, is_hdf5, open_hdf5
from .matlab import MatlabArrays, is_matlab
from .npz import NpzArrays, damage_named, is_zip
from .products import ProductArrays, arrays_of_product
from .raw import ReadOptions

if TYPE_CHECKING:
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.product import Product

__all__ = ['PRODUCTS', 'find_product', 'load_product', 'read_product']

logger = logging.getLogger(__name__)

PRODUCTS = {
    'CXI': ('HDF5', 'entry_1/image_2', 'cxi_file', 'CXIProductFileIO'),
    'HDF5': ('HDF5', 'probe_position_x_m', 'h5_product_file', 'H5ProductFileIO'),
    'Ptychodus_Training_Data': ('HDF5', 'probe_position_x_px', 'training_data_file',
                                'TrainingDataProductFileReader'),
    'NSLS_II_MATLAB': ('HDF5', 'pos_xy', 'nsls2_product_file', 'NSLSIIProductFileReader'),
    'NPZ': ('NPZ', 'probe_position_x_m', 'npz_product_file', 'NPZProductFileIO'),
    'SLAC_NPZ': ('NPZ', 'xcoords_start', 'slac_npz_file', 'SLACProductFileReader'),
    'fold_slice_mat': ('MATLAB', 'outputs', 'fold_slice.product_file',
                       'FoldSliceProductFileReader'),
}  # fmt: skip
"""By the host's names: container, what only such a file holds, and module and class of the reader.

The whole registry takes seconds to load. None of these readers unpickles anything."""


def find_product(path: Path, *, allow_links: bool = False) -> tuple[str | None, list[str]]:
    """Returns the host's name of the format of a product, or None; and names of what it holds."""
    if is_hdf5(path):
        with open_hdf5(path) as file:
            if not allow_links:
                check_links(file)
            return _choose('HDF5', file), sorted(file)
    if is_zip(path):
        keys = list(NpzArrays(path).keys)
        return _choose('NPZ', keys), keys
    keys = list(MatlabArrays(path).keys) if is_matlab(path) else []
    return _choose('MATLAB', keys), keys


def _choose(container: str, keys: Any) -> str | None:
    known = (name for name, row in PRODUCTS.items() if row[0] == container and row[1] in keys)
    return next(known, None)


def load_product(path: Path, options: ReadOptions) -> Product:
    """Returns Ptychodus' `Product` of a file, whose object has a pixel size and a centre.

    Raises:
        ValueError: the file is no product; names what is missing.
    """
    with path.open('rb'):
        pass
    with damage_named(path):
        name, keys = find_product(path, allow_links=options.allow_links)
        shown = ', '.join(keys[:24]) or 'nothing that is known'
        if name is None:
            raise ValueError(f'{path} is no product, it holds {shown}: save one from Ptychodus.')
        _, _, module, reader = PRODUCTS[name]
        try:
            found = getattr(importlib.import_module(f'ptychodus.plugins.{module}'), reader)
            return _complete(path, found().read(path))
        except KeyError as error:
            raise ValueError(
                f'{path} is no complete product ({str(error.args[0]).rstrip(".")}); it holds '
                f'{shown}: save it again from Ptychodus.'
            ) from error
        except (TypeError, IndexError) as error:
            raise ValueError(
                f'{path}: Ptychodus cannot read it as {name} ({error}): save it as HDF5 from what '
                'wrote it.'
            ) from error


def read_product(path: Path, options: ReadOptions) -> ProductArrays:
    """Returns the arrays of a product in a file."""
    return arrays_of_product(load_product(path, options))


def _complete(path: Path, product: Product) -> Product:
    """Returns a product with what some formats leave out, as Ptychodus fills it in.

    The middle of the object is that of the smallest box that holds the positions.
    """
    from ptychodus.api.object import Object, ObjectCenter
    from ptychodus.api.probe import ProbeSequence

    object_, probes, points = product.object_, product.probes, product.probe_positions
    with contextlib.suppress(ValueError):
        object_.get_geometry()
        return product
    try:
        pixel = object_.get_pixel_geometry()
    except ValueError:
        pixel = _find_pixel(path, product)
    x_m, y_m = points.get_coordinates_x_m(), points.get_coordinates_y_m()
    center = ObjectCenter(x_m=(x_m.min() + x_m.max()) / 2, y_m=(y_m.min() + y_m.max()) / 2)
    return replace(
        product,
        object_=Object(object_.get_array(), pixel, center, object_.layer_spacing_m),
        probes=ProbeSequence(probes.get_array(), probes.get_opr_weights_or_none(), pixel),
    )


def _find_pixel(path: Path, product: Product) -> PixelGeometry:
    """Returns the object pixel that SLAC's NPZ means: that of its detector, in the far field."""
    from ptychodus.api.constants import energy_eV_to_wavelength_m
    from ptychodus.api.geometry import ImageExtent, PixelGeometry
    from ptychodus.api.propagate import compute_far_field_pixel_geometry
    from ptychodus.plugins.slac_npz_file import DEFAULT_DETECTOR_PIXEL_SIZE_M

    if not is_zip(path):
        raise ValueError(f'{path} is no complete product (no pixel size): save it again.')
    told = NpzArrays(path).numbers('detector_pixel_size_m')
    if told is None:
        logger.warning(
            '%s does not say detector_pixel_size_m: %g m is taken, as Ptychodus does.',
            path, DEFAULT_DETECTOR_PIXEL_SIZE_M,
        )  # fmt: skip
    size_m = DEFAULT_DETECTOR_PIXEL_SIZE_M if told is None else told[0]
    height, width = product.probes.get_array().shape[-2:]
    return compute_far_field_pixel_geometry(
        PixelGeometry(width_m=size_m, height_m=size_m),
        ImageExtent(width_px=width, height_px=height),
        wavelength_m=energy_eV_to_wavelength_m(product.metadata.photon_energy_eV),
        propagation_distance_m=product.metadata.detector_distance_m,
    )
