"""The object API of PtychoPINN's torch code: configurations, loader, model, trainer, engine.

Names and calls are theirs, the work is this package's. Fields that are set and have no counterpart
are named in a warning.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..backend import TrainRequest, get_backend, ignore_report, resolve_backend
from ..config import Config, override_config
from ..models.opening import open_model
from ..models.safe_zip import SafeZip
from ..models.torch_file import load_tensors
from ..scan.io.build import build_scan
from ..scan.io.output import write_atomically
from ..scan.io.raw import RawScan
from ..scan.io.reading import read_scan
from ..scan.scan import Scan
from .config_manager import ConfigManager
from .object_fields import (
    SECTIONS,
    DataConfig,
    DatagenConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
)
from .trained_model import TrainedModel, unused

__all__ = [
    'ConfigManager',
    'DataConfig',
    'Datagen',
    'DatagenConfig',
    'DataloaderFormats',
    'InferenceConfig',
    'InferenceEngine',
    'ModelConfig',
    'PtychoDataLoader',
    'PtychoModel',
    'Trainer',
    'TrainingConfig',
]


class DataloaderFormats(Enum):
    """How a loader hands over its data; here there is one way, whatever is asked for."""

    LIGHTNING = 'lightning_only_module'


class PtychoDataLoader:
    """Scans of a folder or of arrays."""

    def __init__(
        self,
        data_dir: Path | str | None = None,
        config_manager: ConfigManager | None = None,
        data_format: Any = DataloaderFormats.LIGHTNING,
        output_dir: Path | str | None = None,
        *,
        scans: tuple[Scan, ...] = (),
    ) -> None:
        self.config_manager = config_manager or ConfigManager()
        self.data_format = DataloaderFormats(data_format or DataloaderFormats.LIGHTNING)
        parent = Path(output_dir or self.config_manager.training_config.output_dir)
        self.output_dir = parent / time.strftime('run_%Y%m%d_%H%M%S')
        self.scans = scans
        if data_dir is not None:
            folder = Path(data_dir)
            if not folder.exists():
                raise FileNotFoundError(f'{folder}: there is no such folder.')
            paths = [folder] if folder.is_file() else sorted(folder.glob('*.npz'))
            if not paths:
                raise ValueError(f'{data_dir}: holds no *.npz: export training data first.')
            self.scans = tuple(read_scan(path) for path in paths)

    @classmethod
    def from_np(
        cls,
        diff_patterns: NDArray[Any],
        probe: NDArray[Any],
        positions: NDArray[Any],
        config_manager: ConfigManager | None = None,
    ) -> PtychoDataLoader:
        """Returns the loader of one scan: counts (n, N, N), probe (P, N, N), (n, 2) [y, x] px."""
        raw = RawScan(numpy.asarray(diff_patterns), numpy.asarray(positions), numpy.asarray(probe))
        return cls(config_manager=config_manager, scans=(build_scan(Path('arrays'), raw),))

    def __len__(self) -> int:
        return len(self.scans)

    def __iter__(self) -> Iterator[Scan]:
        return iter(self.scans)


class PtychoModel:
    """A model: a new one to be trained, or one of an archive or checkpoint.

    Args:
        data_config: What the model is for; the others likewise.
    """

    def __init__(
        self,
        data_config: Any = None,
        model_config: Any = None,
        training_config: Any = None,
        inference_config: Any = None,
        *,
        config: Config | None = None,
        path: Path | None = None,
    ) -> None:
        manager = ConfigManager(data_config, model_config, training_config, inference_config)
        self.config, self.path = config or manager.to_config(), path

    @classmethod
    def _new_model(
        cls, model: Any = None, config_manager: ConfigManager | None = None
    ) -> PtychoModel:
        return cls(config=(config_manager or ConfigManager()).to_config())

    @classmethod
    def load(cls, path: Path | str, *, backend: str | None = None) -> PtychoModel:
        """Returns the model of our archive, or of one of PtychoPINN.

        Raises:
            ArchiveError: neither.
        """
        path = Path(path)
        return cls(config=open_model(path, backend=resolve_backend(backend)).config, path=path)

    def save(self, path: Path | str) -> Path:
        """Returns the path of the archive that now holds the model, `.zip` at its end.

        Raises:
            ValueError: the model was not trained yet.
        """
        source, target = self._trained(), Path(path)
        if target.suffix != '.zip':
            target = target.with_name(f'{target.name}.h5.zip')
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.resolve() == target.resolve():
            return target
        return write_atomically(target, lambda part: shutil.copyfile(source, part))

    def _trained(self) -> Path:
        if self.path is None:
            raise ValueError('the model has no weights yet: train it, or load one.')
        return self.path

    @property
    def model(self) -> Any:
        """The network with its weights.

        Raises:
            ValueError: the model was not trained yet.
        """
        archive = open_model(self._trained())
        return get_backend(archive.backend).load_network(archive, Config())

    @staticmethod
    def _extract_configs_from_checkpoint(
        path: str,
    ) -> tuple[DataConfig, ModelConfig, TrainingConfig, InferenceConfig]:
        """Returns the configurations that a checkpoint of PtychoPINN holds; fields of theirs only.

        Raises:
            ArchiveError: no checkpoint.
            ValueError: it holds no configurations.
        """
        tree = load_tensors(SafeZip(Path(path), path))
        stored = tree.get('hyper_parameters') if isinstance(tree, Mapping) else None
        if not isinstance(stored, Mapping) or 'model_config' not in stored:
            raise ValueError(f'{path}: holds no configurations of PtychoPINN.')
        found = []
        for kind in (DataConfig, ModelConfig, TrainingConfig, InferenceConfig):
            name = next(key for key, value in SECTIONS.items() if value is kind)
            fields = dict(stored.get(name) or {})
            found.append(kind(**{key: x for key, x in fields.items() if key in kind.DEFAULTS}))
        return tuple(found)  # type: ignore[return-value]


class Trainer:
    """Trains a model on the scans of a loader.

    Args:
        model: Which one.
        dataloader: The scans.
        config_manager: How.
        backend: The engine; PTYCHOPINN_BACKEND where it is not given.
    """

    def __init__(
        self,
        model: PtychoModel,
        dataloader: PtychoDataLoader,
        config_manager: ConfigManager,
        *,
        backend: str | None = None,
    ) -> None:
        self.model, self.dataloader, self.config_manager = model, dataloader, config_manager
        self.backend = backend

    @classmethod
    def _from_lightning(
        cls,
        model: PtychoModel,
        dataloader: PtychoDataLoader,
        orchestration: str = 'lightning',
        config_manager: ConfigManager | None = None,
        *,
        backend: str | None = None,
    ) -> Trainer:
        manager = config_manager or dataloader.config_manager
        return cls(model, dataloader, manager, backend=backend)

    def train(self, orchestration: str = 'lightning', experiment_name: str = '') -> Path:
        """Returns the path of the archive that training has written; the model uses it."""
        number = sum(scan.num_patterns for scan in self.dataloader.scans)
        training = self.config_manager.training_config
        steps = max(1, -(-number // int(training.batch_size)))
        config = self.config_manager.to_config(steps_per_epoch=steps)
        output = unused(self.dataloader.output_dir / f'{experiment_name or "wts"}.h5.zip')
        output.parent.mkdir(parents=True, exist_ok=True)
        backend = resolve_backend(self.backend, training.backend)
        request = TrainRequest(self.dataloader.scans, config, output, backend=backend)
        from ..training.run import train

        self.model.path = train(request, ignore_report)
        self.model.config = open_model(self.model.path).config
        return self.model.path


class InferenceEngine:
    """Makes images with a model.

    Args:
        config_manager: Kept; images depend on no field of it.
        ptycho_model: The model.
        backend: The engine; that of the model where it is not given.
        options: Ours, by path, such as `{'reconstruction.refine_epochs': 0}`: the network alone.
    """

    def __init__(
        self,
        config_manager: ConfigManager,
        ptycho_model: PtychoModel,
        *,
        backend: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.config_manager, self.model, self.backend = config_manager, ptycho_model, backend
        self.config = override_config(Config(), dict(options or {}), source='options')

    def predict_and_stitch(
        self, loader: PtychoDataLoader, index: int = 0
    ) -> NDArray[numpy.complex64]:
        """Returns the complex image (Y, X) of a scan of the loader, all its positions, on its grid.

        Raises:
            ValueError: the model was not trained yet.
        """
        path = self.model._trained()
        backend = self.backend or open_model(path).backend
        model = TrainedModel(path, self.config, backend=backend)
        return model.reconstruct(loader.scans[index])

    def predict(self, loader: PtychoDataLoader, index: int = 0) -> NDArray[numpy.complex64]:
        """Returns the part (n, N, N) of the image that each pattern of a scan has seen.

        Cut out at the pixel next to the position; parts that overlap agree, since they are of one
        image.
        """
        scan, image = loader.scans[index], self.predict_and_stitch(loader, index)
        size = numpy.asarray(scan.pattern_shape)
        first = numpy.rint(scan.positions_px - (size - 1) / 2).astype(int)
        first = numpy.clip(first, 0, numpy.asarray(image.shape) - size)
        return numpy.stack([image[y : y + size[0], x : x + size[1]] for y, x in first])


class Datagen:
    """Simulates scans with exact dose and incoherent modes.

    Args:
        config_manager: With the fields of the simulation.
    """

    def __init__(self, config_manager: ConfigManager | None = None) -> None:
        self.config_manager = config_manager or ConfigManager()

    def simulate(self, number: int = 1) -> tuple[Scan, ...]:
        """Returns scans of `number` objects under one probe, with their truth."""
        from ..simulation.simulated_scan import SimulationSpec, simulate_scans

        spec = SimulationSpec(**self.config_manager.datagen_config.given())
        return tuple(simulate_scans(spec, list(range(spec.seed, spec.seed + number))))
