"""What the fields of PtychoPINN's configuration classes mean here: one row per field.

A row is (name, default there, option of ours or None, remark for the user when there is none).
"""

from __future__ import annotations

from typing import Any

__all__ = ['EXECUTION_FIELDS', 'INFERENCE_FIELDS', 'MODEL_FIELDS', 'TRAINING_FIELDS', 'Row']

Row = tuple[str, Any, str | None, str]

_ONE_NETWORK = 'the networks here are unrolled and cnn'
_AMPLITUDE = 'the amplitude here is a softplus, which is never negative'
_LEVEL = 'probe and object are in counts here and need no scale'
_NO_MASK = 'the probe is taken as it is given'
_GIVEN = 'give it to the call'
_ALL = 'all patterns are used, each in at least one group'
_FIXED = 'there is no such choice here'
_EVERY = 'every result covers the whole scan'

MODEL_FIELDS: tuple[Row, ...] = (
    ('N', 64, 'network.pattern_size', ''),
    ('gridsize', 1, 'network.num_channels', ''),
    ('n_filters_scale', 2, 'network.first_width', ''),
    ('model_type', 'pinn', 'mode', ''),
    ('architecture', 'cnn', 'network.kind', ''),
    ('fno_modes', 12, None, _ONE_NETWORK),
    ('fno_width', 32, None, _ONE_NETWORK),
    ('fno_blocks', 4, None, _ONE_NETWORK),
    ('fno_cnn_blocks', 2, None, _ONE_NETWORK),
    ('learned_input_channels', 1, None, _ONE_NETWORK),
    ('max_hidden_channels', None, None, _ONE_NETWORK),
    ('resnet_width', None, None, _ONE_NETWORK),
    ('fno_input_transform', 'none', None, 'the cnn always sees the root of the counts'),
    ('generator_output_mode', 'real_imag', None, 'set network.head instead'),
    ('amp_activation', 'sigmoid', None, _AMPLITUDE),
    ('object_big', True, None, 'patches of a group always share one canvas'),
    ('probe_big', True, 'network.has_outer_branch', ''),
    ('probe_mask', False, None, _NO_MASK),
    ('probe_mask_sigma', 1.0, None, _NO_MASK),
    ('probe_mask_diameter', None, None, _NO_MASK),
    ('pad_object', True, None, 'patches always have the size of the pattern'),
    ('probe_scale', 4.0, None, _LEVEL),
    ('gaussian_smoothing_sigma', 0.0, None, 'patches are never smoothed'),
)

_SAMPLING: tuple[Row, ...] = (
    ('n_images', None, None, _ALL),
    ('n_subsample', None, None, _ALL),
    ('neighbor_count', 4, 'grouping.neighbor_pool', ''),
    ('enable_oversampling', False, None, 'groups are drawn anew in every epoch instead'),
    ('neighbor_pool_size', None, None, 'set grouping.neighbor_pool instead'),
    ('test_data_file', None, None, _GIVEN),
    ('backend', 'tensorflow', None, 'give it to the call, or set PTYCHOPINN_BACKEND'),
)

TRAINING_FIELDS: tuple[Row, ...] = (
    *_SAMPLING,
    ('train_data_file', None, None, _GIVEN),
    ('output_dir', 'training_outputs', None, _GIVEN),
    ('batch_size', 16, 'training.batch_size', ''),
    ('nepochs', 50, 'training.max_steps', ''),
    ('n_groups', None, 'training.max_steps', ''),
    ('subsample_seed', None, 'training.seed', ''),
    ('mae_weight', 0.0, 'loss.kind', ''),
    ('nll_weight', 1.0, 'loss.kind', ''),
    ('torch_loss_mode', 'poisson', 'loss.kind', ''),
    ('realspace_mae_weight', 0.0, None, 'supervised training compares objects instead'),
    ('realspace_weight', 0.0, None, 'supervised training compares objects instead'),
    ('nphotons', 1e9, None, 'counts are taken as they were measured'),
    ('positions_provided', True, None, 'positions are always needed'),
    ('probe_trainable', False, 'physics.train_probe', ''),
    ('intensity_scale_trainable', True, 'physics.train_scale', ''),
    ('sequential_sampling', False, None, _ALL),
    ('torch_mae_pred_l2_match_target', False, None, _LEVEL),
    ('gradient_clip_val', None, 'training.clip_norm', ''),
    ('gradient_clip_algorithm', 'norm', None, 'gradients are clipped by their norm'),
    ('optimizer', 'adam', 'training.optimizer', ''),
    ('momentum', 0.9, None, _FIXED),
    ('weight_decay', 0.0, 'training.weight_decay', ''),
    ('adam_beta1', 0.9, None, _FIXED),
    ('adam_beta2', 0.999, None, _FIXED),
    ('scheduler', 'Default', 'training.schedule', ''),
    ('lr_warmup_epochs', 0, 'training.warmup_fraction', ''),
    ('lr_min_ratio', 0.1, None, _FIXED),
    ('plateau_factor', 0.5, None, _FIXED),
    ('plateau_patience', 2, None, _FIXED),
    ('plateau_min_lr', 5e-5, None, _FIXED),
    ('plateau_threshold', 0.0, None, _FIXED),
)

INFERENCE_FIELDS: tuple[Row, ...] = (
    *_SAMPLING,
    ('model_path', None, None, _GIVEN),
    ('n_groups', None, 'training.max_steps', ''),
    ('subsample_seed', None, 'training.seed', ''),
    ('debug', False, None, _FIXED),
    ('output_dir', 'inference_outputs', None, _GIVEN),
)

EXECUTION_FIELDS: tuple[Row, ...] = (
    ('accelerator', 'auto', 'execution.accelerator', ''),
    ('devices', 1, 'execution.devices', ''),
    ('strategy', 'auto', None, 'one device runs in the process, more by DDP'),
    ('deterministic', True, None, 'runs are reproducible by their seed'),
    ('precision', '32-true', 'execution.precision', ''),
    ('accum_steps', 1, 'training.accumulate', ''),
    ('num_workers', 0, None, 'patterns are gathered from a memory map as needed'),
    ('pin_memory', False, None, 'patterns are gathered from a memory map as needed'),
    ('persistent_workers', False, None, 'patterns are gathered from a memory map as needed'),
    ('prefetch_factor', None, None, 'patterns are gathered from a memory map as needed'),
    ('learning_rate', 1e-3, 'training.learning_rate', ''),
    ('enable_progress_bar', False, None, 'give a report function to the call'),
    ('enable_checkpointing', True, None, 'best and last model are always kept'),
    ('checkpoint_save_top_k', 1, None, 'best and last model are always kept'),
    ('checkpoint_monitor_metric', 'val_loss', None, 'models are judged on held-out patterns'),
    ('checkpoint_mode', 'min', None, 'models are judged on held-out patterns'),
    ('early_stop_patience', 100, 'training.early_stopping', ''),
    ('logger_backend', 'csv', 'execution.logger', ''),
    ('inference_batch_size', None, None, 'the result does not depend on it'),
    ('middle_trim', 0, None, 'patches are weighted by the probe instead'),
    ('pad_eval', False, None, _EVERY),
    *(
        (f'recon_log_{name}', default, None, 'reconstruct after training instead')
        for name, default in (
            ('every_n_epochs', None),
            ('num_patches', 4),
            ('fixed_indices', None),
            ('stitch', False),
            ('max_stitch_samples', None),
        )
    ),
    *(
        (f'ffno_encoder_{name}', default, None, _ONE_NETWORK)
        for name, default in (
            ('blocks', 24),
            ('modes', 12),
            ('share_weights', True),
            ('gate_init', 0.1),
            ('norm', 'instance'),
            ('mlp_ratio', 2.0),
        )
    ),
    *(
        (f'spectral_bottleneck_{name}', default, None, _ONE_NETWORK)
        for name, default in (
            ('blocks', 6),
            ('modes', 12),
            ('share_weights', True),
            ('gate_init', 0.1),
            ('gate_mode', 'shared'),
        )
    ),
)
