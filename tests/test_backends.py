"""One contract, two engines: every promise of the `Backend` protocol, for each of them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray

for _folder in ('host', 'tensorflow_backend'):
    sys.path.insert(0, str(Path(__file__).parent / _folder))

from tensorflow_guard import REASON, REQUIRE_VARIABLE, has_tensorflow

from ptychodus_pinn_torch import backend as backends
from ptychodus_pinn_torch.backend import (
    BACKEND_VARIABLE,
    EpochReport,
    ReconstructRequest,
    TrainRequest,
    available_backends,
    get_backend,
    is_backend_available,
    resolve_backend,
)
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.metrics.comparison import coverage_mask
from ptychodus_pinn_torch.models.archive import ArchiveError, read_archive, write_archive
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct as run_reconstruction
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.io.products import make_host_product
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.training.run import train as run_training

BACKENDS = ['pytorch', 'tensorflow']
STEPS = 150
SPEC = SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, seed=3)
OPTIONS: dict[str, Any] = {
    'network.kind': 'cnn',
    'network.first_width': 16,
    'training.start': 'none',
    'training.max_steps': STEPS,
    'execution.num_threads': 1,
    'execution.accelerator': 'cpu',
    'execution.logger': 'none',
}


def need(backend: str) -> str:
    """Returns the name of a backend that is installed; skips the test where it is not."""
    if backend == 'tensorflow' and not has_tensorflow():
        pytest.skip(REASON)
    return backend


@pytest.fixture(scope='module', params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return need(request.param)


def configure(**options: Any) -> Config:
    changed = {name.replace('__', '.'): value for name, value in options.items()}
    return override_config(Config(), OPTIONS | changed)


def without_network(**options: Any) -> Config:
    """Returns the configuration of a reconstruction, whose network comes with the model."""
    given = {name: value for name, value in OPTIONS.items() if name.startswith('execution')}
    given.pop('execution.logger')
    return override_config(
        Config(), given | {name.replace('__', '.'): value for name, value in options.items()}
    )


def ignore(report: EpochReport) -> None:
    """Takes a report and does nothing."""


def train(backend: str, scans: Any, path: Path, report: Any = ignore, **options: Any) -> Path:
    request = TrainRequest(tuple(scans), configure(**options), path, backend=backend)
    return run_training(request, report)


def reconstruct(backend: str, scan: Scan, model: Path | None, report: Any = ignore, **opts: Any):
    config = without_network(**opts)
    return run_reconstruction(ReconstructRequest(scan, config, model, backend), report)


def run(*words: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != BACKEND_VARIABLE}
    return subprocess.run(
        [str(word) for word in words],
        env={**clean, 'OMP_NUM_THREADS': '1', **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def script(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def object_error(image: NDArray[Any], scan: Scan) -> float:
    """Returns the relative error on the middle of the scanned area, up to a complex factor."""
    assert scan.truth is not None
    low = numpy.ceil(scan.positions_px.min(axis=0)).astype(int)
    high = numpy.floor(scan.positions_px.max(axis=0)).astype(int)
    area = (slice(low[0], high[0]), slice(low[1], high[1]))
    test, truth = image[area], scan.truth[area]
    factor = numpy.vdot(test, truth) / numpy.vdot(test, test)
    return float(numpy.linalg.norm(factor * test - truth) / numpy.linalg.norm(truth))


@pytest.fixture(scope='module')
def scan_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan_npz(tmp_path_factory.mktemp('scan') / 'scan.npz', simulate_scan(SPEC))


@pytest.fixture(scope='module')
def scan(scan_path: Path) -> Scan:
    return read_scan(scan_path)


@pytest.fixture(scope='module')
def unseen() -> Scan:
    return simulate_scan(replace(SPEC, object_seed=11))


@pytest.fixture(scope='module')
def models(
    scan: Scan, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, list[EpochReport]]]:
    """A model of each backend with the reports of its training, made when first asked for."""
    made: dict[str, tuple[Path, list[EpochReport]]] = {}

    def find(name: str) -> tuple[Path, list[EpochReport]]:
        if name not in made:
            reports: list[EpochReport] = []
            path = tmp_path_factory.mktemp(name) / 'wts.h5.zip'
            made[name] = (train(name, [scan], path, reports.append), reports)
        return made[name]

    return find


@pytest.fixture(scope='module')
def model(backend: str, models: Callable[[str], Any]) -> Path:
    return models(backend)[0]


def test_training_reports_every_epoch_and_the_archive_keeps_it(
    backend: str, models: Callable[[str], Any]
) -> None:
    path, reports = models(backend)
    epochs = [report for report in reports if report.is_epoch_end]
    archive = read_archive(path)
    assert archive.backend == backend == get_backend(backend).name
    assert len(epochs) == len(archive.history) > 3
    assert [row['step'] for row in archive.history] == [report.step for report in epochs]
    assert epochs[-1].step == archive.details['steps'] == STEPS
    assert all(report.total == STEPS and report.phase == 'train' for report in epochs)
    assert all(numpy.isfinite(report.loss) for report in epochs)
    judged = [report for report in epochs if report.held_out is not None]
    assert judged and all(report.floor is not None for report in judged)
    assert epochs[-1].loss < 0.8 * epochs[0].loss


def test_both_archives_have_one_layout(models: Callable[[str], Any]) -> None:
    need('tensorflow')
    first, second = (read_archive(models(name)[0]) for name in BACKENDS)
    shapes = [{name: a.shape for name, a in item.weights.items()} for item in (first, second)]
    assert shapes[0] == shapes[1]
    assert first.config == second.config
    assert set(first.details) == set(second.details)
    assert set(first.history[-1]) == set(second.history[-1])


def test_a_trained_model_beats_a_flat_object_by_a_margin(
    backend: str, model: Path, scan: Scan, unseen: Scan
) -> None:
    details = read_archive(model).details
    assert details['best_held_out'] < 0.5 * details['held_out_flat']
    for item in (scan, unseen):
        flat = object_error(numpy.ones_like(item.object_), item)
        result = reconstruct(backend, item, model, reconstruction__refine_epochs=0)
        assert result.start == 'network'
        assert object_error(result.object_, item) < 0.95 * flat
        refined = reconstruct(backend, item, model)
        assert object_error(refined.object_, item) < 0.8 * flat
        assert refined.losses[-1][1] < refined.losses[0][1]


def test_another_process_makes_the_same_image_and_exports_it(
    backend: str, model: Path, scan: Scan, scan_path: Path, tmp_path: Path
) -> None:
    from ptychodus.api.io import load_product

    wanted = reconstruct(backend, scan, model, reconstruction__refine_epochs=2)
    for name in ('image.npz', 'product.h5'):
        done = run(
            script('ptychodus-pinn'), 'reconstruct', scan_path, '--model', model, '--backend',
            backend.upper(), '--output', tmp_path / name, '--refine', '2', '--device', 'cpu',
            '--threads', '1', '--no-picture',
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    with numpy.load(tmp_path / 'image.npz') as image:
        found = image['object']
    assert wanted.object_.shape == found.shape == scan.object_.shape
    numpy.testing.assert_allclose(found, wanted.object_, atol=1e-4)
    product = load_product(tmp_path / 'product.h5')
    numpy.testing.assert_allclose(product.object_.get_layer(0), found, atol=1e-4)
    assert len(product.losses) == 2
    assert wanted.backend == backend


def test_tensorflow_is_imported_only_where_it_was_chosen(backend: str, scan_path: Path) -> None:
    code = (
        'import sys\n'
        'import ptychodus_pinn_torch as pinn\n'
        'options = {"reconstruction.start": "flat", "execution.num_threads": 1, '
        '"reconstruction.refine_epochs": 1}\n'
        f'scan = pinn.read_scan({str(scan_path)!r})\n'
        'assert not {"torch", "tensorflow"} & set(sys.modules)\n'
        f'pinn.reconstruct(scan, options=options, backend={backend!r})\n'
        'print("FOUND", "tensorflow" in sys.modules)\n'
    )
    done = run(sys.executable, '-c', code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(backend == 'tensorflow')


def test_each_engine_runs_the_model_of_the_other_or_names_both(
    backend: str, models: Callable[[str], Any], scan: Scan
) -> None:
    other = BACKENDS[1 - BACKENDS.index(backend)]
    need(other)
    path = models(other)[0]
    wanted = reconstruct(other, scan, path, reconstruction__refine_epochs=0)
    try:
        found = reconstruct(backend, scan, path, reconstruction__refine_epochs=0)
    except ArchiveError as error:
        assert backend == 'pytorch', 'tensorflow runs the cnn of either engine'
        assert 'tensorflow backend' in str(error) and 'pytorch backend' in str(error)
        return
    is_seen = coverage_mask(scan, 0.05)
    numpy.testing.assert_allclose(found.object_[is_seen], wanted.object_[is_seen], atol=5e-4)


@pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='PyTorch is not installed')
def test_a_model_of_tensorflow_gives_the_same_patches_on_pytorch(
    models: Callable[[str], Any], scan: Scan
) -> None:
    need('tensorflow')
    import torch

    archive = read_archive(models('tensorflow')[0])
    counts = numpy.asarray(scan.patterns[:5], dtype=numpy.float32)[:, None]
    photons = numpy.full((5, 1), 1e6, numpy.float32)
    inputs = (torch.from_numpy(counts), torch.from_numpy(photons), None)
    with torch.no_grad():
        found, wanted = (
            get_backend(name).load_network(archive, without_network()).map_stacks(*inputs)  # type: ignore[attr-defined]
            for name in ('tensorflow', 'pytorch')
        )
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_a_stop_keeps_the_best_model_and_the_run_can_be_resumed(
    backend: str, scan: Scan, tmp_path: Path
) -> None:
    path = tmp_path / 'model.h5.zip'

    def stop(report: EpochReport) -> None:
        if report.is_epoch_end:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(backend, [scan], path, stop, training__max_steps=30)
    assert 0 < read_archive(path).details['steps'] < 30
    request = TrainRequest(
        (scan,), configure(training__max_steps=30), path, is_resumed=True, backend=backend
    )
    run_training(request, ignore)
    assert read_archive(path).details['steps'] == 30


BAD_INPUT: dict[str, tuple[Callable[[str, Scan, Path, Path], Any], str]] = {
    'no scans': (
        lambda name, scan, model, path: train(name, [], path),
        'at least one scan',
    ),
    'no patterns': (
        lambda name, scan, model, path: reconstruct(name, scan.select(numpy.arange(0)), model),
        'no patterns',
    ),
    'a zero probe': (
        lambda name, scan, model, path: reconstruct(
            name, replace(scan, probe=0 * scan.probe), model
        ),
        'probe is zero',
    ),
    'labels are missing': (
        lambda name, scan, model, path: train(
            name, [replace(scan, truth=None)], path, mode='supervised'
        ),
        'needs the object of the scan',
    ),
    'groups larger than the scan': (
        lambda name, scan, model, path: train(name, [scan], path, grouping__group_size=101),
        'a group takes 101 patterns',
    ),
    'patterns of two sizes': (
        lambda name, scan, model, path: train(
            name,
            [scan, simulate_scan(replace(SPEC, pattern_size=64, num_positions=9))],
            path,
        ),
        'one (pattern )?size',
    ),
    'another pattern size than the model': (
        lambda name, scan, model, path: reconstruct(
            name, simulate_scan(replace(SPEC, pattern_size=64, num_positions=9)), model
        ),
        r'patterns of 32 px, the scan has 64 x 64 px',
    ),
    'an unknown network': (
        lambda name, scan, model, path: train(name, [scan], path, network__kind='cheese'),
        'cheese',
    ),
    'nothing to resume': (
        lambda name, scan, model, path: run_training(
            TrainRequest((scan,), configure(), path, is_resumed=True, backend=name), ignore
        ),
        'no interrupted run',
    ),
    'a truncated model': (
        lambda name, scan, model, path: reconstruct(name, scan, cut(model, path)),
        'is no (zip|model archive)',
    ),
    'a weight that is not finite': (
        lambda name, scan, model, path: reconstruct(name, scan, spoil(model, path)),
        'is not finite',
    ),
    'a weight that is missing': (
        lambda name, scan, model, path: reconstruct(name, scan, rob(model, path)),
        'does not fit the .*network: it lacks',
    ),
    'a file that is no model': (
        lambda name, scan, model, path: reconstruct(name, scan, other_zip(path)),
        'manifest.json',
    ),
}


def cut(model: Path, path: Path) -> Path:
    path.write_bytes(model.read_bytes()[:-500])
    return path


def spoil(model: Path, path: Path) -> Path:
    archive = read_archive(model)
    weights = {name: numpy.full_like(array, numpy.nan) for name, array in archive.weights.items()}
    return write_archive(path, replace(archive, weights=weights))


def rob(model: Path, path: Path) -> Path:
    archive = read_archive(model)
    weights = {k: v for k, v in archive.weights.items() if k != 'network.head.bias'}
    return write_archive(path, replace(archive, weights=weights))


def other_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, 'w') as bundle:
        bundle.writestr('readme.txt', 'not a model')
    return path


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_is_refused_in_a_sentence(
    case: str, backend: str, model: Path, scan: Scan, tmp_path: Path
) -> None:
    act, pattern = BAD_INPUT[case]
    with pytest.raises(ValueError, match=pattern):
        act(backend, scan, model, tmp_path / 'model.h5.zip')


def test_a_model_that_is_not_there_is_refused(backend: str, scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='there is no such model file'):
        reconstruct(backend, scan, tmp_path / 'none.h5.zip')


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr(backends, 'is_backend_available', lambda name: True)


@pytest.mark.parametrize(
    ('argument', 'variable', 'setting', 'wanted'),
    [
        (None, None, None, 'pytorch'),
        (None, None, 'tensorflow', 'tensorflow'),
        (None, 'tensorflow', 'pytorch', 'tensorflow'),
        ('pytorch', 'tensorflow', 'tensorflow', 'pytorch'),
        (None, ' TensorFlow\n', None, 'tensorflow'),
        (None, '', 'tensorflow', 'tensorflow'),
        ('', ' ', '  ', 'pytorch'),
    ],
)
def test_argument_before_variable_before_setting_before_default(
    everything_installed: None,
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    variable: str | None,
    setting: str | None,
    wanted: str,
) -> None:
    if variable is not None:
        monkeypatch.setenv(BACKEND_VARIABLE, variable)
    assert resolve_backend(argument, setting) == wanted


@pytest.mark.parametrize('source', ['argument', 'variable', 'settings'])
def test_an_unknown_backend_names_source_and_choices(
    everything_installed: None, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == 'variable':
        monkeypatch.setenv(BACKEND_VARIABLE, 'jax')
    given = {'argument': ('jax', None), 'settings': (None, 'jax')}.get(source, (None, None))
    with pytest.raises(ValueError, match=f"'jax', from the {source}.*pytorch, tensorflow"):
        resolve_backend(*given)


@pytest.mark.parametrize(
    ('name', 'title', 'missing', 'command'),
    [
        ('tensorflow', 'TensorFlow', 'tensorflow', r"pip install '.*\[tensorflow\]'"),
        ('pytorch', 'PyTorch', 'torch', 'pip install ptychodus-pinn-torch'),
    ],
)
def test_an_engine_that_is_missing_is_said_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, title: str, missing: str, command: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda word, *a: None if word == missing else find(word, *a)
    )
    monkeypatch.setenv(BACKEND_VARIABLE, name)
    assert not is_backend_available(name)
    message = f'{title} backend selected by the variable .*{missing} is not installed: {command}'
    with pytest.raises(RuntimeError, match=message):
        resolve_backend()


def test_the_tensorflow_engine_itself_says_when_tensorflow_is_missing(
    monkeypatch: pytest.MonkeyPatch, scan: Scan, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda word, *a: None)
    with pytest.raises(RuntimeError, match='TensorFlow backend selected, .*pip install'):
        train('tensorflow', [scan], tmp_path / 'model.h5.zip')
    with pytest.raises(RuntimeError, match='TensorFlow backend selected, .*pip install'):
        reconstruct('tensorflow', scan, None)


def test_both_engines_are_listed_installed_or_not() -> None:
    assert available_backends() == ('pytorch', 'tensorflow')
    with pytest.raises(ValueError, match="backend 'jax' is unknown"):
        get_backend('jax')


def test_the_command_line_refuses_an_unknown_backend(scan_path: Path, tmp_path: Path) -> None:
    words = (scan_path, '--output', tmp_path / 'a.npz', '--backend', 'jax')
    done = run(script('ptychodus-pinn'), 'reconstruct', *words)
    assert done.returncode == 2 and "'jax', from the argument, is unknown" in done.stderr


def test_where_tensorflow_is_required_its_absence_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    monkeypatch.delenv(REQUIRE_VARIABLE, raising=False)
    assert not has_tensorflow()
    monkeypatch.setenv(REQUIRE_VARIABLE, '1')
    with pytest.raises(pytest.fail.Exception, match='TensorFlow is not installed'):
        has_tensorflow()


SETTINGS = """
[Processing]
Algorithm = pinn-torch_unsupervised
[PINNTorch]
backend = {backend}
[PINNTorchNetwork]
kind = cnn
first_width = 8
[PINNTorchTraining]
start = none
max_steps = 20
[PINNTorchReconstruction]
refine_epochs = 4
[PINNTorchExecution]
accelerator = cpu
num_threads = 1
"""


def stage_batch(folder: Path, scan: Scan, backend: str) -> Path:
    from ptychodus.api.reconstruct import ReconstructInput
    from staging import stage

    product = make_host_product(scan, scan.object_, scan.positions_px, scan.probe, [])
    parameters = ReconstructInput(scan.patterns, ~scan.good_pixels, product)
    return Path(stage(folder, parameters, SETTINGS.format(backend=backend)))


@pytest.mark.slow
def test_batch_mode_runs_the_engine_of_the_settings(
    backend: str, scan: Scan, tmp_path: Path
) -> None:
    from ptychodus.api.io import load_product

    folder = stage_batch(tmp_path / 'in', scan, backend)
    done = run(script('ptychodus'), '-b', 'train', '-i', folder, '-o', tmp_path / 'model')
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'with the {backend} backend' in done.stdout + done.stderr
    model = tmp_path / 'model' / 'model.h5.zip'
    assert read_archive(model).backend == backend
    shutil.copy(model, folder)
    done = run(script('ptychodus'), '-b', 'reconstruct', '-i', folder, '-o', tmp_path / 'out')
    assert done.returncode == 0, done.stdout + done.stderr
    product = load_product(tmp_path / 'out' / 'product.000001.h5')
    image = product.object_.get_layer(0)
    assert image.shape == scan.object_.shape
    assert object_error(image, scan) < 0.7 * object_error(scan.object_, scan)


@pytest.mark.slow
def test_batch_mode_obeys_the_variable_and_says_what_is_missing(scan: Scan, tmp_path: Path) -> None:
    folder = stage_batch(tmp_path / 'in', scan, 'pytorch')
    words = (script('ptychodus'), '-b', 'train', '-i', folder, '-o', tmp_path / 'model')
    done = run(*words, **{BACKEND_VARIABLE: 'TensorFlow'})
    text = done.stdout + done.stderr
    if has_tensorflow():
        assert done.returncode == 0, text
        assert read_archive(tmp_path / 'model' / 'model.h5.zip').backend == 'tensorflow'
        return
    assert done.returncode == 1
    assert 'TensorFlow backend selected by the variable' in text and 'pip install' in text


def test_the_dropdown_offers_both_and_sets_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    monkeypatch.setenv('QT_QPA_PLATFORM', os.environ.get('QT_QPA_PLATFORM', 'offscreen'))
    widgets = pytest.importorskip('PyQt5.QtWidgets')
    from ptychodus.api.settings import SettingsRegistry

    from ptychodus_pinn_torch.host.settings import PINNTorchSettings
    from ptychodus_pinn_torch.host.view import BackendViewController

    application = widgets.QApplication.instance() or widgets.QApplication(['ptychodus'])
    settings = PINNTorchSettings(SettingsRegistry())
    controller = BackendViewController(settings.backend)
    box = controller.get_widget().findChild(widgets.QComboBox)
    assert [box.itemText(index) for index in range(box.count())] == BACKENDS
    for name in reversed(BACKENDS):
        box.setCurrentText(name)
        box.textActivated.emit(name)
        application.processEvents()
        assert settings.backend.get_value() == name
        need(name)
        assert resolve_backend(setting=settings.backend.get_value()) == name
