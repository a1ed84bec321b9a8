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

from .hdf5 import Hdf5Arrays, check_links, is_hdf5, open_hdf5, store_patterns
from .named import named_mask
from .npz import DAMAGE, NpzArrays
from .pair import load_product, pair_by_index, raw_of_product, select_rows
from .raw import RawScan, ReadOptions, StoredPatterns

if TYPE_CHECKING:
    from ptychodus.api.plugins import PluginRegistry
    from ptychodus.api.probe_positions import ProbePositionSequence

__all__ = [
    'find_format',
    'load_registry',
    'make_probe',
    'read_hosted',
    'read_mask',
    'replace_positions',
]

logger = logging.getLogger(__name__)

PATTERNS_BY_ENDING = {'.cxi': 'CXI', '.npy': 'NPY', '.tif': 'TIFF', '.tiff': 'TIFF'}
POSITIONS_BY_ENDING = {'.csv': 'CSV', '.txt': 'TXT', '.mda': 'MDA', '.cxi': 'CXI', '.npz': 'NPZ',
                       '.h5': 'HDF5', '.hdf5': 'HDF5'}  # fmt: skip
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

    Positions come from their own file, from a product, or from the file of the patterns.

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
    patterns = _store(path, arrays, about)
    if name == 'CXI':  # whose patterns can be mapped
        with open_hdf5(path) as file:
            data = Hdf5Arrays(file, allow_links=options.allow_links)
            found = next(
                (key for key in ('entry_1/data_1/data', 'entry_1/instrument_1/detector_1/data') if key in file), ''
            )  # fmt: skip
            patterns = store_patterns(data.dataset(found))
    raw = _with_positions(path, name, options, indexes, patterns)
    return _with_geometry(replace(raw, bad_pixels=bad_pixels, source=path), about, options)


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


def _with_positions(
    path: Path, name: str, options: ReadOptions, indexes: NDArray[Any], patterns: StoredPatterns
) -> RawScan:
    """Returns the patterns that have a position, with these; and with the product where there is one."""
    if options.product is not None or name == 'CXI' and _has_object(path):
        product = load_product(options.product or path, options)
        rows, paired = pair_by_index(path, indexes, product)
        return replace(raw_of_product(paired, {}), patterns=select_rows(path, patterns, rows))
    beside = path.with_name('product.cxi')
    if name == 'CXI' and options.positions_file is None and beside.exists():
        rows, paired = pair_by_index(path, indexes, load_product(beside, options))
        return replace(raw_of_product(paired, {}), patterns=select_rows(path, patterns, rows))
    if options.positions_file is not None:
        positions = read_positions(options.positions_file, options)
    else:
        positions = _read_sequence(path, ALSO_POSITIONS.get(name, name), options)
    rows, places = _match(indexes, positions)
    return RawScan(patterns=select_rows(path, patterns, rows), positions_m=places)


def _has_object(path: Path) -> bool:
    with open_hdf5(path) as file:
        return 'entry_1/image_2' in file


def _match(
    indexes: NDArray[Any], positions: ProbePositionSequence
) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
    """Returns the rows of the patterns that have a position (J,), and these (J, 2)."""
    places = numpy.stack(
        [positions.get_coordinates_y_m(), positions.get_coordinates_x_m()], axis=-1
    )
    numbers = numpy.asarray(positions.get_indexes())
    is_row_by_row = len(numbers) == len(indexes) and (numpy.diff(numbers) == 1).all()
    if is_row_by_row and (numpy.diff(indexes) == 1).all():  # a header shifts the numbers of rows
        return numpy.arange(len(indexes), dtype=numpy.int64), numpy.asarray(places, float)
    if len(set(numbers.tolist())) < len(numbers) or len(numbers) != len(indexes):
        logger.info('%d patterns, %d positions: paired by number.', len(indexes), len(numbers))
    known, inverse = numpy.unique(numbers, return_inverse=True)
    counts = numpy.bincount(inverse)
    rows = numpy.flatnonzero((indexes >= known[0]) & (indexes <= known[-1]))
    columns = [numpy.bincount(inverse, weights=column) / counts for column in places.T]
    wanted = [numpy.interp(indexes[rows], known, column) for column in columns]
    return rows, numpy.stack(wanted, axis=-1)


def replace_positions(raw: RawScan, options: ReadOptions) -> RawScan:
    """Returns a scan of another layout with the positions of the file that the user names."""
    from ptychodus.api.diffraction import DiffractionMetadata

    assert options.positions_file is not None
    number = raw.patterns.shape[0]
    rows, places = _match(numpy.arange(number), read_positions(options.positions_file, options))
    patterns = raw.patterns if len(rows) == number else raw.patterns[rows]
    found = replace(raw, patterns=patterns, positions_px=None, positions_m=places)
    return _with_geometry(found, DiffractionMetadata.create_null(options.positions_file), options)


def read_positions(path: Path, options: ReadOptions) -> ProbePositionSequence:
    """Returns the positions of a file, in the format that the user says, or by its ending."""
    name = options.positions_format or POSITIONS_BY_ENDING.get(path.suffix.lower())
    if name is None:
        raise ValueError(
            f'{path}: the format of the positions is not told by its ending: say '
            '--positions-format (see ptychodus-pinn formats).'
        )
    return _read_sequence(path, name, options)


def _read_sequence(path: Path, name: str, options: ReadOptions) -> ProbePositionSequence:
    chooser = load_registry().probe_position_file_readers
    if options.positions_file is None and name not in {each.simple_name for each in chooser}:
        raise ValueError(f'{path} holds no positions: name their file with --positions.')
    if is_hdf5(path) and not options.allow_links:
        with open_hdf5(path) as file:
            check_links(file)
    try:
        found = _choose(chooser, name, '--positions-format').read(path)
    except DAMAGE as error:
        raise ValueError(
            f'{path}: no positions can be read as {name} of Ptychodus ({error}): name their file with '
            '--positions, and its format with --positions-format.'
        ) from error
    if not len(found):
        raise ValueError(f'{path} holds no positions: export them again.')
    return found


def _with_geometry(raw: RawScan, about: Any, options: ReadOptions) -> RawScan:
    """Returns the scan with the size of an object pixel, which energy, distance and detector make.

    The user's word goes before that of the file.
    """
    from ptychodus.api.constants import energy_eV_to_wavelength_m

    energy_ev = options.energy_ev or about.photon_energy_eV
    distance_m = options.distance_m or about.detector_distance_m
    pixel = about.detector_pixel_geometry
    pixel_m = None if pixel is None else (pixel.height_m, pixel.width_m)
    if options.detector_pixel_um is not None:
        pixel_m = options.detector_pixel_um[0] * 1e-6, options.detector_pixel_um[-1] * 1e-6
    known = {
        'photon_energy_eV': energy_ev,
        'detector_distance_m': distance_m,
        'detector_pixel_m': None if pixel_m is None else float(pixel_m[0]),
        'probe_photon_count': about.probe_photon_count,
        'exposure_time_s': about.exposure_time_s,
        'tomography_angle_deg': about.tomography_angle_deg,
    }
    told = {name: value for name, value in known.items() if value is not None}
    metadata = {**told, **raw.metadata}
    if raw.pixel_size_m is not None:
        return replace(raw, metadata=metadata)
    missing = [
        flag
        for flag, value in (
            ('--energy-ev', energy_ev), ('--distance-m', distance_m), ('--detector-pixel-um', pixel_m)
        )
        if not value
    ]  # fmt: skip
    if missing:
        raise ValueError(
            f'{raw.source}: the size of an object pixel is not told by the file: say '
            f'{", ".join(missing)}.'
        )
    assert pixel_m is not None
    wavelength_m = energy_eV_to_wavelength_m(float(energy_ev))
    size = [
        wavelength_m * abs(float(distance_m)) / (number * length)
        for number, length in zip(raw.patterns.shape[-2:], pixel_m)
    ]
    if not all(math.isfinite(value) and value > 0.0 for value in size):
        raise ValueError(
            f'{raw.source}: energy {energy_ev} eV, distance {distance_m} m and detector pixel '
            f'{pixel_m} m make no object pixel: say the right ones.'
        )
    return replace(raw, pixel_size_m=(size[0], size[1]), metadata=metadata)


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
            f'{arrays.path} holds {arrays.shown()}: one of bad_pixels, good_pixels and mask is needed.'
        )
    return arrays.array(arrays.keys[0]), False
