"""The object API of PtychoPINN's torch code: configurations, loader, model, trainer, engine.

Names and calls are theirs, the work is this package's. Fields without a counterpart are named in
a warning when they are set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
from numpy.typing import NDArray

from ..backend import TrainRequest, ignore_report, resolve_backend
from ..config import Config, override_config
from ..models.opening import open_model
from ..scan.files import read_scan
from ..scan.npz_layouts import RawScan
from ..scan.scan import Scan
from ..scan.scan_checks import build_scan
from .legacy_config import config_from_legacy
from .workflows import TrainedModel

__all__ = [
    'ConfigManager',
    'DataConfig',
    'Datagen',
    'DatagenConfig',
    'InferenceConfig',
    'InferenceEngine',
    'ModelConfig',
    'PtychoDataLoader',
    'PtychoModel',
    'Trainer',
    'TrainingConfig',
]


DataConfig = ModelConfig = TrainingConfig = InferenceConfig = DatagenConfig = SimpleNamespace
"""What is not given is not set. Images depend on no field of the inference; the fields of the
simulation are those of `SimulationSpec`."""


class ConfigManager:
    """Holds the configurations and makes one of ours of them."""

    def __init__(
        self,
        data_config: Any = None,
        model_config: Any = None,
        training_config: Any = None,
        inference_config: Any = None,
        datagen_config: Any = None,
    ) -> None:
        self.data_config = data_config or DataConfig()
        self.model_config = model_config or ModelConfig(mode='Unsupervised')
        self.training_config = training_config or TrainingConfig()
        self.inference_config = inference_config or InferenceConfig()
        self.datagen_config = datagen_config or DatagenConfig()

    @classmethod
    def from_loaded_model(cls, model: PtychoModel) -> ConfigManager:
        """Returns the configurations that a model was made with."""
        network = model.config.network
        mode = model.config.mode.capitalize()
        return cls(DataConfig(N=network.size_px, C=network.stack_size), ModelConfig(mode=mode))

    def validate_arch_compatibility(self, model: PtychoModel) -> None:
        """Refuses a model of another pattern size.

        Raises:
            ValueError: names both sizes.
        """
        size, own = getattr(self.data_config, 'N', 0), model.config.network.size_px
        if size and own and size != own:
            raise ValueError(f'the model takes patterns of {own} px, the data have {size} px.')

    def to_config(self, *, steps_per_epoch: int = 32) -> Config:
        """Returns our configuration."""
        training = vars(self.training_config)
        batch = int(training.get('batch_size', 16))
        fields = {**vars(self.data_config), **vars(self.model_config), **training}
        if 'epochs' in fields:
            fields['n_groups'] = steps_per_epoch * batch
        start = override_config(Config(), {'training.start': 'none'})
        return config_from_legacy(fields, start=start).config


class PtychoDataLoader:
    """Scans of a folder or of arrays."""

    def __init__(
        self,
        data_dir: Path | str | None = None,
        config_manager: ConfigManager | None = None,
        data_format: Any = None,
        output_dir: Path | str | None = None,
        *,
        scans: tuple[Scan, ...] = (),
    ) -> None:
        self.config_manager = config_manager or ConfigManager()
        self.output_dir = Path(output_dir or 'training_outputs')
        self.scans = scans
        if data_dir is not None:
            paths = sorted(Path(data_dir).glob('*.npz'))
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
        raw = RawScan(
            numpy.asarray(diff_patterns), numpy.asarray(positions), numpy.asarray(probe), None, None
        )
        return cls(config_manager=config_manager, scans=(build_scan(Path('arrays'), raw),))


@dataclass
class PtychoModel:
    """A model: a new one to be trained, or one of an archive or checkpoint."""

    config: Config
    path: Path | None = None

    @classmethod
    def _new_model(
        cls, model: Any = None, config_manager: ConfigManager | None = None
    ) -> PtychoModel:
        return cls((config_manager or ConfigManager()).to_config())

    @classmethod
    def load(cls, path: Path | str) -> PtychoModel:
        """Returns the model of our archive, or of one of PtychoPINN.

        Raises:
            ArchiveError: neither.
        """
        path = Path(path)
        return cls(open_model(path, backend=resolve_backend()).config, path)


@dataclass
class Trainer:
    """Trains a model on the scans of a loader."""

    model: PtychoModel
    dataloader: PtychoDataLoader
    config_manager: ConfigManager

    @classmethod
    def _from_lightning(
        cls,
        model: PtychoModel,
        dataloader: PtychoDataLoader,
        orchestration: str = 'lightning',
        config_manager: ConfigManager | None = None,
    ) -> Trainer:
        return cls(model, dataloader, config_manager or dataloader.config_manager)

    def train(self, orchestration: str = 'lightning', experiment_name: str = '') -> Path:
        """Returns the path of the archive that training has written; the model uses it."""
        number = sum(scan.num_patterns for scan in self.dataloader.scans)
        batch = int(getattr(self.config_manager.training_config, 'batch_size', 8))
        config = self.config_manager.to_config(steps_per_epoch=max(1, -(-number // batch)))
        output = self.dataloader.output_dir / f'{experiment_name or "wts"}.h5.zip'
        output.parent.mkdir(parents=True, exist_ok=True)
        request = TrainRequest(self.dataloader.scans, config, output, backend=resolve_backend())
        from ..training.run import train

        self.model.path = train(request, ignore_report)
        self.model.config = open_model(self.model.path).config
        return self.model.path


class InferenceEngine:
    """Makes images with a model."""

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        self.config_manager, self.model = config_manager, ptycho_model

    def predict_and_stitch(self, loader: PtychoDataLoader) -> NDArray[numpy.complex64]:
        """Returns the complex image of the loader's first scan, all its positions, on its grid.

        Raises:
            ValueError: the model was not trained yet.
        """
        if self.model.path is None:
            raise ValueError('the model has no weights yet: train it, or load one.')
        config = override_config(Config(), {'reconstruction.refine_epochs': 0})
        return TrainedModel(self.model.path, config).reconstruct(loader.scans[0])


class Datagen:
    """Simulates scans with exact dose and incoherent modes."""

    def __init__(self, config_manager: ConfigManager | None = None) -> None:
        self.config_manager = config_manager or ConfigManager()

    def simulate(self, number: int = 1) -> tuple[Scan, ...]:
        """Returns scans of `number` objects under one probe, with their truth."""
        from ..simulation.simulated_scan import SimulationSpec, simulate_scans

        spec = SimulationSpec(**vars(self.config_manager.datagen_config))
        return tuple(simulate_scans(spec, list(range(spec.seed, spec.seed + number))))
