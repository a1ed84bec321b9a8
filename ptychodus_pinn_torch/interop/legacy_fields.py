"""What the fields of PtychoPINN's configuration classes mean here: one row per field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..trees import show

__all__ = [
    'ALL_FIELDS',
    'EXECUTION_FIELDS',
    'INFERENCE_FIELDS',
    'MODEL_FIELDS',
    'OBJECT_FIELDS',
    'TRAINING_FIELDS',
    'Field',
]


class Field(NamedTuple):
    """A field of theirs.

    Attributes:
        name: Theirs.
        default: Theirs; a field that has it is left out without a word.
        option: Ours; None where there is none.
        remark: Why there is none, for the user.
        convert: A function, or a table, from their value to ours; None where several fields
            make up one option.
        changes: What to say of values that mean something else here.
    """

    name: str
    default: Any
    option: str | None
    remark: str = ''
    convert: Callable[[Any], Any] | Mapping[str, Any] | None = None
    changes: Mapping[str, str] = {}

    def to_ours(self, value: Any, warnings: list[str]) -> dict[str, Any]:
        """Returns our option for a value of theirs, if there is one; adds what is to be said."""
        key = str(value).partition(':')[0]  # of cuda:0
        if key in self.changes:
            warnings.append(f'{self.name} = {show(value)} {self.changes[key]}.')
        if self.option is None and value != self.default:
            warnings.append(f'{self.name} = {show(value)} is left out: {self.remark}.')
        if self.option is None or self.convert is None:
            return {}
        if callable(self.convert):
            return {self.option: self.convert(value)}
        if key in self.convert:
            return {self.option: self.convert[key]}
        known = ', '.join(self.convert)
        warnings.append(f'{self.name} = {show(value)} is left out: known here are {known}.')
        return {}

    def to_theirs(self, value: Any) -> Any:
        """Returns their value for one of our option."""
        if isinstance(self.convert, Mapping):
            same = (theirs for theirs, ours in self.convert.items() if ours == value)
            return next(same, self.default)
        return value


_ONE_NETWORK = 'the networks here are unrolled, cnn and fno'
_LEVEL = 'probe and object are in counts here and need no scale'
_SOFT_EDGE = 'the edge of the mask has a deviation of 1 px'
_GIVEN = 'give it to the call'
_ALL = 'all patterns are used, each in at least one group'
_FIXED = 'there is no such choice here'
_MAPPED = 'patterns are gathered from a memory map as needed'
_BEST = 'best and last model are always kept'
_JUDGED = 'models are judged on held-out patterns'
_LATER = 'the loggers tensorboard and mlflow show the middle of the scan after each validation'

_ONE_DEVICE = {'auto': 'becomes 1: give a number to use more'}
_WIDER_RANGE = {'16-mixed': 'becomes bf16-mixed, which has the range of 32 bits'}
_TWICE = 'reaches up to twice the mean level of the object here'
_MODES = {'pinn': 'unsupervised', 'supervised': 'supervised'}
_OBJECT_MODES = {'Unsupervised': 'unsupervised', 'Supervised': 'supervised'}
_OBJECT_LOSSES = {'Poisson': 'poisson', 'MAE': 'mae'}
_HEADS = {
    'real_imag': 'real_imaginary',
    'amp_phase': 'amplitude_phase',
    'amp_phase_logits': 'amplitude_phase',
}
_SCHEDULES = {
    'Default': 'constant',
    'Exponential': 'exponential',
    'WarmupCosine': 'cosine',
    'Cosine': 'cosine',
    'ReduceLROnPlateau': 'plateau',
}
_ACCELERATORS = {'auto': 'auto', 'cpu': 'cpu', 'gpu': 'cuda', 'cuda': 'cuda', 'mps': 'mps'}
_DEVICES = {**_ACCELERATORS, 'gpu': 'auto', 'cuda': 'auto'}
_PRECISIONS = {'32-true': '32-true', '16-mixed': 'bf16-mixed', 'bf16-mixed': 'bf16-mixed'}
_LOGGERS = {name: name for name in ('csv', 'tensorboard', 'mlflow')}
_OPTIMIZERS = {name: name for name in ('adam', 'adamw', 'sgd')}
_AMPLITUDES = {
    'sigmoid': 'sigmoid',
    'swish': 'silu',
    'silu': 'silu',
    'softplus': 'softplus',
    'relu': 'relu',
}


def _left_out(remark: str, **defaults: Any) -> tuple[Field, ...]:
    """Returns fields that have no counterpart, with their defaults there."""
    return tuple(Field(name, default, None, remark) for name, default in defaults.items())


def _number_of_devices(value: Any) -> int:
    return 1 if value == 'auto' else int(value)


MODEL_FIELDS: tuple[Field, ...] = (
    Field('N', 64, 'network.pattern_size', convert=int),
    Field('gridsize', 1, 'network.num_channels'),
    Field('n_filters_scale', 2, 'network.first_width', convert=lambda value: 8 * int(value)),
    Field('model_type', 'pinn', 'mode', convert=_MODES),
    Field('architecture', 'cnn', 'network.kind', convert={'cnn': 'cnn', 'fno': 'fno'}),
    Field('probe_big', True, 'network.has_outer_branch', convert=bool),
    Field('fno_modes', 12, 'network.num_modes', convert=int),
    Field('fno_width', 32, 'network.operator_width', convert=int),
    Field('fno_blocks', 4, 'network.num_blocks', convert=int),
    Field('fno_cnn_blocks', 2, 'network.num_refiners', convert=int),
    *_left_out(_ONE_NETWORK, learned_input_channels=1, max_hidden_channels=None, resnet_width=None),
    *_left_out('networks always see the root of the counts', fno_input_transform='none'),
    Field('generator_output_mode', 'real_imag', 'network.head', convert=_HEADS),
    Field('amp_activation', 'sigmoid', 'network.amplitude', '', _AMPLITUDES, {'sigmoid': _TWICE}),
    Field('object_big', True, 'grouping.group_size'),
    Field('probe_mask', False, 'physics.probe_mask_px'),
    Field('probe_mask_diameter', None, 'physics.probe_mask_px'),
    *_left_out(_SOFT_EDGE, probe_mask_sigma=1.0),
    *_left_out('patches always have the size of the pattern', pad_object=True),
    *_left_out(_LEVEL, probe_scale=4.0),
    *_left_out('patches are never smoothed', gaussian_smoothing_sigma=0.0),
)

_SAMPLING: tuple[Field, ...] = (
    Field('n_groups', None, 'training.max_steps'),
    Field('subsample_seed', None, 'training.seed', convert=int),
    Field('neighbor_count', 4, 'grouping.neighbor_pool'),
    Field('n_images', None, 'training.max_steps'),
    Field('n_subsample', None, 'grouping.max_patterns', convert=int),
    *_left_out('set grouping.groups_per_pattern instead', enable_oversampling=False),
    *_left_out('set grouping.neighbor_pool instead', neighbor_pool_size=None),
    *_left_out(_GIVEN, test_data_file=None),
    *_left_out('give it to the call, or set PTYCHOPINN_BACKEND', backend='tensorflow'),
)

TRAINING_FIELDS: tuple[Field, ...] = (
    *_SAMPLING,
    Field('batch_size', 16, 'training.batch_size', convert=int),
    Field('nepochs', 50, 'training.max_steps'),
    Field('mae_weight', 0.0, 'loss.kind'),
    Field('nll_weight', 1.0, 'loss.kind'),
    Field('torch_loss_mode', 'poisson', 'loss.kind'),
    Field('torch_mae_pred_l2_match_target', False, 'loss.match_power'),
    Field('realspace_weight', 0.0, 'loss.counts_weight'),
    Field('realspace_mae_weight', 0.0, 'loss.object_kind'),
    Field('probe_trainable', False, 'physics.train_probe', convert=bool),
    Field('intensity_scale_trainable', True, 'physics.train_scale', convert=bool),
    Field('gradient_clip_val', None, 'training.clip_norm'),
    Field('gradient_clip_algorithm', 'norm', 'training.clip_value'),
    Field('optimizer', 'adam', 'training.optimizer', convert=_OPTIMIZERS),
    Field('momentum', 0.9, 'training.momentum'),
    Field('weight_decay', 0.0, 'training.weight_decay', convert=float),
    Field('scheduler', 'Default', 'training.schedule', convert=_SCHEDULES),
    Field('lr_warmup_epochs', 0, 'training.warmup_fraction'),
    *_left_out(_GIVEN, train_data_file=None, output_dir='training_outputs'),
    *_left_out('counts are taken as they were measured', nphotons=1e9),
    *_left_out('positions are always needed', positions_provided=True),
    *_left_out(_ALL, sequential_sampling=False),
    *_left_out(_FIXED, adam_beta1=0.9, adam_beta2=0.999, lr_min_ratio=0.1),
    *_left_out(_FIXED, plateau_factor=0.5, plateau_patience=2, plateau_min_lr=5e-5),
    *_left_out(_FIXED, plateau_threshold=0.0),
)

INFERENCE_FIELDS: tuple[Field, ...] = (
    *_SAMPLING,
    *_left_out(_GIVEN, model_path=None, output_dir='inference_outputs'),
    *_left_out(_FIXED, debug=False),
)

EXECUTION_FIELDS: tuple[Field, ...] = (
    Field('accelerator', 'auto', 'execution.accelerator', convert=_ACCELERATORS),
    Field('devices', 1, 'execution.devices', '', _number_of_devices, _ONE_DEVICE),
    Field('precision', '32-true', 'execution.precision', '', _PRECISIONS, _WIDER_RANGE),
    Field('accum_steps', 1, 'training.accumulate', convert=int),
    Field('learning_rate', 1e-3, 'training.learning_rate', convert=float),
    Field('early_stop_patience', 100, 'training.early_stopping', convert=int),
    Field('logger_backend', 'csv', 'execution.logger', convert=_LOGGERS),
    *_left_out('one device runs in the process, more by DDP', strategy='auto'),
    *_left_out('runs are reproducible by their seed', deterministic=True),
    *_left_out(_MAPPED, num_workers=0, pin_memory=False, persistent_workers=False),
    *_left_out(_MAPPED, prefetch_factor=None),
    *_left_out('give a report function to the call', enable_progress_bar=False),
    *_left_out(_BEST, enable_checkpointing=True, checkpoint_save_top_k=1),
    *_left_out(_JUDGED, checkpoint_monitor_metric='val_loss', checkpoint_mode='min'),
    *_left_out('the result does not depend on it', inference_batch_size=None),
    *_left_out('patches are weighted by the probe instead', middle_trim=0),
    *_left_out('every result covers the whole scan', pad_eval=False),
    *_left_out(_LATER, recon_log_every_n_epochs=None, recon_log_num_patches=4),
    *_left_out(_LATER, recon_log_fixed_indices=None, recon_log_stitch=False),
    *_left_out(_LATER, recon_log_max_stitch_samples=None),
    *_left_out(_ONE_NETWORK, ffno_encoder_blocks=24, ffno_encoder_modes=12),
    *_left_out(_ONE_NETWORK, ffno_encoder_share_weights=True, ffno_encoder_gate_init=0.1),
    *_left_out(_ONE_NETWORK, ffno_encoder_norm='instance', ffno_encoder_mlp_ratio=2.0),
    *_left_out(_ONE_NETWORK, spectral_bottleneck_blocks=6, spectral_bottleneck_modes=12),
    *_left_out(_ONE_NETWORK, spectral_bottleneck_share_weights=True),
    *_left_out(_ONE_NETWORK, spectral_bottleneck_gate_init=0.1),
    *_left_out(_ONE_NETWORK, spectral_bottleneck_gate_mode='shared'),
)

OBJECT_FIELDS: tuple[Field, ...] = (
    Field('C', None, 'network.num_channels'),
    Field('K', None, None, 'set grouping.neighbor_pool instead'),
    Field('mode', None, 'mode', convert=_OBJECT_MODES),
    Field('loss_function', None, 'loss.kind', convert=_OBJECT_LOSSES),
    Field('batch_norm', False, 'network.has_norm', convert=bool),
    Field('use_shared_decoder', None, 'network.has_shared_decoder', convert=bool),
    Field('cbam_bottleneck', False, 'network.bottleneck_attention', convert=bool),
    Field('device', None, 'execution.accelerator', convert=_DEVICES),
    Field('epochs', None, 'training.max_steps'),
    Field('n_devices', 1, 'execution.devices', convert=int),
    Field('max_neighbor_distance', None, 'grouping.max_distance_px', convert=float),
    Field('warmup_epochs', 0, 'training.warmup_fraction'),
    Field('grid_size', None, 'network.num_channels'),
    *_left_out('C says how many patterns a stack has', C_model=None, C_forward=None),
    *_left_out(_ALL, K_quadrant=30, neighbor_function='Nearest', min_neighbor_distance=0.0),
    *_left_out(_ALL, scan_pattern='Isotropic', x_bounds=None, y_bounds=None),
    *_left_out(_LEVEL, normalize=None, probe_normalize=None, data_scaling=None),
    *_left_out(_LEVEL, phase_subtraction=None, intensity_scale=None, num_datasets=1),
    *_left_out(_LEVEL, scale_contract_version=None, measurement_domain=None),
    *_left_out('the ramp of a probe stays in it', probe_ramp_removal=False),
    *_left_out('windows are as large as positions need', max_position_jitter=None, edge_pad=None),
    *_left_out('windows are as large as positions need', offset=None),
    *_left_out('the outer branch has a quarter of the channels', decoder_last_amp_channels=None),
    *_left_out(
        'the outer branch has a quarter of the channels', decoder_last_c_outer_fraction=None
    ),
    *_left_out('spatial attention sees 7 px', decoder_spatial_kernel=7),
    *_left_out('set loss.tv_amplitude', amp_loss=None, amp_loss_coeff=1.0),
    *_left_out('set loss.tv_phase', phase_loss=None, phase_loss_coeff=1.0),
    *_left_out('set loss.probe_reference', probe_reference_coeff=0.0),
    *_left_out(_FIXED, amplitude_variance_loss=False, amplitude_variance_coeff=0.01),
    *_left_out(_FIXED, min_lr_ratio=0.1, nll=True),
    *_left_out('set training.finetune', epochs_fine_tune=0, fine_tune_gamma=0.1),
    *_left_out('every run is by Lightning', framework='Lightning', orchestrator='Lightning'),
    *_left_out(_GIVEN, training_directories=None, experiment_name=None, model_name=None),
    *_left_out('write it into the model card', notes=''),
    *(
        Field(f'{kind}_{part}', False, 'network.attention')
        for kind in ('cbam', 'eca', 'spatial')
        for part in ('encoder', 'decoder')
    ),
)
"""Fields of the configurations of the object API that have other names there."""

ALL_FIELDS: dict[str, Field] = {
    field.name: field
    for fields in (INFERENCE_FIELDS, MODEL_FIELDS, EXECUTION_FIELDS, TRAINING_FIELDS, OBJECT_FIELDS)
    for field in fields
}
