"""Training on TensorFlow: it takes the steps of the PyTorch engine, stops, resumes, and learns."""

from dataclasses import replace
from importlib.util import find_spec

import numpy
import pytest
from tensorflow_guard import require_tensorflow

from ptychodus_pinn_torch.backend import TrainRequest
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.models.archive import ArchiveError, read_archive, write_archive

tf = require_tensorflow()

from ptychodus_pinn_torch.tensorflow_backend.keras_fit import role_of
from ptychodus_pinn_torch.training.run import train


def make_config(**options):
    base = {
        'network.kind': 'cnn',
        'network.first_width': 8,
        'training.start': 'none',
        'training.max_steps': 6,
        'execution.num_threads': 1,
        'execution.accelerator': 'cpu',
        'execution.logger': 'none',
    }
    return override_config(
        Config(), base | {name.replace('__', '.'): value for name, value in options.items()}
    )


@pytest.fixture(autouse=True, scope='module')
def eagerly():
    """Runs step by step: for a few steps, compiling would take longer than running."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def compiled(plain):
    """Runs as users do; what `plain` is made of has run before."""
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(True)


class Ear:
    """Listens to reports, and asks for a stop at a step."""

    def __init__(self, stop_at=None):
        self.reports, self.stop_at = [], stop_at

    def __call__(self, report):
        self.reports.append(report)
        if self.stop_at is not None and report.step >= self.stop_at:
            raise KeyboardInterrupt

    @property
    def epochs(self):
        return [report for report in self.reports if report.is_epoch_end]


def run(
    scan, path, report=None, *, is_resumed=False, validation=(), backend='tensorflow', **options
):
    scans = scan if isinstance(scan, tuple) else (scan,)
    config = make_config(**options)
    request = TrainRequest(scans, config, path, validation, is_resumed, backend)
    return read_archive(train(request, report or Ear()))


def assert_same(first, second, tolerance=1e-6):
    for name, array in first.weights.items():
        assert numpy.abs(array - second.weights[name]).max() <= tolerance, name


def distance(first, second):
    pairs = [(a, second.weights[name]) for name, a in first.weights.items()]
    return max(float(numpy.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize(
    'options',
    [
        {'loss__kind': 'poisson'},
        {'grouping__group_size': 4, 'physics__train_probe': True},
        {'training__optimizer': 'adamw', 'training__weight_decay': 0.1, 'loss__tv_phase': 1e-2},
        {'mode': 'supervised', 'training__accumulate': 2},
        {'loss__kind': 'mae', 'training__clip_value': 1e-3},
        {'training__optimizer': 'sgd', 'training__learning_rate': 1.0},
    ],
    ids=['poisson', 'groups', 'adamw', 'supervised', 'mae', 'sgd'],
)
def test_both_engines_take_the_same_steps(tiny_scan, tmp_path, options):
    start = tmp_path / 'start.h5.zip'
    run(tiny_scan, start, training__max_steps=1)
    options = {'training__start': str(start), 'training__max_steps': 3, **options}
    options |= {'training__holdout_fraction': 0.0, 'network__pattern_size': 32}
    ours = run(tiny_scan, tmp_path / 'ours.h5.zip', **options)
    before_all = read_archive(start)
    theirs = run(tiny_scan, tmp_path / 'theirs.h5.zip', backend='pytorch', **options)
    assert set(ours.weights) == set(theirs.weights)
    for name, before in before_all.weights.items():
        moved = numpy.linalg.norm(theirs.weights[name] - before)
        apart = numpy.linalg.norm(theirs.weights[name] - ours.weights[name])
        assert moved > 1e-3 and apart < 1e-3 * moved, name
    if options.get('physics__train_probe'):
        given = tiny_scan.probe
        given = numpy.stack([given.real, given.imag], axis=-1)
        moved = numpy.linalg.norm(theirs.weights['probe.0'] - given)
        apart = numpy.linalg.norm(theirs.weights['probe.0'] - ours.weights['probe.0'])
        assert moved > 1e-3 and apart < 0.1 * moved


def test_the_same_seed_gives_the_same_model(tiny_scan, tmp_path):
    first, same, other = (
        run(tiny_scan, tmp_path / f'{name}.h5.zip', training__seed=seed)
        for name, seed in (('a', 0), ('b', 0), ('c', 1))
    )
    assert_same(first, same, tolerance=0.0)
    assert distance(first, other) > 0.1


def test_compiled_or_not_the_model_is_the_same(tiny_scan, tmp_path, plain, compiled):
    assert_same(run(tiny_scan, tmp_path / 'compiled.h5.zip'), plain, tolerance=1e-4)


@pytest.mark.parametrize(
    'options',
    [{}, {'training__ema_decay': 0.9, 'training__schedule': 'plateau', 'training__accumulate': 2}],
    ids=['plain', 'average and plateau'],
)
def test_a_stopped_run_keeps_its_best_and_goes_on_exactly(tiny_scan, tmp_path, options):
    options = {'training__max_steps': 14, **options}
    whole = run(tiny_scan, tmp_path / 'whole.h5.zip', **options)
    path = tmp_path / 'parts.h5.zip'
    for stop_at in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            run(tiny_scan, path, Ear(stop_at), is_resumed=path.is_file(), **options)
        assert read_archive(path).details['steps'] < 14
    parts = run(tiny_scan, path, is_resumed=True, **options)
    assert_same(whole, parts)
    assert [row['step'] for row in parts.history] == [row['step'] for row in whole.history]
    assert parts.history[-1]['loss'] == pytest.approx(whole.history[-1]['loss'], rel=1e-5)


def test_what_cannot_be_resumed_is_refused(tiny_scan, tmp_path):
    path = tmp_path / 'model.h5.zip'
    with pytest.raises(ConfigError, match='holds no interrupted run'):
        run(tiny_scan, path, is_resumed=True)
    run(tiny_scan, path)
    with pytest.raises(ConfigError, match='had other options'):
        run(tiny_scan, path, is_resumed=True, training__learning_rate=1e-4)
    (tmp_path / 'model.run' / 'last.safetensors').write_bytes(b'not a checkpoint')
    with pytest.raises(ConfigError, match='is damaged'):
        run(tiny_scan, path, is_resumed=True)


def test_every_epoch_is_reported_with_loss_and_held_out_error(tiny_scan, tmp_path):
    ear = Ear()
    archive = run(tiny_scan, tmp_path / 'model.h5.zip', ear, training__max_steps=11)
    assert [report.step for report in ear.epochs] == [5, 10, 11]
    assert all(numpy.isfinite([r.loss, r.held_out, r.floor]).all() for r in ear.epochs)
    assert [row['loss'] for row in archive.history] == [report.loss for report in ear.epochs]
    assert archive.backend == 'tensorflow'
    assert archive.details['pattern_size'] == 32 and archive.details['probe_modes'] == [2]


def test_the_default_network_becomes_the_cnn_and_says_so(tiny_scan, tmp_path):
    ear = Ear()
    config = override_config(make_config(), {'network.kind': 'unrolled'})
    request = TrainRequest((tiny_scan,), config, tmp_path / 'm.h5.zip', backend='tensorflow')
    archive = read_archive(train(request, ear))
    assert archive.config.network.kind == 'cnn'
    assert any('training the cnn' in report.message for report in ear.reports)


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('network__num_stages', 3),
        ('network__width', 7),
        ('network__num_memory', 1),
        ('network__kind', 'fourier'),
        ('loss__deep_supervision', 0.7),
        ('loss__match_power', True),
        ('training__rate_scaling', 'linear'),
        ('loss__probe_reference', 0.1),
        ('execution__precision', 'bf16-mixed'),
        ('execution__devices', 2),
        ('execution__accelerator', 'mps'),
    ],
)
def test_an_option_without_effect_is_refused_by_name(tiny_scan, tmp_path, path, value):
    with pytest.raises(ConfigError, match=path.replace('__', r'\.')):
        run(tiny_scan, tmp_path / 'model.h5.zip', **{path: value})


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('network__first_width', 6),
        ('network__has_skips', False),
        ('network__attention', 'eca'),
        ('network__head', 'real_imaginary'),
        ('network__has_outer_branch', True),
        ('network__stem', 2),
        ('network__num_channels', 4),
        ('network__amplitude', 'sigmoid'),
        ('network__amplitude', 'silu'),
        ('physics__probe_mask_px', 12.0),
        ('grouping__max_patterns', 12),
        ('grouping__groups_per_pattern', 2),
        ('physics__num_probe_modes', 1),
        ('physics__train_probe', True),
        ('physics__train_scale', True),
        ('loss__kind', 'poisson'),
        ('loss__kind', 'mae'),
        ('loss__tv_amplitude', 1.0),
        ('loss__tv_phase', 1.0),
        ('grouping__group_size', 5),
        ('training__batch_size', 3),
        ('training__learning_rate', 1e-3),
        ('training__schedule', 'exponential'),
        ('training__schedule', 'constant'),
        ('training__warmup_fraction', 0.5),
        ('training__optimizer', 'adamw'),
        ('training__optimizer', 'sgd'),
        ('training__weight_decay', 0.1),
        ('training__clip_norm', 0.01),
        ('training__clip_value', 1e-3),
        ('training__accumulate', 2),
        ('training__ema_decay', 0.9),
        ('training__holdout_fraction', 0.3),
        ('training__synthetic_fraction', 1.0),
    ],
)
def test_an_option_that_is_taken_changes_the_model(tiny_scan, tmp_path, path, value, plain):
    extra = {'training__weight_decay': 0.1} if value == 'adamw' else {}
    changed = run(tiny_scan, tmp_path / 'changed.h5.zip', **{path: value}, **extra)
    different_shape = {n: a.shape for n, a in changed.weights.items()} != {
        n: a.shape for n, a in plain.weights.items()
    }
    assert different_shape or distance(changed, plain) > 1e-7


@pytest.fixture(scope='module')
def plain(tiny_scan, tmp_path_factory):
    """The model of the plain options."""
    return run(tiny_scan, tmp_path_factory.mktemp('plain') / 'model.h5.zip')


@pytest.mark.parametrize(
    ('logger', 'pattern'),
    [
        ('csv', 'metrics.csv'),
        ('tensorboard', 'events*'),
        ('mlflow', 'metrics/loss'),
        ('mlflow', 'amplitude*.png'),
    ],
)
def test_the_history_is_written_where_asked(tiny_scan, tmp_path, logger, pattern):
    if logger != 'csv' and find_spec(logger) is None:
        with pytest.raises(ConfigError, match=f'pip install .*{logger}'):
            run(tiny_scan, tmp_path / 'model.h5.zip', execution__logger=logger)
        return
    run(tiny_scan, tmp_path / 'model.h5.zip', execution__logger=logger)
    written = list((tmp_path / 'model.run').rglob(pattern))
    assert written and written[0].stat().st_size > 20


def test_finetuning_the_decoder_leaves_the_encoder(tiny_scan, tmp_path, plain):
    names = ['network.body.encoder.0.0.conv1.weight', 'network.head.weight', 'log_scale']
    assert [role_of(name, 'staged') for name in names] == ['second', 'first', 'physics']
    assert [role_of(name, 'all') for name in names] == ['all', 'all', 'physics']
    tuned = run(
        tiny_scan, tmp_path / 'tuned.h5.zip',
        training__start=str(plain.path), training__finetune='decoder',
    )  # fmt: skip
    for name, array in plain.weights.items():
        assert (numpy.abs(array - tuned.weights[name]).max() == 0.0) == ('encoder' in name), name


def test_a_start_model_must_fit(tiny_scan, tmp_path, plain):
    with pytest.raises(ConfigError, match='another network than asked for .*has_skips'):
        run(
            tiny_scan, tmp_path / 'm.h5.zip',
            training__start=str(plain.path), network__has_skips=False,
        )  # fmt: skip
    unrolled = override_config(plain.config, {'network.kind': 'unrolled'})
    other = write_archive(tmp_path / 'u.h5.zip', replace(plain, config=unrolled, backend='pytorch'))
    with pytest.raises(ArchiveError, match='unrolled network of the pytorch .* tensorflow'):
        run(tiny_scan, tmp_path / 'm.h5.zip', training__start=str(other))


def test_training_ends_early_when_the_held_out_error_no_longer_falls(tiny_scan, tmp_path):
    ear = Ear()
    run(
        tiny_scan, tmp_path / 'm.h5.zip', ear, training__early_stopping=2,
        training__max_steps=200, training__learning_rate=1e-30, training__batch_size=32,
    )  # fmt: skip
    assert len(ear.epochs) == 3


def test_the_scale_learns_what_a_probe_that_is_too_strong_gets_wrong(tiny_scan, tmp_path):
    archive = run(
        tiny_scan, tmp_path / 'm.h5.zip', physics__train_scale=True, loss__kind='poisson',
        training__max_steps=12, training__learning_rate=1e-2, training__schedule='constant',
    )  # fmt: skip
    assert archive.weights['log_scale'].shape == (1,) and archive.weights['log_scale'][0] != 0.0


def test_a_trained_probe_comes_nearer_to_the_counts(tiny_scan, tmp_path, compiled):
    rng = numpy.random.default_rng(0)
    noise = rng.normal(size=tiny_scan.probe.shape) * numpy.abs(tiny_scan.probe).mean()
    scan = replace(tiny_scan, probe=(tiny_scan.probe + noise).astype(numpy.complex64))
    losses = {}
    for is_trained in (False, True):
        archive = run(
            scan, tmp_path / f'{is_trained}.h5.zip', physics__train_probe=is_trained,
            training__max_steps=40, training__schedule='constant', training__learning_rate=5e-3,
        )  # fmt: skip
        losses[is_trained] = archive.history[-1]['loss']
    assert archive.weights['probe.0'].shape == (2, 32, 32, 2)
    assert losses[True] < 0.95 * losses[False]


def test_bad_pixels_have_no_say(tiny_scan, tmp_path):
    good = numpy.ones(tiny_scan.pattern_shape, dtype=bool)
    good[16, 10:20] = False
    models = []
    for name, value in (('a', 0), ('b', 60000)):
        patterns = numpy.where(good, tiny_scan.patterns, value).astype(numpy.uint16)
        scan = replace(tiny_scan, patterns=patterns, good_pixels=good)
        models.append(run(scan, tmp_path / f'{name}.h5.zip'))
    assert_same(*models, tolerance=0.0)


def test_several_scans_and_a_validation_scan(tiny_scan, tmp_path):
    few = tiny_scan.select(numpy.arange(20))
    options = {'training__max_steps': 12, 'physics__train_probe': True}
    options |= {'physics__train_scale': True, 'loss__probe_reference': 0.1}
    archive = run((tiny_scan, few), tmp_path / 'm.h5.zip', validation=(few,), **options)
    assert {'probe.0', 'probe.1', 'log_scale'} < set(archive.weights)
    assert archive.details['patterns'] == [35, 20] and 'held_out' in archive.details


def test_scans_that_cannot_be_trained_on_are_refused(tiny_scan, simulated_scan, tmp_path):
    path = tmp_path / 'm.h5.zip'
    with pytest.raises(ValueError, match='give at least one scan'):
        run((), path)
    with pytest.raises(ValueError, match='one size, the scans have 32 x 32, 64 x 64 px'):
        run((tiny_scan, simulated_scan), path)
    with pytest.raises(ValueError, match='made for patterns of 64 px'):
        run(tiny_scan, path, network__pattern_size=64)
    with pytest.raises(ValueError, match='supervised training needs the object'):
        run(replace(tiny_scan, truth=None), path, mode='supervised')
    assert not path.exists()
