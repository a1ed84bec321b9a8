"""Training runs: they learn, resume exactly, stop politely, and keep what is best."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch.backend import EpochReport, ReconstructRequest, TrainRequest
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.models.archive import read_archive, shipped_model
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.training.module import PtychoPINN
from ptychodus_pinn_torch.training.run import train

SMALL = {
    'training.start': 'none',
    'training.max_steps': 12,
    'network.num_stages': 2,
    'network.width': 4,
    'network.num_subsets': 4,
    'grouping.group_size': 16,
    'execution.num_threads': 1,
    'execution.logger': 'none',
}


def small(**options: Any) -> Config:
    named = {key.replace('__', '.'): value for key, value in options.items()}
    return override_config(Config(), {**SMALL, **named})


def ignore(report: EpochReport) -> None:
    """Takes a report."""


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, photons=1e6, seed=2)
    )


def image_error(scan: Scan, model: Path | None, config: Config) -> float:
    options = {'reconstruction.refine_epochs': 0, 'reconstruction.guard': False}
    result = reconstruct(ReconstructRequest(scan, override_config(config, options), model), ignore)
    assert scan.truth is not None
    return compare_objects(result.object_, scan.truth, weights=coverage_mask(scan)).nrmse


@pytest.mark.parametrize('loss', ['amplitude', 'poisson', 'mae'])
def test_training_without_labels_improves_the_image(scan: Scan, tmp_path: Path, loss: str) -> None:
    before = small(training__max_steps=1, training__learning_rate=1e-9)
    after = small(training__max_steps=120, loss__kind=loss)
    untrained = train(TrainRequest((scan,), before, tmp_path / 'a.h5.zip'), ignore)
    trained = train(TrainRequest((scan,), after, tmp_path / 'b.h5.zip'), ignore)
    assert image_error(scan, trained, after) < 0.9 * image_error(scan, untrained, before)


def test_same_seed_gives_the_same_weights_and_another_seed_others(
    scan: Scan, tmp_path: Path
) -> None:
    weights = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        request = TrainRequest((scan,), small(training__seed=seed), tmp_path / f'{name}.h5.zip')
        weights.append(read_archive(train(request, ignore)).weights)
    key = 'network.stages.0.last.weight'
    assert all(numpy.array_equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not numpy.array_equal(weights[0][key], weights[2][key])


@pytest.mark.parametrize('ema', [0.0, 0.9])
def test_an_interrupted_run_resumes_to_the_same_weights_bit_for_bit(
    scan: Scan, tmp_path: Path, ema: float
) -> None:
    config = small(training__max_steps=40, training__ema_decay=ema)
    whole = read_archive(
        train(TrainRequest((scan,), config, tmp_path / 'whole.h5.zip'), ignore)
    ).weights

    def interrupt(report: EpochReport) -> None:
        if report.is_epoch_end and report.epoch == 1:
            raise KeyboardInterrupt

    output = tmp_path / 'resumed.h5.zip'
    with pytest.raises(KeyboardInterrupt):
        train(TrainRequest((scan,), config, output), interrupt)
    half = read_archive(output).details['steps']
    assert 0 < half < 40
    resumed = read_archive(train(TrainRequest((scan,), config, output, is_resumed=True), ignore))
    assert resumed.details['steps'] == 40
    assert all(numpy.array_equal(whole[name], resumed.weights[name]) for name in whole)


def test_resuming_with_other_options_is_refused(scan: Scan, tmp_path: Path) -> None:
    output = tmp_path / 'model.h5.zip'
    train(TrainRequest((scan,), small(), output), ignore)
    changed = small(training__learning_rate=1e-3)
    with pytest.raises(ConfigError, match='other options'):
        train(TrainRequest((scan,), changed, output, is_resumed=True), ignore)


def test_reports_carry_loss_floor_and_held_out_error(scan: Scan, tmp_path: Path) -> None:
    reports: list[EpochReport] = []
    path = train(
        TrainRequest((scan,), small(training__max_steps=40), tmp_path / 'm.h5.zip'),
        reports.append,
    )
    ends = [report for report in reports if report.is_epoch_end]
    assert ends and all(report.loss is not None for report in ends)
    judged = [report for report in ends if report.held_out is not None]
    assert judged and all(report.floor is not None for report in judged)
    archive = read_archive(path)
    assert len(archive.history) == len(ends)
    assert judged[0].held_out is not None
    assert archive.details['best_held_out'] <= 1.001 * judged[0].held_out


@pytest.mark.parametrize(
    'options',
    [
        {'training__schedule': 'constant'},
        {'training__schedule': 'exponential'},
        {'training__schedule': 'plateau'},
        {'training__optimizer': 'adamw', 'training__weight_decay': 0.1},
        {'training__optimizer': 'sgd', 'training__learning_rate': 0.1},
        {'training__clip_norm': 0.01},
        {'training__clip_value': 1e-3},
        {'training__accumulate': 2},
        {'training__warmup_fraction': 0.5},
        {'training__synthetic_fraction': 1.0},
        {'training__ema_decay': 0.9},
        {'training__batch_size': 2},
        {'loss__kind': 'poisson'},
        {'loss__kind': 'mae'},
        {'loss__deep_supervision': 0.0},
        {'loss__tv_amplitude': 1.0},
        {'loss__tv_phase': 1.0},
        {'grouping__neighbor_pool': 3.0},
        {'grouping__max_distance_px': 5.0},
        {'grouping__groups_per_pattern': 3},
        {'grouping__max_patterns': 40},
        {'grouping__group_size': 9},
        {'physics__train_probe': True},
        {'physics__train_probe': True, 'loss__probe_reference': 10.0},
        {'physics__train_scale': True},
    ],
    ids=lambda options: ','.join(options),
)
def test_every_option_of_training_changes_the_result(
    scan: Scan, tmp_path: Path, options: dict[str, Any]
) -> None:
    base = read_archive(train(TrainRequest((scan,), small(), tmp_path / 'a.h5.zip'), ignore))
    other = read_archive(
        train(TrainRequest((scan,), small(**options), tmp_path / 'b.h5.zip'), ignore)
    )
    assert any(
        not numpy.array_equal(base.weights[name], other.weights[name]) for name in base.weights
    )


LOSSES: dict[str, dict[str, Any]] = {
    'amplitude': {},
    'poisson': {'loss__kind': 'poisson'},
    'mae': {'loss__kind': 'mae'},
    'mae, matched': {'loss__kind': 'mae', 'loss__match_power': True},
    'object': {'mode': 'supervised'},
    'object, absolute': {'mode': 'supervised', 'loss__object_kind': 'absolute'},
    'object and counts': {
        'mode': 'supervised',
        'loss__counts_weight': 0.5,
        'loss__kind': 'poisson',
    },
}


def test_every_loss_trains_and_none_is_another(scan: Scan, tmp_path: Path) -> None:
    before = small(training__max_steps=1, training__learning_rate=1e-9)
    untrained = train(TrainRequest((scan,), before, tmp_path / 'untrained.h5.zip'), ignore)
    at_first = image_error(scan, untrained, before)
    found = {}
    for name, options in LOSSES.items():
        config = small(training__max_steps=50, **options)
        path = train(TrainRequest((scan,), config, tmp_path / f'{name}.h5.zip'), ignore)
        assert image_error(scan, path, config) < 0.95 * at_first, name
        found[name] = read_archive(path).weights['network.stages.0.last.weight'].tobytes()
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ('scaling', 'growth'), [('none', 1.0), ('linear', 2.0), ('root', 2.0**0.5)]
)
def test_the_rate_grows_with_the_devices_as_asked(
    monkeypatch: pytest.MonkeyPatch, scaling: str, growth: float
) -> None:
    monkeypatch.setattr('ptychodus_pinn_torch.training.module.num_processes', lambda: 2)
    config = small(training__rate_scaling=scaling, physics__train_scale=True)
    module = PtychoPINN(config, [torch.ones(1, 32, 32, dtype=torch.complex64)])
    (optimizer,), _ = module.configure_optimizers()
    network, physics = (group['initial_lr'] for group in optimizer.param_groups)
    assert network == pytest.approx(growth * config.training.learning_rate)
    assert physics == pytest.approx(0.5 * growth * config.training.learning_rate)


def test_probe_and_scale_really_train(scan: Scan, tmp_path: Path) -> None:
    config = small(physics__train_probe=True, physics__train_scale=True)
    weights = read_archive(
        train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    ).weights
    given = numpy.stack([scan.probe.real, scan.probe.imag], axis=-1)
    assert not numpy.allclose(weights['probe.0'], given, rtol=1e-6)
    assert weights['log_scale'][0] != 0.0


def test_several_scans_train_one_model_each_with_its_own_probe(scan: Scan, tmp_path: Path) -> None:
    other = simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=64, step_px=3.0, num_modes=2, seed=9)
    )
    config = small(training__max_steps=30)
    path = train(TrainRequest((scan, other), config, tmp_path / 'm.h5.zip'), ignore)
    assert read_archive(path).details['probe_modes'] == [1, 2]


def test_supervised_training_learns_from_the_object_and_needs_one(
    scan: Scan, tmp_path: Path
) -> None:
    config = small(mode='supervised', training__max_steps=60)
    path = train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    before = small(training__max_steps=1, training__learning_rate=1e-9)
    untrained = train(TrainRequest((scan,), before, tmp_path / 'a.h5.zip'), ignore)
    assert image_error(scan, path, config) < image_error(scan, untrained, before)
    with pytest.raises(ValueError, match='needs the object'):
        unlabelled = replace(scan, truth=None, has_object=False)
        train(TrainRequest((unlabelled,), config, tmp_path / 'x.h5.zip'), ignore)


@pytest.mark.parametrize('kind', ['all', 'decoder', 'staged'])
def test_finetuning_starts_from_a_model_and_moves_what_it_says(
    scan: Scan, tmp_path: Path, kind: str
) -> None:
    start = train(TrainRequest((scan,), small(), tmp_path / 'start.h5.zip'), ignore)
    config = override_config(
        Config(),
        {
            'training.start': str(start),
            'training.finetune': kind,
            'training.max_steps': 6,
            'grouping.group_size': 16,
        },
    )
    path = train(TrainRequest((scan,), config, tmp_path / 'tuned.h5.zip'), ignore)
    old, new = read_archive(start).weights, read_archive(path).weights
    first, last = 'network.stages.0.last.weight', 'network.stages.1.last.weight'
    assert not numpy.array_equal(old[last], new[last])
    assert numpy.array_equal(old[first], new[first]) == (kind == 'decoder')


def test_training_starts_from_the_shipped_model_by_default(scan: Scan, tmp_path: Path) -> None:
    config = override_config(Config(), {'training.max_steps': 1, 'grouping.group_size': 16})
    path = train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    archive, shipped = read_archive(path), read_archive(shipped_model())
    assert archive.details['start'] == 'shipped'
    name = 'network.stages.0.down0.conv1.weight'
    assert numpy.allclose(archive.weights[name], shipped.weights[name], atol=0.02)


def test_early_stopping_counts_epochs(scan: Scan, tmp_path: Path) -> None:
    config = small(
        training__max_steps=400, training__early_stopping=2, training__learning_rate=1e-9
    )
    path = train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    assert len(read_archive(path).history) == 3


def test_a_run_shorter_than_an_epoch_needs_no_early_end(scan: Scan, tmp_path: Path) -> None:
    config = small(training__max_steps=2, training__early_stopping=1)
    path = train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    assert read_archive(path).details['steps'] == 2


def test_the_history_knows_the_rate_of_the_plateau(scan: Scan, tmp_path: Path) -> None:
    config = small(
        training__max_steps=120,
        training__schedule='plateau',
        training__warmup_fraction=0.0,
        training__learning_rate=1e-9,
        training__early_stopping=50,  # judged in every epoch
    )
    path = train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    rates = [row['learning_rate'] for row in read_archive(path).history]
    assert rates[0] == pytest.approx(1e-9)
    assert rates[-1] is not None and rates[-1] <= 0.5e-9


@pytest.mark.parametrize(('best', 'is_said'), [(0.02, False), (0.095, True)])
def test_the_best_model_and_not_the_last_is_called_flat(best: float, is_said: bool) -> None:
    from ptychodus_pinn_torch.training.fitting import Fitted
    from ptychodus_pinn_torch.training.run import _warn_when_flat
    from ptychodus_pinn_torch.training.training_log import TrainingLog

    reports: list[EpochReport] = []
    metrics = {'held_out': 0.5, 'held_out_flat': 0.1}
    _warn_when_flat(Fitted({}, 10, metrics, best_held_out=best), TrainingLog(reports.append, 10))
    assert any('flat object' in report.message for report in reports) == is_said


def test_a_checkpoint_is_enough_to_go_on_with(scan: Scan, tmp_path: Path) -> None:
    from ptychodus_pinn_torch.training.module import PtychoPINN

    config = small(physics__train_probe=True)
    train(TrainRequest((scan,), config, tmp_path / 'm.h5.zip'), ignore)
    path = tmp_path / 'm.run' / 'last.ckpt'
    module = PtychoPINN.load_from_checkpoint(path, weights_only=True)
    assert module.config == config
    assert tuple(module.forward_model.probe(0).shape) == scan.probe.shape


def test_too_few_patterns_for_a_group_is_a_sentence(scan: Scan, tmp_path: Path) -> None:
    few = scan.select(numpy.arange(5))
    with pytest.raises(ValueError, match='a group takes 16 patterns'):
        train(TrainRequest((few,), small(), tmp_path / 'm.h5.zip'), ignore)


def test_ctrl_c_keeps_the_best_model_and_exits_130(scan: Scan, tmp_path: Path) -> None:
    import signal
    import time

    from ptychodus_pinn_torch.scan.io.output import write_scan_npz

    write_scan_npz(tmp_path / 'scan.npz', scan)
    (tmp_path / 'config.json').write_text(
        json.dumps(small(training__max_steps=100000).model_dump()), encoding='utf-8'
    )
    process = subprocess.Popen(
        [sys.executable, '-m', 'ptychodus_pinn_torch.cli', 'train', tmp_path / 'scan.npz',
         '--output', tmp_path / 'model.h5.zip', '--config', tmp_path / 'config.json',
         '--no-check'],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    log = tmp_path / 'model.run' / 'last.ckpt'
    deadline = time.monotonic() + 90
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert read_archive(tmp_path / 'model.h5.zip').details['steps'] > 0
