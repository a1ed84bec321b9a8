"""The configuration objects of PtychoPINN's object API: fields with their defaults there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar

from ..simulation.simulated_scan import SimulationSpec

__all__ = [
    'SECTIONS',
    'DataConfig',
    'DatagenConfig',
    'InferenceConfig',
    'ModelConfig',
    'TrainingConfig',
    'ObjectConfig',
]


class ObjectConfig:
    """Fields by attribute; those that are not given have PtychoPINN's defaults.

    Raises:
        TypeError: a field that there is not; names it.
    """

    DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, **given: Any) -> None:
        object.__setattr__(self, '_given', {})
        self.update(**given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name not in self.DEFAULTS:
            raise AttributeError(f'{type(self).__name__} has no field {name}.')
        return self._given.get(name, self.DEFAULTS[name])

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(**{name: value})

    def update(self, **given: Any) -> None:
        """Sets fields.

        Raises:
            TypeError: a field that there is not; names it.
        """
        unknown = sorted(set(given) - set(self.DEFAULTS))
        if unknown:
            raise TypeError(
                f'{type(self).__name__} has no field {", ".join(unknown)}: see docs/migrating.md.'
            )
        self._given.update(given)

    def given(self) -> dict[str, Any]:
        """Returns the fields that were set."""
        return dict(self._given)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yields every field with its value, so that `dict(config)` has them all."""
        return ((name, getattr(self, name)) for name in self.DEFAULTS)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and dict(self) == dict(other)  # type: ignore[call-overload]

    def __reduce__(self) -> Any:
        return _restore, (type(self), self.given())

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{k}={v!r}" for k, v in self._given.items())})'


def _restore(kind: type[ObjectConfig], given: dict[str, Any]) -> ObjectConfig:
    return kind(**given)


class DataConfig(ObjectConfig):
    """What patterns are, and how they are put into groups."""

    DEFAULTS = {
        'nphotons': 1e5,
        'scale_contract_version': 'ci_intensity_v2',
        'measurement_domain': 'count_intensity',
        'N': 64,
        'C': 4,
        'K': 6,
        'K_quadrant': 30,
        'n_subsample': 1,
        'subsample_seed': None,
        'grid_size': (2, 2),
        'neighbor_function': 'Nearest',
        'min_neighbor_distance': 0.0,
        'max_neighbor_distance': 3.0,
        'scan_pattern': 'Isotropic',
        'normalize': 'Batch',
        'probe_scale': 4.0,
        'probe_normalize': True,
        'probe_ramp_removal': False,
        'data_scaling': 'Parseval',
        'phase_subtraction': True,
        'x_bounds': (0.1, 0.9),
        'y_bounds': (0.1, 0.9),
    }


class ModelConfig(ObjectConfig):
    """The network, its losses, and the forward model."""

    DEFAULTS = {
        'mode': 'Unsupervised',
        'architecture': 'cnn',
        'fno_modes': 12,
        'fno_width': 32,
        'fno_blocks': 4,
        'fno_cnn_blocks': 2,
        'fno_input_transform': 'none',
        'learned_input_channels': 1,
        'max_hidden_channels': None,
        'resnet_width': None,
        'generator_output_mode': 'real_imag',
        'use_shared_decoder': False,
        'intensity_scale_trainable': False,
        'intensity_scale': 10000.0,
        'max_position_jitter': 10,
        'num_datasets': 1,
        'C_model': 4,
        'C_forward': 4,
        'n_filters_scale': 2,
        'amp_activation': 'silu',
        'batch_norm': False,
        'probe_mask': False,
        'probe_mask_sigma': 1.0,
        'probe_mask_diameter': None,
        'edge_pad': 10,
        'decoder_last_c_outer_fraction': 0.125,
        'decoder_last_amp_channels': 1,
        'eca_encoder': False,
        'cbam_encoder': True,
        'cbam_bottleneck': False,
        'cbam_decoder': False,
        'eca_decoder': False,
        'spatial_encoder': False,
        'spatial_decoder': False,
        'decoder_spatial_kernel': 7,
        'object_big': True,
        'probe_big': True,
        'offset': 6,
        'pad_object': True,
        'gaussian_smoothing_sigma': 0.0,
        'loss_function': 'Poisson',
        'amp_loss': None,
        'phase_loss': None,
        'amp_loss_coeff': 1.0,
        'phase_loss_coeff': 1.0,
        'probe_reference_coeff': 0.0,
        'amplitude_variance_loss': False,
        'amplitude_variance_coeff': 0.01,
    }


class TrainingConfig(ObjectConfig):
    """How a training run goes."""

    DEFAULTS = {
        'training_directories': [],
        'nll': True,
        'device': 'cuda',
        'strategy': 'auto',
        'n_devices': 1,
        'framework': 'Lightning',
        'orchestrator': 'Lightning',
        'learning_rate': 1e-3,
        'epochs': 50,
        'batch_size': 16,
        'epochs_fine_tune': 0,
        'fine_tune_gamma': 0.1,
        'scheduler': 'Default',
        'warmup_epochs': 0,
        'lr_warmup_epochs': 0,
        'min_lr_ratio': 0.1,
        'lr_min_ratio': 0.1,
        'num_workers': 4,
        'accum_steps': 1,
        'gradient_clip_val': None,
        'gradient_clip_algorithm': 'norm',
        'optimizer': 'adam',
        'momentum': 0.9,
        'weight_decay': 0.0,
        'torch_loss_mode': 'poisson',
        'torch_mae_pred_l2_match_target': False,
        'experiment_name': 'Synthetic_Runs',
        'notes': '',
        'model_name': 'PtychoPINNv2',
        'output_dir': 'training_outputs',
        'train_data_file': None,
        'test_data_file': None,
        'n_groups': None,
        'backend': None,
    }


class InferenceConfig(ObjectConfig):
    """How images are put together there; here every image covers the whole scan."""

    DEFAULTS = {
        'middle_trim': 32,
        'batch_size': 1000,
        'experiment_number': 0,
        'pad_eval': True,
        'window': 20,
        'patch_weighting': 'probe',
        'varpro_scaling': True,
    }


class DatagenConfig(ObjectConfig):
    """What is simulated: the fields of our `SimulationSpec`."""

    DEFAULTS = {item.name: item.default for item in dataclass_fields(SimulationSpec)}


SECTIONS: dict[str, type[ObjectConfig]] = {
    'data_config': DataConfig,
    'model_config': ModelConfig,
    'training_config': TrainingConfig,
    'inference_config': InferenceConfig,
    'datagen_config': DatagenConfig,
}
"""The configurations that a `ConfigManager` holds, by the names of its arguments."""
