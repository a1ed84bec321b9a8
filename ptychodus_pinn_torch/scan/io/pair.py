"""Ptychodus' HDF5 files, `diffraction.h5` and `product.h5`, and training sets in HDF5."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy
from numpy.typing import NDArray

from .hdf5 import Hdf5Arrays, open_hdf5
from .named import is_named_scan, read_named
from .pattern_store import stage_blocks
from .product_files import find_product, load_product
from .products import arrays_of_product, with_weights_of
from .raw import RawScan, ReadOptions, StoredPatterns

if TYPE_CHECKING:
    from ptychodus.api.product import Product

__all__ = ['DIFFRACTION', 'PRODUCT', 'put_product', 'read_hdf5', 'select_rows']

logger = logging.getLogger(__name__)

DIFFRACTION, PRODUCT = 'diffraction.h5', 'product.h5'


def read_hdf5(path: Path, options: ReadOptions) -> RawScan:
    """Returns the scan of a diffraction and a product file, paired by index as Ptychodus does.

    The path is that of the folder with both, or of one of the two; or that of a training set with
    the arrays of an NPZ.

    Raises:
        ValueError: one of the two cannot be found or read.
    """
    if path.is_file():
        with open_hdf5(path) as file:
            arrays = None if 'patterns' in file else _find_named(file, options)
            if arrays is not None:
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
    metadata = {} if size is None else {'detector_pixel_m': float(size)}
    raw = RawScan(
        patterns,
        bad_pixels=bad_pixels,
        metadata={'position_indexes': indexes, **metadata},
        source=diffraction,
    )
    return raw if product is None else put_product(raw, load_product(product, options))


def _find_named(file: h5py.File, options: ReadOptions) -> Hdf5Arrays | None:
    """Returns the arrays at the top of a file, or else of its only group, that are a scan by names."""
    found: dict[str, Hdf5Arrays] = {}

    def look(_: str, item: Any) -> None:
        if isinstance(item, h5py.Group):
            arrays = Hdf5Arrays(item, allow_links=options.allow_links)
            if is_named_scan(arrays):
                found[item.name] = arrays

    look('', file)
    if not found:
        file.visititems(look)
    if len(found) > 1:
        raise ValueError(
            f'{file.filename} holds a scan in each of {", ".join(list(found)[:8])}: copy one into a '
            'file of its own.'
        )
    return next(iter(found.values()), None)


def select_rows(path: Path, patterns: Any, rows: NDArray[numpy.int64]) -> Any:
    """Returns some of the patterns of a file, in order, stored or not; says how many are left out."""
    number = patterns.shape[0]
    if len(rows) == number:
        return patterns
    logger.info(
        '%s: %d of %d patterns have a position; the others are left out.', path, len(rows), number
    )
    if not isinstance(patterns, StoredPatterns):
        shape = (len(rows), *patterns.shape[1:])
        return stage_blocks(shape, patterns.dtype, lambda part: patterns[rows[part]])
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


def put_product(raw: RawScan, product: Product) -> RawScan:
    """Returns the patterns of a scan that have a position in a product, with all that it says."""
    assert raw.source is not None
    rows, paired = _pair_by_index(raw.source, raw.metadata['position_indexes'], product)
    arrays = arrays_of_product(paired)
    if not arrays.metadata.get('far_field', True):
        raise ValueError(
            f'the product {arrays.metadata.get("name")!r} says that the detector is in the near '
            'field: this program images patterns of the far field only.'
        )
    variation = arrays.variation
    return replace(
        raw,
        patterns=select_rows(raw.source, raw.patterns, rows),
        positions_px=arrays.positions_px,
        probe=arrays.probe,
        object_=arrays.object_,
        pixel_size_m=arrays.pixel_size_m,
        object_center_m=arrays.object_center_m,
        metadata={**raw.metadata, **arrays.metadata, 'position_indexes': arrays.indexes},
        probe_variations=None if variation is None else variation.modes,
        probe_weights=None if variation is None else variation.weights,
    )


def _find_pair(path: Path, options: ReadOptions) -> tuple[Path, Path | None]:
    """Returns the diffraction and the product file meant by a folder or by one of the two.

    The product is None where there is none and the positions have a file of their own.
    """
    product = options.product
    if path.is_dir():
        diffraction = path / DIFFRACTION
        if not diffraction.exists():
            raise ValueError(
                f'{path} is a folder without {DIFFRACTION}: name a folder that holds '
                f'{DIFFRACTION} and {PRODUCT}, or name a file.'
            )
    else:
        name, keys = find_product(path, allow_links=True)
        if 'patterns' in keys:
            diffraction, product = path, product or (path if name else None)
        elif name:
            product, diffraction = product or path, path.parent / DIFFRACTION
        else:
            raise ValueError(
                f'{path} is neither a diffraction file (no patterns) nor a product '
                f'(no probe_position_x_m); it holds {", ".join(keys[:24]) or "nothing"}: name its format '
                'with --patterns-format (see ptychodus-pinn formats).'
            )
    if product is None:
        product = diffraction.parent / PRODUCT
        if options.positions_file is not None and not product.exists():
            return diffraction, None
    for needed, what in ((diffraction, 'patterns'), (product, 'positions and probe')):
        if not needed.exists():
            raise ValueError(
                f'{needed} with the {what} is missing: put {DIFFRACTION} and {PRODUCT} into '
                'one folder, or name the product with --product, or positions with --positions.'
            )
    return diffraction, product


def _pair_by_index(
    path: Path, indexes: NDArray[Any], product: Product
) -> tuple[NDArray[numpy.int64], Product]:
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
