"""A model under PtychoPINN's names, and the scans that scripts hand to it."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..backend import ReconstructRequest, ignore_report, resolve_backend
from ..config import Config
from ..models.archive import Archive
from ..scan.io.reading import read_scan
from ..scan.scan import Scan
from .grouped_data import REQUIRED, MemmapDatasetBridge, PtychoDataContainerTorch, RawDataTorch

__all__ = [
    'MODEL_NAMES',
    'TrainedModel',
    'as_scan',
    'history_of',
    'keep_aside',
    'unused',
]

logger = logging.getLogger(__name__)

MODEL_NAMES = ('diffraction_to_obj', 'autoencoder')


@dataclass
class TrainedModel:
    """A model archive that reconstructs.

    Attributes:
        path: The archive, ours or PtychoPINN's.
        config: Used for reconstruction.
        history: `train_loss` and `val_loss` of the training, if it is known.
        backend: The engine, or None for that of PTYCHOPINN_BACKEND.
    """

    path: Path
    config: Config
    history: dict[str, list[float]] = field(default_factory=dict)
    backend: str | None = None

    def reconstruct(self, data: Any) -> NDArray[numpy.complex64]:
        """Returns the complex image of raw data, a scan, or a file, on the object's grid.

        The whole procedure makes it: network, refinement, judgement; how it went is logged.
        """
        from ..reconstruction import procedure

        engine = resolve_backend(self.backend)
        request = ReconstructRequest(as_scan(data), self.config, self.path, engine)
        image = procedure.reconstruct(request, ignore_report)
        if self.config.reconstruction.refine_epochs:
            logger.warning(
                'what the network has made is refined through the physics; '
                'reconstruction.refine_epochs = 0 leaves it alone.'
            )
        return image.object_  # type: ignore[no-any-return]

    __call__ = reconstruct


def as_scan(data: Any) -> Scan:
    """Returns the scan of whatever a script hands over.

    Raises:
        TypeError: nothing that holds patterns, positions and a probe.
    """
    if isinstance(data, Scan):
        return data
    if isinstance(data, (str, Path)):
        return read_scan(data)
    if isinstance(data, MemmapDatasetBridge):
        data = data.raw_data_torch
    if isinstance(data, PtychoDataContainerTorch):
        data = data.to_raw_data()
    if not isinstance(data, RawDataTorch) and all(hasattr(data, name) for name in REQUIRED):
        x, y, diff3d, probe = (getattr(data, name) for name in REQUIRED)
        data = RawDataTorch(x, y, diff3d, probe, objectGuess=getattr(data, 'objectGuess', None))
    if isinstance(data, RawDataTorch):
        return data.to_scan()
    raise TypeError(
        f'a {type(data).__name__} holds no patterns, positions and probe: give RawDataTorch, '
        'PtychoDataContainerTorch, a scan, or the path of one.'
    )


def unused(path: Path) -> Path:
    """Returns the path, with a number before its suffixes where something is there already."""
    stem, dot, suffixes = path.name.partition('.')
    names = (f'{stem}_{number}{dot}{suffixes}' for number in itertools.count(2))
    paths = itertools.chain([path], map(path.with_name, names))
    return next(found for found in paths if not found.exists())


def keep_aside(path: Path) -> None:
    """Renames a file that is about to be written again, and says so."""
    if path.exists():
        kept = path.rename(unused(path))
        logger.warning('%s was there: it is kept as %s.', path, kept.name)


def history_of(archive: Archive, num_epochs: int | None = None) -> dict[str, list[float]]:
    """Returns `train_loss` and `val_loss` of a run.

    Epochs here go through all patterns, and may be longer or shorter than those that were asked
    for; with their number, each list has so many entries: what was known after that part of the
    steps.
    """
    found = {}
    for name, column in (('train_loss', 'loss'), ('val_loss', 'held_out')):
        rows = [
            (float(row['step'] or 0), float(value))
            for row in archive.history
            if (value := row.get(column)) is not None
        ]
        if num_epochs and rows:
            steps, values = numpy.asarray(rows).T
            last = float(archive.details.get('steps') or steps[-1])
            ends = last * numpy.arange(1, num_epochs + 1) / num_epochs
            places = numpy.searchsorted(steps, ends, side='right') - 1
            found[name] = [float(value) for value in values[numpy.clip(places, 0, None)]]
        else:
            found[name] = [value for _, value in rows]
    return found
