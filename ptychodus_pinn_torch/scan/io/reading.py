"""Reading scans from files and folders of every known layout."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..positions import PositionTransform
from ..resampling import bin_scan, crop_scan
from ..scan import Scan
from .apart import read_apart
from .axes import order_patterns
from .build import build_scan
from .hdf5 import is_hdf5
from .hosted import (
    find_format,
    make_probe,
    put_positions,
    read_hosted,
    read_mask,
    read_places,
    with_geometry,
)
from .matlab import MatlabArrays, is_matlab
from .named import read_named
from .npz import NpzArrays, damage_named, is_zip
from .pair import read_hdf5
from .raw import RawScan, ReadOptions

__all__ = ['LAYOUTS', 'Layout', 'read_scan']

logger = logging.getLogger(__name__)

_MIN_SIZE, _MAX_SIZE = 32, 512


@dataclass(frozen=True)
class Layout:
    """A way in which scans lie in files or folders.

    Attributes:
        recognises: Whether a path holds a scan of this kind; a look at its head is enough.
        read: Which array of a path is which. Everything else is done afterwards, the same for every
            layout.
    """

    recognises: Callable[[Path, ReadOptions], bool]
    read: Callable[[Path, ReadOptions], RawScan]


def read_scan(path: Path | str, options: ReadOptions | None = None, **given: Any) -> Scan:
    """Returns the scan in a file or folder, in the package's conventions.

    Read are Ptychodus' training NPZ, PtychoPINN's NPZ, an NPZ with positions in metres, the NPZ of
    `ptychodus-pinn simulate`, the same arrays in HDF5 and in MATLAB's files, Ptychodus'
    `diffraction.h5` with `product.h5`, CXI, and by name every format of Ptychodus. Patterns keep the
    dtype of the file and stay on disk. What was decided is in `Scan.findings`.

    Args:
        path: A file, or a folder with `diffraction.h5` and `product.h5`.
        options: What there is to say of the file; `given` are single fields of it: `product`,
            `patterns_format`, `positions_file`, `positions_format`, `energy_ev`, `distance_m`,
            `detector_pixel_um`, `center`, `crop`, `bin`, `diffraction_kind`, `gain`, `saturation`,
            `bad_pixels`, `invert_mask`, `allow_links`, `positions` (a `PositionTransform`).

    Raises:
        ValueError: the file is no scan, or one that cannot be used; says why and what to do.
        OSError: the file cannot be opened.

    Examples:
        >>> import tempfile
        >>> import ptychodus_pinn_torch as pinn
        >>> from ptychodus_pinn_torch.scan.io.output import write_scan_npz
        >>> scan = pinn.simulate(pattern_size=64, num_positions=25)
        >>> path = write_scan_npz(tempfile.mkdtemp() + '/scan.npz', scan)
        >>> pinn.read_scan(path).patterns.shape
        (25, 64, 64)
        >>> pinn.read_scan(path, crop=32).pattern_shape
        (32, 32)
        >>> turned = pinn.PositionTransform(exchange_axes=True, flip_y=True)
        >>> pinn.read_scan(path, positions=turned).num_patterns
        25
    """
    path, options = Path(path), _complete(options or ReadOptions(), given)
    raw = _read_raw(path, options)
    scan = build_scan(raw.source or path, raw, options)
    crop = options.crop
    if crop is None and options.center is not None:
        crop = _largest_crop(scan.pattern_shape, options.center)
    scan = scan if crop is None else crop_scan(scan, crop, options.center)
    height, width = scan.pattern_shape
    if height != width:
        raise ValueError(
            f'{path}: the patterns are {height} x {width} pixels but must be square: say --crop '
            f'{min(height, width) // 2 * 2}, or less.'
        )
    scan = scan if options.bin is None else bin_scan(scan, options.bin)
    size = scan.pattern_shape[0]
    if size % 2 or not _MIN_SIZE <= size <= _MAX_SIZE:
        raise ValueError(
            f'{path}: patterns of {size} pixels cannot be used, an even number from {_MIN_SIZE} '
            f'to {_MAX_SIZE} is needed: say --crop or --bin.'
        )
    logger.info(
        '%s: %d patterns of %d x %d (%s), %d probe modes, object %d x %d',
        scan.name,
        scan.num_patterns,
        size,
        size,
        scan.patterns.dtype,
        scan.num_modes,
        *scan.object_.shape,
    )
    return scan


def _complete(options: ReadOptions, given: dict[str, Any]) -> ReadOptions:
    paths = {'product', 'positions_file', 'bad_pixels'}
    known: dict[str, Any] = {
        name: Path(value) if name in paths and value is not None else value
        for name, value in given.items()
    }
    if known.get('positions', ...) is None:
        known['positions'] = PositionTransform()
    return replace(options, **known)


def _read_raw(path: Path, options: ReadOptions) -> RawScan:
    """Returns what layout and user say of a scan; refuses what the user says where it does nothing."""
    if not path.exists():
        raise FileNotFoundError(2, 'No such file or directory', str(path))
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f'{path} is neither a file nor a folder: name a file.')
    layout = next((each for each in LAYOUTS if each.recognises(path, options)), None)
    if layout is None:
        raise ValueError(
            f'{path} is neither an NPZ nor an HDF5 file, nor one of MATLAB: name its format with '
            '--patterns-format (see ptychodus-pinn formats), or a folder with diffraction.h5 and '
            'product.h5.'
        )
    if options.positions_format is not None and options.positions_file is None:
        raise ValueError(f'{path}: --positions-format has no effect without --positions.')
    if options.product is not None and layout.read in (_read_npz, _read_matlab_apart):
        raise ValueError(f'{path} holds a whole scan: --product has no effect on it, leave it out.')
    raw = layout.read(path, options)
    raw = replace(raw, source=raw.source or path)
    is_in_metres = raw.positions_m is not None and raw.pixel_size_m is None
    needs_geometry = is_in_metres or options.positions_file is not None
    if layout.read is not _read_by_host:
        names = ('distance_m', 'detector_pixel_um', 'energy_ev', 'patterns_format')
        used = names[:3] if needs_geometry else ()
        for name in names:
            if name in options.given() and name not in used:
                raise ValueError(
                    f'{path}: --{name.replace("_", "-")} has no effect on this file, which '
                    'says it itself: leave it out.'
                )
    if options.positions_file is not None:
        found = read_apart(options.positions_file, lambda: read_places(options))
        raw = put_positions(raw, **found)
    elif is_in_metres and raw.positions_m is not None:
        number = raw.positions_m.size // 2
        raw = replace(raw, patterns=order_patterns(path, raw.patterns, number))
    if needs_geometry:
        raw = with_geometry(raw, options)
    if options.probe_preset is not None:
        if raw.probe is not None:
            raise ValueError(f'{path} has a probe: leave out --probe-preset.')
        raw = replace(raw, probe=make_probe(raw, options.probe_preset))
    if options.bad_pixels is not None:
        with damage_named(options.bad_pixels):
            mask, is_good = read_mask(options.bad_pixels)
        raw = replace(raw, bad_pixels=mask, is_good_mask=is_good)
    return raw


def _apart(read: Callable[[Path, ReadOptions], RawScan]) -> Callable[[Path, ReadOptions], RawScan]:
    """Returns a reader that runs in a process of its own."""

    def read_there(path: Path, options: ReadOptions) -> RawScan:
        return RawScan(**read_apart(path, lambda: vars(read(path, options))))

    return read_there


def _read_npz(path: Path, options: ReadOptions) -> RawScan:
    return read_named(NpzArrays(path), needs_positions=options.positions_file is None)


def _read_matlab(path: Path, options: ReadOptions) -> RawScan:
    return read_named(MatlabArrays(path), needs_positions=options.positions_file is None)


_read_by_host, _read_matlab_apart = _apart(read_hosted), _apart(_read_matlab)

LAYOUTS = (
    Layout(lambda path, options: path.is_file() and find_format(path, options) is not None,
           _read_by_host),
    Layout(lambda path, _: path.is_dir() or is_hdf5(path), _apart(read_hdf5)),
    Layout(lambda path, _: is_zip(path), _read_npz),
    Layout(lambda path, _: is_matlab(path), _read_matlab_apart),
)  # fmt: skip
"""The first that recognises a path reads it; a new one goes to the front."""


def _largest_crop(shape: tuple[int, int], center: tuple[float, float]) -> int:
    """Returns the side of the largest square about a pixel that lies in a frame."""
    room = [min(round(at), size - round(at)) for at, size in zip(center, shape)]
    return 2 * max(0, min(room))
