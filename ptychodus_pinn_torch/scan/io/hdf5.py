"""Arrays of HDF5 files by name: links, filters, virtual datasets and files of MATLAB included."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from ..scan import Scan
from .npz import NamedArrays, damage_named
from .output import NOTHING, scan_arrays, write_atomically
from .pattern_store import UnreadableError, block_slices, check_growth
from .raw import StoredPatterns

__all__ = ['Hdf5Arrays', 'check_links', 'is_hdf5', 'open_hdf5', 'store_patterns', 'write_scan_hdf5']

MATLAB = b'MATLAB 7.3 MAT-file'
_HEADER_BYTES = 2**20
MOST_LINKS, MOST_BYTES = 16, 2**30
"""Links in a row that are followed; bytes of an array that is read into memory."""


def is_hdf5(path: Path) -> bool:
    """Returns whether a file is HDF5, behind a user block too."""
    return bool(h5py.is_hdf5(path))


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading; what is damaged in it becomes a sentence.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no HDF5 file, or damaged.
    """
    with path.open('rb'):
        pass
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 - filters of detectors
    with damage_named(path), h5py.File(path, 'r') as file:
        yield file


class Hdf5Arrays(NamedArrays):
    """Arrays at the top of one open HDF5 file, or of a group in it.

    Args:
        file: File or group, open as long as this is used.
        allow_links: Whether links may lead out of its folder.
    """

    def __init__(self, file: h5py.Group, *, allow_links: bool = False) -> None:
        self.path, self._file, self._allow = Path(file.file.filename), file, allow_links
        kinds = ((name, file.get(name, getclass=True, getlink=True)) for name in file)
        self.keys = tuple(
            name
            for name, kind in kinds
            if kind is not h5py.HardLink or file.get(name, getclass=True) is h5py.Dataset
        )
        self._is_matlab = False
        if file.file.userblock_size:
            with self.path.open('rb') as stream:
                self._is_matlab = stream.read(len(MATLAB)) == MATLAB

    def __contains__(self, key: str) -> bool:
        return key in self.keys or ('/' in key and key in self._file)

    def dataset(self, name: str) -> h5py.Dataset:
        """Returns the dataset of a path in the file, wherever links lead to.

        Raises:
            ValueError: there is none, or it cannot be read; names the file, or filter, that is missing.
        """
        found = _follow(self._file, name, self._allow, MOST_LINKS)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f'{self.path}: {name} is no dataset: export the scan again.')
        _check_sources(found, self._allow, set())
        return found

    def read(self, name: str) -> NDArray[Any]:
        """Returns the array of a name that is there, in memory."""
        dataset = self.dataset(name)
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        if dataset.dtype.kind == 'O' and not is_text:
            raise UnreadableError('it holds objects')
        if dataset.shape is None:
            raise ValueError('it is empty')
        num_bytes = dataset.size * dataset.dtype.itemsize
        if num_bytes > MOST_BYTES:
            raise ValueError(f'it claims {num_bytes / 1e9:.3g} GB')
        values = numpy.asarray(dataset.asstr()[()] if is_text else dataset[()])
        if values.dtype.names == ('real', 'imag'):  # as MATLAB stores complex numbers
            values = values['real'] + 1j * values['imag']
        return values.T if self._is_matlab else values

    def patterns(self, name: str) -> StoredPatterns:
        """Returns the array of a name, still in the file."""
        with damage_named(self.path, f'key {name!r}'):
            return store_patterns(self.dataset(name), is_transposed=self._is_matlab)


def store_patterns(dataset: h5py.Dataset, *, is_transposed: bool = False) -> StoredPatterns:
    """Returns the patterns of a dataset, still in its file.

    Raises:
        ValueError: the file holds next to nothing of them.
    """
    if dataset.dtype.kind not in 'iuf' or not dataset.shape:
        raise ValueError(f'it is {dataset.dtype} of shape {dataset.shape}, not frames of numbers')
    num_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if not dataset.is_virtual and dataset.external is None:
        check_growth(num_bytes, dataset.id.get_storage_size())
    offset = dataset.id.get_offset()
    is_plain = dataset.chunks is None and dataset.external is None and not dataset.is_virtual
    place = None if offset is None or not is_plain else (Path(dataset.file.filename), offset)

    source, name, shape = Path(dataset.file.filename), dataset.name, dataset.shape

    def blocks() -> Iterator[NDArray[Any]]:
        with open_hdf5(source) as file:
            for rows in block_slices(shape[0], num_bytes // max(1, shape[0])):
                yield _open(file, name)[rows]

    return StoredPatterns(shape, dataset.dtype, blocks, place, is_transposed)


def _follow(group: Any, name: str, allow_links: bool, left: int) -> Any:
    """Returns what a path leads to, from a group; None where there is nothing."""
    if left == 0:
        raise UnreadableError(f'{name} leads in a circle')
    item = group.file['/'] if name.startswith('/') else group
    for part in filter(None, name.split('/')):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.ExternalLink):
            path = _check_folder(Path(item.file.filename), link.filename, allow_links)
            # stays open: what is found in it is read later
            item = _follow(h5py.File(path, 'r'), link.path, allow_links, left - 1)
        elif isinstance(link, h5py.SoftLink):
            item = _follow(item, link.path, allow_links, left - 1)
            if item is None:
                raise UnreadableError(f'the link {part} leads to {link.path}, which is not there')
        else:
            item = _open(item, part)
    return item


def _open(group: h5py.Group, name: str) -> Any:
    """Returns an item; raw data outside of HDF5 are those beside its file, not where we run."""
    item = group[name]
    if not isinstance(item, h5py.Dataset) or not item.external:
        return item
    del item  # HDF5 opens nothing in two ways at a time
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b'${ORIGIN}')
    return h5py.Dataset(h5py.h5d.open(group.id, os.fsencode(name), access))


def _check_folder(file: Path, name: str, allow_links: bool) -> Path:
    """Returns the path of a file that another one names, where it is there and may be read."""
    path = file.parent / name
    if not allow_links and not path.resolve().is_relative_to(file.parent.resolve()):
        raise UnreadableError(
            f'it links to {name}, outside of its own folder: pass --allow-links to follow that'
        )
    if not path.is_file():
        raise UnreadableError(f'it links to {name}, which is missing: put that file beside it')
    return path


def _check_sources(
    dataset: h5py.Dataset, allow_links: bool, seen: set[Any], *, is_ours: bool = True
) -> None:
    """Refuses a dataset of which parts or filters are not there, for they would be read as zeros.

    Args:
        dataset: Its parts may have parts themselves.
        allow_links: Whether they may lie out of its folder.
        seen: Parts that were looked at; more are added.
        is_ours: Whether `_open` opens it, not HDF5, which looks for raw data where the program runs.
    """
    file = Path(dataset.file.filename)
    for name, part in _parts(dataset, file.parent):
        path = file if name == '.' else _check_folder(file, name, allow_links)
        if (path, part) in seen or '%b' in part:
            continue
        seen.add((path, part))
        with h5py.File(path, 'r') as other:
            found = _follow(other, part, allow_links, MOST_LINKS)
            if not isinstance(found, h5py.Dataset):
                raise UnreadableError(f'its part {part} is missing in {name}')
            _check_sources(found, allow_links, seen, is_ours=False)
    for raw, *_ in dataset.external or ():
        name = os.fsdecode(raw)
        path = _check_folder(file, name, allow_links)
        if not is_ours and path.resolve() != Path(name).resolve():
            raise UnreadableError(
                f'its data lie in {name}, which HDF5 looks for where the program runs: go to the '
                'folder of the file'
            )
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, title = plist.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            label = title.decode('utf-8', 'replace').partition(';')[0] or 'of a detector'
            raise UnreadableError(
                f'it is packed by the HDF5 filter {code} ({label}), which is not installed: '
                "pip install 'ptychodus-pinn-torch[hdf5]'"
            )


def _parts(dataset: h5py.Dataset, folder: Path) -> Iterator[tuple[str, str]]:
    """Yields file and name of the parts of a virtual dataset; %b counts up to the last file there is."""
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        name, part = source.file_name, source.dset_name
        if '%b' not in name:
            yield name, part
            continue
        form = re.escape(Path(name).name).replace('%b', '(0|[1-9][0-9]*)', 1).replace('%b', r'\1')
        matches = (re.fullmatch(form, path.name) for path in (folder / name).parent.glob('*'))
        for number in range(max((int(each[1]) for each in matches if each), default=0) + 1):
            yield name.replace('%b', str(number)), part.replace('%b', str(number))


def check_links(file: h5py.File) -> None:
    """Refuses a file with links out of its folder, for a reader that follows whatever it meets."""
    links: list[Any] = []
    file.visititems_links(lambda _, link: links.append(link))  # which no error may leave
    for link in links:
        if isinstance(link, h5py.ExternalLink):
            _check_folder(Path(file.filename), link.filename, False)

    def check_item(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            _check_sources(item, False, set(), is_ours=False)

    file.visititems(check_item)


def write_scan_hdf5(path: Path | str, scan: Scan, extra: Mapping[str, Any] = NOTHING) -> Path:
    """Returns the path of the HDF5 file that now holds what `write_scan_npz` would write."""
    return _write_arrays(path, {**scan_arrays(scan), **extra})


def _write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> Path:
    def write(temporary: Path) -> None:
        _reserve(temporary, sum(numpy.asarray(value).nbytes for value in arrays.values()))
        with h5py.File(temporary, 'r+') as file:
            for name, value in arrays.items():
                values = numpy.asarray(value)
                is_text = values.dtype.kind == 'U'
                file[name] = (
                    str(values) if is_text else value
                )  # contiguous, so that it can be mapped

    return write_atomically(path, write)


def _reserve(path: Path, num_bytes: int) -> None:
    """Makes an empty HDF5 file for which the file system has set space aside.

    HDF5 itself ends the process where a disk is full.

    Raises:
        OSError: there is not so much space.
    """
    empty = io.BytesIO()
    with h5py.File(empty, 'w'):
        pass
    with path.open('wb') as file:
        file.write(empty.getbuffer())
        file.flush()
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(file.fileno(), 0, num_bytes + _HEADER_BYTES)
