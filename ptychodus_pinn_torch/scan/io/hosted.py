"""Every format of Ptychodus, by the names of its own readers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from .axes import order_patterns
from .hdf5 import Hdf5Arrays, check_links, is_hdf5, open_hdf5
from .named import named_mask
from .npz import DAMAGE, NpzArrays
from .pair import put_product, select_rows
from .product_files import find_product, load_product
from .raw import RawScan, ReadOptions, StoredPatterns

if TYPE_CHECKING:
    from ptychodus.api.plugins import PluginRegistry

__all__ = [
    'find_format',
    'load_registry',
    'make_probe',
    'put_positions',
    'read_hosted',
    'read_mask',
    'read_places',
    'with_geometry',
]

logger = logging.getLogger(__name__)

PATTERNS_BY_ENDING = {'.cxi': 'CXI', '.npy': 'NPY', '.tif': 'TIFF', '.tiff': 'TIFF'}
POSITIONS_BY_ENDING = {'.csv': 'CSV', '.txt': 'TXT', '.mda': 'MDA', '.cxi': 'CXI', '.npz': 'NPZ',
                       '.h5': 'HDF5', '.hdf5': 'HDF5'}  # fmt: skip
CXI_PATTERNS = ('entry_1/data_1/data', 'entry_1/instrument_1/detector_1/data')
CXI_PROBE = 'entry_1/instrument_1/source_1/illumination'
CXI_POSITIONS = ('entry_1/sample_1/geometry_1/translation', 'entry_1/data_1/translation',
                 'entry_1/instrument_1/detector_1/translation')  # fmt: skip
CXI_NUMBERS = 'entry_1/ptychodus/probe_position_indexes'
ALSO_POSITIONS = {'CNM_APS_HXN_TIFF': 'CNM_APS_HXN'}
"""Formats of patterns whose positions have another name."""


@cache
def load_registry() -> PluginRegistry:
    """Returns the readers and writers of Ptychodus; loading them takes seconds."""
    from ptychodus.api.plugins import PluginRegistry

    level = logging.getLogger('ptychodus').level
    logging.getLogger('ptychodus').setLevel(logging.ERROR)  # what it lacks is told by name
    try:
        return PluginRegistry.load_plugins()
    finally:
        logging.getLogger('ptychodus').setLevel(level)


def _choose(chooser: Any, name: str, flag: str) -> Any:
    """Returns the reader of a name."""
    plugin = next((each for each in chooser if each.simple_name == name), None)
    if plugin is None:
        known = ', '.join(each.simple_name for each in chooser)
        raise ValueError(f'{flag} {name}: Ptychodus knows {known}.')
    return plugin.strategy


def find_format(path: Path, options: ReadOptions) -> str | None:
    """Returns the host's name of the format of patterns: what the user says, or by the ending."""
    return options.patterns_format or PATTERNS_BY_ENDING.get(path.suffix.lower())


def read_hosted(path: Path, options: ReadOptions) -> RawScan:
    """Returns the scan of patterns that a reader of Ptychodus reads.

    Positions come from a product, or from the file of the patterns; those of a file of their own
    are still to be put in their place.

    Raises:
        ValueError: the reader fails, or what is missing; names the flags that say it.
    """
    name = find_format(path, options)
    assert name is not None
    if not options.patterns_format:
        logger.info('%s: read as %s of Ptychodus, by its ending.', path, name)
    if is_hdf5(path) and not options.allow_links:
        with open_hdf5(path) as file:
            check_links(file)
    reader = _choose(load_registry().diffraction_file_readers, name, '--patterns-format')
    try:
        dataset = reader.read(path)
        about, arrays, bad_pixels = dataset.get_metadata(), list(dataset), dataset.get_bad_pixels()
        indexes = numpy.concatenate([numpy.asarray(array.get_indexes()) for array in arrays])
    except DAMAGE as error:
        raise ValueError(f'{path} cannot be read as {name} of Ptychodus: {error}') from error
    raw = RawScan(
        _store(path, arrays, about), bad_pixels=bad_pixels, source=path,
        metadata={'position_indexes': indexes},
    )  # fmt: skip
    # patterns of CXI can be mapped, and its probe may be there without an object
    if name == 'CXI':
        with open_hdf5(path) as file:
            data = Hdf5Arrays(file, allow_links=options.allow_links)
            patterns = data.patterns(data.require(*CXI_PATTERNS))
            raw = replace(raw, patterns=patterns, probe=data.optional(CXI_PROBE))
    product = options.product or _find_product(path, name, options)
    if product is not None:
        raw = put_product(raw, load_product(product, options))
    elif options.positions_file is None:
        places = _read_sequence(path, ALSO_POSITIONS.get(name, name), options)
        raw = put_positions(raw, **places)
    return with_geometry(raw, options, about)


def _store(path: Path, arrays: list[Any], about: Any) -> StoredPatterns:
    """Returns the patterns of a dataset of the host, still to be read; the first file tells how many."""
    extent = about.detector_extent
    numbers = [len(array.get_indexes()) for array in arrays]
    shape = (sum(numbers), extent.height_px, extent.width_px)

    def blocks() -> Iterator[NDArray[Any]]:
        for number, array in zip(numbers, arrays):
            frames = numpy.asarray(array.get_patterns())
            if frames.shape != (number, *shape[1:]):
                raise ValueError(
                    f'{path}: {array.get_label()} holds frames of shape {frames.shape}, where '
                    f'{(number, *shape[1:])} was announced'
                )
            yield frames

    return StoredPatterns(shape, numpy.dtype(about.pattern_dtype), blocks)


def _find_product(path: Path, name: str, options: ReadOptions) -> Path | None:
    """Returns the product that the file of the patterns is itself, or that of CXI beside it."""
    beside = path.with_name('product.cxi')
    if find_product(path, allow_links=options.allow_links)[0] == name:
        return path
    is_beside = name == 'CXI' and options.positions_file is None and beside.exists()
    return beside if is_beside else None


def put_positions(
    raw: RawScan, numbers: NDArray[Any], positions_m: NDArray[numpy.float64]
) -> RawScan:
    """Returns the patterns of a scan that have a position, with these instead of its own.

    Patterns without numbers are counted from zero; `numbers` are those of the positions.
    """
    path, patterns = raw.source, raw.patterns
    assert path is not None
    if not isinstance(patterns, StoredPatterns):
        first, last = patterns.shape[0], patterns.shape[-1]
        is_square = patterns.ndim == 3 and first == patterns.shape[1] != last
        is_last = first != len(numbers) and (last == len(numbers) or is_square)
        patterns = order_patterns(path, patterns, last if is_last else first)
    number = patterns.shape[0]
    indexes = raw.metadata.get('position_indexes', numpy.arange(number))
    rows, places = _match(indexes, numbers, positions_m)
    raw = replace(raw, patterns=patterns, positions_px=None, positions_m=places)
    if len(rows) == number:
        return raw
    of_frames = {'bad_pixels': 3, 'probe': 4, 'probe_weights': 2}
    selected: dict[str, Any] = {}
    for name, num_axes in of_frames.items():
        values = getattr(raw, name)
        if values is not None and values.ndim == num_axes and len(values) == number:
            selected[name] = values[rows]
    metadata = {**raw.metadata, 'position_indexes': indexes[rows]}
    return replace(raw, patterns=select_rows(path, patterns, rows), metadata=metadata, **selected)


def _match(
    indexes: NDArray[Any], numbers: NDArray[Any], places: NDArray[numpy.float64]
) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
    """Returns the rows of the patterns that have a position (J,), and these (J, 2)."""
    is_row_by_row = len(numbers) == len(indexes) and (numpy.diff(numbers) == 1).all()
    if is_row_by_row and (numpy.diff(indexes) == 1).all():  # a header shifts the numbers of rows
        return numpy.arange(len(indexes), dtype=numpy.int64), places
    if len(set(numbers.tolist())) < len(numbers) or len(numbers) != len(indexes):
        logger.info('%d patterns, %d positions: paired by number.', len(indexes), len(numbers))
    known, inverse = numpy.unique(numbers, return_inverse=True)
    counts = numpy.bincount(inverse)
    rows = numpy.flatnonzero((indexes >= known[0]) & (indexes <= known[-1]))
    columns = [numpy.bincount(inverse, weights=column) / counts for column in places.T]
    wanted = [numpy.interp(indexes[rows], known, column) for column in columns]
    return rows, numpy.stack(wanted, axis=-1)


def read_places(options: ReadOptions) -> dict[str, NDArray[Any]]:
    """Returns the positions of the file that the user names, for `put_positions`."""
    path = options.positions_file
    assert path is not None
    name = options.positions_format or POSITIONS_BY_ENDING.get(path.suffix.lower())
    if name is None:
        raise ValueError(
            f'{path}: the format of the positions is not told by its ending: say '
            '--positions-format (see ptychodus-pinn formats).'
        )
    return _read_sequence(path, name, options)


def _read_sequence(path: Path, name: str, options: ReadOptions) -> dict[str, NDArray[Any]]:
    chooser = load_registry().probe_position_file_readers
    if options.positions_file is None and name not in {each.simple_name for each in chooser}:
        raise ValueError(f'{path} holds no positions: name their file with --positions.')
    if is_hdf5(path) and not options.allow_links:
        with open_hdf5(path) as file:
            check_links(file)
    if name == 'CXI':
        return _read_translation(path, options)
    try:
        found = _choose(chooser, name, '--positions-format').read(path)
    except DAMAGE as error:
        raise ValueError(
            f'{path}: no positions can be read as {name} of Ptychodus ({error}): name their file with '
            '--positions, and its format with --positions-format.'
        ) from error
    if not len(found):
        raise ValueError(f'{path} holds no positions: export them again.')
    places = [found.get_coordinates_y_m(), found.get_coordinates_x_m()]
    is_text = name in ('CSV', 'TXT')  # whose lines Ptychodus counts with those of comments
    return {
        'numbers': numpy.arange(len(found)) if is_text else numpy.asarray(found.get_indexes()),
        'positions_m': numpy.stack(places, axis=-1).astype(float),
    }


def _read_translation(path: Path, options: ReadOptions) -> dict[str, NDArray[Any]]:
    """Returns the positions of CXI, x, y, z in metres; Ptychodus wants a product round them."""
    with open_hdf5(path) as file:
        arrays = Hdf5Arrays(file, allow_links=options.allow_links)
        if arrays.first(CXI_POSITIONS) is None:
            raise ValueError(f'{path} holds no positions: name their file with --positions.')
        found, numbers = arrays.array(*CXI_POSITIONS), arrays.optional(CXI_NUMBERS)
    numbers = numpy.arange(len(found)) if numbers is None else numbers
    if found.ndim != 2 or found.shape[1] < 2 or numbers.shape != found.shape[:1] or not len(found):
        raise ValueError(
            f'{path}: the translation has shape {found.shape}, its numbers {numbers.shape}, but '
            '(positions, 3) and (positions,) are needed: export it again.'
        )
    return {'numbers': numbers, 'positions_m': found[:, 1::-1].astype(float)}


def with_geometry(raw: RawScan, options: ReadOptions, about: Any = None) -> RawScan:
    """Returns the scan with the size of an object pixel, which energy, distance and detector make.

    The user's word goes before that of the file, which is in the scan or in `about`, of Ptychodus.
    """
    from ptychodus.api.constants import energy_eV_to_wavelength_m
    from ptychodus.api.geometry import ImageExtent, PixelGeometry
    from ptychodus.api.propagate import compute_far_field_pixel_geometry

    names = ('photon_energy_eV', 'detector_distance_m', 'probe_photon_count', 'exposure_time_s',
             'tomography_angle_deg')  # fmt: skip
    pixel = getattr(about, 'detector_pixel_geometry', None)
    pixel_m: tuple[Any, Any] = 2 * (raw.metadata.get('detector_pixel_m'),)
    if options.detector_pixel_um is not None:
        pixel_m = options.detector_pixel_um[0] * 1e-6, options.detector_pixel_um[-1] * 1e-6
    elif pixel is not None:
        pixel_m = float(pixel.height_m), float(pixel.width_m)
    said: dict[str, Any] = {
        'photon_energy_eV': options.energy_ev,
        'detector_distance_m': options.distance_m,
        'detector_pixel_m': pixel_m[0],
    }
    told = {name: getattr(about, name, None) for name in names}
    metadata: dict[str, Any] = {}
    for known in (told, raw.metadata, said):
        metadata |= {name: value for name, value in known.items() if value is not None}
    if raw.pixel_size_m is not None:
        return replace(raw, metadata=metadata)
    energy_ev, distance_m = (metadata.get(name) for name in names[:2])
    missing = [
        flag
        for flag, value in (
            ('--energy-ev', energy_ev), ('--distance-m', distance_m), ('--detector-pixel-um', pixel_m[0])
        )
        if not value
    ]  # fmt: skip
    if missing:
        raise ValueError(
            f'{raw.source}: the size of an object pixel is not told by the file: say '
            f'{", ".join(missing)}.'
        )
    height, width = raw.patterns.shape[-2:]
    found = compute_far_field_pixel_geometry(
        PixelGeometry(width_m=float(pixel_m[1]), height_m=float(pixel_m[0])),
        ImageExtent(width_px=width, height_px=height),
        wavelength_m=energy_eV_to_wavelength_m(float(metadata['photon_energy_eV'])),
        propagation_distance_m=abs(float(metadata['detector_distance_m'])),
    )
    size = found.height_m, found.width_m
    if not all(math.isfinite(value) and value > 0.0 for value in size):
        raise ValueError(
            f'{raw.source}: energy {energy_ev} eV, distance {distance_m} m and detector pixel '
            f'{pixel_m} m make no object pixel: say the right ones.'
        )
    return replace(raw, pixel_size_m=size, metadata=metadata)


def make_probe(raw: RawScan, name: str) -> NDArray[Any]:
    """Returns the probe (1, H, W) that a zone plate or mirrors of Ptychodus make, in focus.

    Raises:
        ValueError: the optics are not known, or the geometry of the scan is not.
    """
    from ptychodus.api.constants import energy_eV_to_wavelength_m
    from ptychodus.api.probe import ProbeGeometry
    from ptychodus.api.simulate.probe import (
        generate_fresnel_zone_plate_probe,
        generate_kb_mirror_probe,
    )

    registry = load_registry()
    makers = (
        (registry.fresnel_zone_plates, generate_fresnel_zone_plate_probe),
        (registry.kb_mirrors, generate_kb_mirror_probe),
    )
    known = [each.simple_name for chooser, _ in makers for each in chooser]
    energy_ev = raw.metadata.get('photon_energy_eV')
    if name not in known:
        raise ValueError(f'--probe-preset {name}: Ptychodus knows {", ".join(known)}.')
    if not energy_ev or raw.pixel_size_m is None:
        raise ValueError(
            f'--probe-preset {name}: energy and size of an object pixel are not known: say --energy-ev, '
            '--distance-m and --detector-pixel-um.'
        )
    height, width = raw.patterns.shape[-2:]
    geometry = ProbeGeometry(width, height, raw.pixel_size_m[1], raw.pixel_size_m[0])
    wavelength_m = energy_eV_to_wavelength_m(float(energy_ev))
    for chooser, make in makers:
        optics = next((each.strategy for each in chooser if each.simple_name == name), None)
        if optics is not None:
            made: Any = make
            found = made(geometry, optics, photon_wavelength_m=wavelength_m, defocus_distance_m=0.0)
            return numpy.asarray(found.get_array())
    raise AssertionError(name)


def read_mask(path: Path) -> tuple[NDArray[Any], bool]:
    """Returns a mask in a file, and whether it is not zero where pixels are good.

    Read are .npy, .npz and .h5 with one array or one of the usual names, .tif, and the list of
    pixels of 34-ID-E (.json).

    Raises:
        ValueError: the file holds no mask.
    """
    suffix = path.suffix.lower()
    if suffix == '.json':
        return load_registry().bad_pixels_file_readers.get_strategy_by_name(
            'APS_34IDE_Bad_Pixels'
        ).read(path), False
    if suffix in ('.tif', '.tiff'):
        import tifffile

        return tifffile.imread(path), False
    if suffix == '.npy':
        return numpy.load(path, allow_pickle=False), False
    if suffix == '.npz':
        return _only_mask(NpzArrays(path))
    if is_hdf5(path):
        with open_hdf5(path) as file:
            return _only_mask(Hdf5Arrays(file))
    raise ValueError(f'{path} is no mask: .npy, .npz, .tif, .h5 or .json is needed.')


def _only_mask(arrays: Any) -> tuple[NDArray[Any], bool]:
    mask, is_good = named_mask(arrays)
    if mask is not None:
        return mask, is_good
    if 'valid_pixel_mask' in arrays:
        return arrays.array('valid_pixel_mask'), True
    if len(arrays.keys) != 1:
        raise ValueError(
            f'{arrays.path} holds {arrays.shown()}: one of bad_pixels, pixel_mask, good_pixels and mask is needed.'
        )
    return arrays.array(arrays.keys[0]), False
