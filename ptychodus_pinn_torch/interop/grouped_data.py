"""PtychoPINN's data objects: raw data, groups of patterns, containers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from ..scan.io.build import build_scan
from ..scan.io.npz import NpzArrays
from ..scan.io.raw import DiffractionKind, RawScan, ReadOptions
from ..scan.scan import Scan

__all__ = ['MemmapDatasetBridge', 'PtychoDataContainerTorch', 'RawDataTorch']

logger = logging.getLogger(__name__)

REQUIRED = ('xcoords', 'ycoords', 'diff3d', 'probeGuess')


class RawDataTorch:
    """Patterns, positions and probe, as PtychoPINN's scripts hand them over.

    Args:
        xcoords: (M,) columns in pixels of the object, of the middle of the patch, as in files.
        ycoords: (M,) rows.
        diff3d: (M, N, N), counts or amplitudes (see `kind`).
        probeGuess: (N, N), or (modes, N, N), which PtychoPINN does not take.
        scan_index: (M,), kept.
        objectGuess: (H, W) complex, or None.
        config: PtychoPINN's configuration; its model's gridsize is the default of the grouping.
        kind: What `diff3d` is; auto takes whole numbers for counts, roots of them for amplitudes.

    Raises:
        ValueError: arrays that do not fit each other.
    """

    def __init__(
        self,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        diff3d: NDArray[Any],
        probeGuess: NDArray[Any],  # noqa: N803
        scan_index: ArrayLike | None = None,
        objectGuess: NDArray[Any] | None = None,  # noqa: N803
        config: Any = None,
        *,
        kind: DiffractionKind = 'auto',
    ) -> None:
        self.xcoords = numpy.asarray(xcoords, dtype=numpy.float64)
        self.ycoords = numpy.asarray(ycoords, dtype=numpy.float64)
        if self.xcoords.shape != self.ycoords.shape or self.xcoords.ndim != 1:
            raise ValueError('Coordinate arrays must have matching shapes.')
        self.diff3d, self.probeGuess, self.objectGuess = diff3d, probeGuess, objectGuess
        number = len(self.xcoords)
        if diff3d.ndim == 3 and len(diff3d) != number == diff3d.shape[-1]:
            self.diff3d = diff3d = numpy.moveaxis(diff3d, -1, 0)
        if diff3d.ndim != 3 or len(diff3d) != number:
            raise ValueError(
                f'diff3d has shape {diff3d.shape} but there are {number} positions: one pattern '
                'for each position is needed.'
            )
        given = numpy.zeros(number) if scan_index is None else scan_index
        self.scan_index = numpy.asarray(given, dtype=numpy.int64)
        self.config, self.kind = config, kind

    def to_scan(self, name: str = 'raw data') -> Scan:
        """Returns the scan in this package's conventions: counts, and no flips.

        Raises:
            ValueError: what `diff3d` is cannot be told, or the arrays cannot be used.
        """
        positions = numpy.stack([self.ycoords, self.xcoords], axis=1)
        raw = RawScan(numpy.asarray(self.diff3d), positions, self.probeGuess, self.objectGuess)
        options = ReadOptions(diffraction_kind=self.kind)
        return replace(build_scan(Path(name), raw, options), source=None)

    def generate_grouped_data(
        self,
        N: int,  # noqa: N803
        K: int = 4,  # noqa: N803
        nsamples: int = 1,
        seed: int | None = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        dataset_path: str | None = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
    ) -> dict[str, Any]:
        """Returns groups of C = gridsize**2 patterns: B = `nsamples` of them.

        Keys and shapes are PtychoPINN's: `diffraction` and `X_full` (B, N, N, C), `Y` or None,
        `coords_nn` (B, 1, 2, C) with [x, y] on axis 2, `coords_offsets` (B, 1, 2, 1) the mean of
        a group, `coords_relative` = -(coords - mean), the same with `_start`, `nn_indices`
        (B, C), `sample_indices`, `objectGuess`. Put right: the pattern that a group was drawn for is
        always in it (first), and the draw is that of `seed`, not of a global state.

        Args:
            N: Pattern size; must be that of the data.
            K: Neighbours to choose from.
            nsamples: Groups to draw.
            seed: Of the draw; None is 0.
            sequential_sampling: Take the first patterns in order instead of random ones; what
                neighbours they get does not depend on the seed either.
            enable_oversampling: Let patterns have several groups where more groups are asked for
                than there are patterns.
            neighbor_pool_size: Neighbours to choose from instead of K.
            gridsize: Root of C; that of the configuration, or 1.
            dataset_path: Not needed: grouping takes no time worth a file.

        Raises:
            ValueError: K below C, too few patterns, patterns of another size, or more groups than
                patterns without oversampling.
        """
        channels = int(gridsize or _gridsize_of(self.config)) ** 2
        number = len(self.xcoords)
        if self.diff3d.shape[1:] != (N, N):
            raise ValueError(f'patterns are {self.diff3d.shape[1:]} px but N = {N} was asked for.')
        near = K if neighbor_pool_size is None else neighbor_pool_size
        if channels > 1 and channels > near:
            raise ValueError(f'K={near} must be >= C={channels}: choose more neighbours.')
        if number < channels:
            raise ValueError(f'{number} patterns are too few for groups of {channels}.')
        if nsamples > number and not (enable_oversampling and channels > 1):
            if channels > 1:
                raise ValueError(
                    f'{nsamples} groups of {channels} were asked for and there are {number} patterns: '
                    'ask for fewer, or set enable_oversampling.'
                )
            logger.warning('%d groups were asked for: there are %d patterns.', nsamples, number)
        rng = numpy.random.default_rng(0 if seed is None or sequential_sampling else seed)
        times = max(1, -(-nsamples // number)) if enable_oversampling and channels > 1 else 1
        orders = [
            numpy.arange(number) if sequential_sampling else rng.permutation(number)
            for _ in range(times)
        ]
        seeds = numpy.concatenate(orders)[:nsamples]
        return self._gather(self._neighbours(seeds, near, channels, rng), seeds)

    def _neighbours(self, seeds: Any, near: int, channels: int, rng: Any) -> NDArray[Any]:
        if channels == 1:
            return seeds[:, None].astype(numpy.int64)
        points = numpy.stack([self.xcoords, self.ycoords], axis=1)
        pool = min(near + 1, len(points))
        nearest = KDTree(points).query(points[seeds], k=pool)[1]
        rows = []
        for start, row in zip(seeds, nearest):
            others = row[row != start][: pool - 1]
            rows.append([start, *rng.choice(others, size=channels - 1, replace=False)])
        return numpy.asarray(rows, dtype=numpy.int32)

    def _gather(self, indices: NDArray[Any], seeds: NDArray[Any]) -> dict[str, Any]:
        coords = numpy.stack([self.xcoords[indices], self.ycoords[indices]], axis=1)[:, None]
        offsets = coords.mean(axis=-1, keepdims=True)
        relative = -(coords - offsets)
        diffraction = numpy.moveaxis(numpy.asarray(self.diff3d)[indices], 1, -1)
        size = diffraction.shape[1]
        power = numpy.square(diffraction, dtype=numpy.float64).sum(axis=(1, 2)).mean()
        factor = (size / 2.0) / numpy.sqrt(max(float(power), 1e-30))
        return {
            'diffraction': diffraction,
            'X_full': (factor * diffraction).astype(numpy.float32),
            'Y': None if self.objectGuess is None else self._truth(indices, size),
            'coords_nn': coords,
            'coords_start_nn': coords,
            'coords_offsets': offsets,
            'coords_start_offsets': offsets,
            'coords_relative': relative,
            'coords_start_relative': relative,
            'nn_indices': indices,
            'sample_indices': numpy.asarray(seeds),
            'objectGuess': self.objectGuess,
        }

    def _truth(self, indices: NDArray[Any], size: int) -> NDArray[numpy.complex64]:
        assert self.objectGuess is not None
        height, width = self.objectGuess.shape
        y, x = (numpy.rint(c[indices]).astype(int) for c in (self.ycoords, self.xcoords))
        inside = numpy.arange(size) - size // 2
        rows = numpy.clip(y[:, None, None, :] + inside[:, None, None], 0, height - 1)
        columns = numpy.clip(x[:, None, None, :] + inside[:, None], 0, width - 1)
        return self.objectGuess[rows, columns].astype(numpy.complex64)


def _gridsize_of(config: Any) -> int:
    model = getattr(config, 'model', config)
    if isinstance(model, Mapping):
        return int(model.get('gridsize', 1))
    return int(getattr(model, 'gridsize', 1))


class PtychoDataContainerTorch:
    """Tensors of grouped data under PtychoPINN's names.

    Attributes are `X`, `Y_I`, `Y_phi` float32, `Y` and `probe` complex64, `coords_nominal`,
    `coords_true`, `coords_relative`, `local_offsets`, `global_offsets` (float64), `nn_indices`,
    and `norm_Y_I`, the root of `nphotons` per mean energy of a pattern.

    Raises:
        TypeError: `X_full` is not float32, `Y` not complex64, or the offsets not float64.
        ValueError: a key is missing.
    """

    def __init__(
        self, grouped_data: Mapping[str, Any], probe: NDArray[Any], nphotons: float = 1e9
    ) -> None:
        import torch

        wanted = ('X_full', 'coords_relative', 'coords_offsets', 'nn_indices')
        missing = [key for key in wanted if key not in grouped_data]
        if missing:
            raise ValueError(f'grouped data lack {", ".join(missing)}: group the data again.')
        arrays = {
            key: numpy.array(value) for key, value in grouped_data.items() if value is not None
        }
        for key, dtype in (('X_full', 'f4'), ('Y', 'c8'), ('coords_offsets', 'f8')):
            if key in arrays and arrays[key].dtype != dtype:
                raise TypeError(
                    f'{key} is {arrays[key].dtype} but must be {numpy.dtype(dtype).name}.'
                )
        truth = arrays.get('Y', numpy.ones_like(arrays['X_full'], dtype=numpy.complex64))
        nominal = arrays.get('coords_start_relative', arrays['coords_relative'])
        self.X, self.Y = torch.from_numpy(arrays['X_full']), torch.from_numpy(truth)
        self.Y_I, self.Y_phi = self.Y.abs(), self.Y.angle()
        self.coords_nominal = self.coords_true = torch.from_numpy(nominal)
        self.coords_relative = torch.from_numpy(arrays['coords_relative'])
        self.local_offsets = self.coords_relative
        self.global_offsets = torch.from_numpy(arrays['coords_offsets'])
        self.nn_indices = torch.from_numpy(arrays['nn_indices'])
        self._grouped = arrays
        self.norm_Y_I = float((nphotons / self.X.square().sum(dim=(1, 2)).mean()).sqrt())
        self.probe = torch.from_numpy(numpy.asarray(probe, dtype=numpy.complex64))

    def to_raw_data(self) -> RawDataTorch:
        """Returns the patterns of all groups, each once.

        They are those of `diffraction`; grouped data that hold `X_full` alone are taken for
        amplitudes of `nphotons` a pattern.
        """
        arrays = self._grouped
        places = arrays['coords_offsets'] - arrays['coords_relative']  # (B, 1, 2, C)
        numbers, first = numpy.unique(arrays['nn_indices'], return_index=True)
        x, y = numpy.moveaxis(places[:, 0], 1, 0).reshape(2, -1)[:, first]
        has_source = 'diffraction' in arrays
        given = arrays['diffraction'] if has_source else arrays['X_full'] * self.norm_Y_I
        patterns = numpy.moveaxis(given, -1, 1).reshape(-1, *given.shape[1:3])[first]
        return RawDataTorch(
            x,
            y,
            patterns,
            self.probe.numpy(),
            numbers,
            arrays.get('objectGuess'),
            kind='auto' if has_source else 'amplitude',
        )


class MemmapDatasetBridge:
    """Raw data of an NPZ; the patterns stay on disk, so no folder of copies is made.

    Raises:
        KeyError: a required key is missing; lists what is there.
    """

    def __init__(self, npz_path: Path | str, config: Any = None, memmap_dir: Any = None) -> None:
        reader = NpzArrays(Path(npz_path))
        names = {'diff3d': reader.first(('diff3d', 'diffraction')) or 'diff3d'}
        missing = [key for key in REQUIRED if names.get(key, key) not in reader]
        if missing:
            raise KeyError(
                f'{npz_path} lacks {", ".join(missing)}; it holds {", ".join(reader.keys)}.'
            )
        marker = reader.text('diff3d_kind')
        self.raw_data_torch = RawDataTorch(
            reader.array('xcoords'),
            reader.array('ycoords'),
            reader.patterns(names['diff3d']),
            reader.array('probeGuess'),
            reader.optional('scan_index'),
            reader.optional('objectGuess'),
            config,
            kind='amplitude' if marker == 'amplitude' else 'counts' if marker else 'auto',
        )

    def get_grouped_data(self, **arguments: Any) -> dict[str, Any]:
        """Returns groups (see `RawDataTorch.generate_grouped_data`)."""
        arguments.setdefault('N', self.raw_data_torch.diff3d.shape[-1])
        return self.raw_data_torch.generate_grouped_data(**arguments)

    generate_grouped_data = get_grouped_data
