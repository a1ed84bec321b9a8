"""Ptychodus' HDF5 files, `diffraction.h5` and `product.h5`, and training sets in HDF5."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from .hdf5 import Hdf5Arrays, check_links, open_hdf5
from .named import is_named_scan, read_named
from .npz import DAMAGE, damage_named
from .products import ProductArrays, arrays_of_product, with_weights_of
from .raw import RawScan, ReadOptions, StoredPatterns

__all__ = [
    'DIFFRACTION',
    'PRODUCT',
    'is_cxi',
    'pair_by_index',
    'raw_of_product',
    'read_hdf5',
    'read_product',
    'select_rows',
]

logger = logging.getLogger(__name__)

DIFFRACTION, PRODUCT = 'diffraction.h5', 'product.h5'
_CXI_ENTRY = 'entry_1'


def is_cxi(file: h5py.File) -> bool:
    """Returns whether an open file is one of the Coherent X-ray Imaging Data Bank."""
    return _CXI_ENTRY in file


def read_hdf5(path: Path, options: ReadOptions) -> RawScan:
    """Returns the scan of a diffraction and a product file, paired by index as Ptychodus does.

    The path is that of the folder with both, or of one of the two; or that of a training set with
    the arrays of an NPZ.

    Raises:
        ValueError: one of the two cannot be found or read.
    """
    if path.is_file():
        with open_hdf5(path) as file:
            arrays = Hdf5Arrays(file, allow_links=options.allow_links)
            if 'patterns' not in file and is_named_scan(arrays):
                return read_named(arrays, needs_positions=options.positions_file is None)
    diffraction, product = _find_pair(path, options)
    with open_hdf5(diffraction) as file:
        arrays = Hdf5Arrays(file, allow_links=options.allow_links)
        patterns = arrays.patterns(arrays.require('patterns'))
        if len(patterns.shape) != 3:
            raise ValueError(
                f'{diffraction}: patterns has shape {patterns.shape} but (patterns, height, width) '
                'is needed: export it again.'
            )
        indexes = arrays.optional('indexes')
        bad_pixels = arrays.optional('bad_pixels')
        size = arrays.dataset('patterns').attrs.get('detector_pixel_width_m')
    number = patterns.shape[0]
    indexes = numpy.arange(number) if indexes is None else indexes
    if indexes.shape != (number,) or indexes.dtype.kind not in 'iu':
        raise ValueError(
            f'{diffraction} holds {number} patterns but indexes {indexes.dtype} of shape '
            f'{indexes.shape}: export it again.'
        )
    rows, paired = pair_by_index(diffraction, indexes, load_product(product, options))
    metadata = {} if size is None else {'detector_pixel_m': float(size)}
    return replace(
        raw_of_product(paired, metadata),
        patterns=select_rows(diffraction, patterns, rows),
        bad_pixels=bad_pixels,
        source=diffraction,
    )


def select_rows(path: Path, patterns: StoredPatterns, rows: NDArray[numpy.int64]) -> StoredPatterns:
    """Returns some of the patterns of a file, in order; says how many are left out."""
    number = patterns.shape[0]
    if len(rows) == number:
        return patterns
    logger.info(
        '%s: %d of %d patterns have a position; the others are left out.', path, len(rows), number
    )
    is_kept = numpy.zeros(number, bool)
    is_kept[rows] = True

    def blocks() -> Any:
        first = 0
        for block in patterns.blocks():
            kept = block[is_kept[first : first + len(block)]]
            first += len(block)
            if len(kept):
                yield kept

    return replace(patterns, shape=(len(rows), *patterns.shape[1:]), blocks=blocks, place=None)


def raw_of_product(product: Any, metadata: dict[str, Any]) -> RawScan:
    """Returns the scan of a host's product, still without patterns."""
    arrays = arrays_of_product(product)
    if not arrays.metadata.get('far_field', True):
        raise ValueError(
            f'the product {arrays.metadata.get("name")!r} says that the detector is in the near '
            'field: this program images patterns of the far field only.'
        )
    variation = arrays.variation
    return RawScan(
        patterns=None,
        positions_px=arrays.positions_px,
        probe=arrays.probe,
        object_=arrays.object_,
        pixel_size_m=arrays.pixel_size_m,
        object_center_m=arrays.object_center_m,
        metadata={**arrays.metadata, 'position_indexes': arrays.indexes, **metadata},
        probe_variations=None if variation is None else variation.modes,
        probe_weights=None if variation is None else variation.weights,
    )


def _find_pair(path: Path, options: ReadOptions) -> tuple[Path, Path]:
    """Returns the diffraction and the product file meant by a folder or by one of the two."""
    product = options.product
    if path.is_dir():
        diffraction = path / DIFFRACTION
        if not diffraction.exists():
            raise ValueError(
                f'{path} is a folder without {DIFFRACTION}: name a folder that holds '
                f'{DIFFRACTION} and {PRODUCT}, or name a file.'
            )
    else:
        with open_hdf5(path) as file:
            keys = sorted(file)
        if 'patterns' in keys:
            diffraction = path
        elif 'probe_position_x_m' in keys:
            product, diffraction = product or path, path.parent / DIFFRACTION
        else:
            raise ValueError(
                f'{path} is neither a diffraction file (no patterns) nor a product (no '
                f'probe_position_x_m); it holds {", ".join(keys[:24]) or "nothing"}: name its format '
                'with --patterns-format (see ptychodus-pinn formats).'
            )
    product = diffraction.parent / PRODUCT if product is None else product
    for needed, what in ((diffraction, 'patterns'), (product, 'positions and probe')):
        if not needed.exists():
            raise ValueError(
                f'{needed} with the {what} is missing: put {DIFFRACTION} and {PRODUCT} into '
                'one folder, or name the product with --product.'
            )
    return diffraction, product


def load_product(path: Path, options: ReadOptions) -> Any:
    """Returns Ptychodus' `Product` of a file, HDF5 or CXI.

    Raises:
        ValueError: the file is no product; names what is missing.
    """
    from ptychodus.api.io import load_product as load

    with open_hdf5(path) as file:
        keys, is_data_bank = sorted(file), is_cxi(file)
        if not options.allow_links:
            check_links(file)
    try:
        if is_data_bank:
            from ptychodus.plugins.cxi_file import CXIProductFileIO

            return CXIProductFileIO().read(path)
        return load(path)
    except KeyError as error:
        raise ValueError(
            f'{path} is no complete product ({str(error.args[0]).rstrip(".")}); it holds '
            f'{", ".join(keys[:24]) or "nothing"}: save it again from Ptychodus.'
        ) from error
    except DAMAGE as error:
        raise ValueError(f'{path} cannot be read as a product: {error}') from error


def read_product(path: Path, options: ReadOptions) -> ProductArrays:
    """Returns the arrays of a product in a file."""
    with damage_named(path):
        return arrays_of_product(load_product(path, options))


def pair_by_index(
    path: Path, indexes: NDArray[Any], product: Any
) -> tuple[NDArray[numpy.int64], Any]:
    """Returns the rows of the patterns that have a position, and the product with those alone."""
    from ptychodus.api.assemble import AssembledDiffractionData
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.reconstruct import prepare_reconstruct_input

    # Row numbers stand for the patterns, so that the host's own rule decides without a copy.
    rows = numpy.arange(len(indexes), dtype=numpy.int64).reshape(-1, 1, 1)
    stand_in = AssembledDiffractionData(
        numpy.asarray(indexes), rows, PixelGeometry(1.0, 1.0), numpy.zeros((1, 1), dtype=bool)
    )
    try:
        prepared = prepare_reconstruct_input(stand_in, product)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    kept = numpy.asarray(prepared.diffraction_patterns)[:, 0, 0].astype(numpy.int64)
    return kept, with_weights_of(product, prepared.product)
