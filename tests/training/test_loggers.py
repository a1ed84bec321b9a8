"""What a run writes for those who watch it: options, figures, and the image as it comes."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
from matplotlib.image import imread

from ptychodus_pinn_torch import api
from ptychodus_pinn_torch.config import ConfigError, iter_options
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

STEPS = 50


class Log(NamedTuple):
    """What a logger was told: option values as text, figures by step, pictures by step."""

    options: dict[str, str]
    figures: dict[str, list[int]]
    images: dict[int, Any]


def read_tensorboard(folder: Path) -> Log:
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    from io import BytesIO

    from yaml import safe_load

    found = events.EventAccumulator(str(folder / 'tensorboard'), {'images': 0})
    found.Reload()
    figures = {
        name: [item.step for item in found.Scalars(name)] for name in found.Tags()['scalars']
    }
    images = {
        item.step: imread(BytesIO(item.encoded_image_string), 'png')
        for item in found.Images('amplitude and phase')
    }
    options = safe_load((folder / 'tensorboard' / 'hparams.yaml').read_text())
    return Log({name: str(value) for name, value in options.items()}, figures, images)


def read_mlflow(folder: Path) -> Log:
    tracking = pytest.importorskip('mlflow.tracking')
    client = tracking.MlflowClient((folder / 'mlflow').as_uri())
    (experiment,) = [x for x in client.search_experiments() if x.name == 'ptychodus-pinn']
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == 'model' and run.info.status == 'FINISHED'
    figures = {
        name: [item.step for item in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    images = {}
    for item in client.list_artifacts(run.info.run_id, 'images'):
        if item.path.endswith('.png'):
            found = re.search(r'step\W(\d+)', item.path)
            assert found
            images[int(found[1])] = imread(client.download_artifacts(run.info.run_id, item.path))
    return Log(run.data.params, figures, images)


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, seed=2))


OPTIONS = {
    'training.max_steps': STEPS,
    'training.start': 'none',
    'network.num_stages': 2,
    'network.width': 4,
    'network.num_subsets': 4,
    'grouping.group_size': 16,
    'execution.num_threads': 1,
}


@pytest.mark.parametrize(
    ('kind', 'read'), [('tensorboard', read_tensorboard), ('mlflow', read_mlflow)]
)
def test_a_logger_gets_options_figures_and_an_image_after_each_validation(
    scan: Scan, tmp_path: Path, kind: str, read: Callable[[Path], Log]
) -> None:
    pytest.importorskip(kind)
    options = OPTIONS | {'execution.logger': kind}
    api.train(scan, tmp_path / 'model.h5.zip', options=options)
    log = read(tmp_path / 'model.run')
    assert log.options['training.max_steps'] == str(STEPS)
    assert set(log.options) == {item.path for item in iter_options('unrolled')}
    assert max(log.figures['loss']) == STEPS - 1
    judged = log.figures['held_out']
    assert len(judged) >= 2 and len(log.images) == len(judged)
    assert all(step - 1 in judged for step in log.images)
    last = log.images[max(log.images)]
    amplitude = last[: last.shape[0], : last.shape[1] // 2]
    assert amplitude.max() - amplitude.min() > 0.9, 'as much contrast as there is'
    assert _resembles(amplitude if amplitude.ndim == 2 else amplitude[..., 0], scan)


def _resembles(picture: Any, scan: Scan) -> bool:
    """Returns whether a picture of the middle of a scan is found there in its object."""
    from skimage.feature import match_template

    assert scan.truth is not None
    inner = picture[12:-12, 12:-12]
    return bool(match_template(numpy.abs(scan.truth), inner).max() > 0.6)


def test_the_table_of_a_run_is_written_without_anything_else_installed(
    scan: Scan, tmp_path: Path
) -> None:
    api.train(scan, tmp_path / 'model.h5.zip', options=OPTIONS | {'training.max_steps': 30})
    with (tmp_path / 'model.run' / 'csv' / 'metrics.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert any(row['held_out'] for row in rows) and any(row['loss'] for row in rows)


@pytest.mark.parametrize('kind', ['tensorboard', 'mlflow'])
def test_a_logger_that_is_not_installed_is_named_with_the_command(
    scan: Scan, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('ptychodus_pinn_torch.training.loggers.find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'ptychodus-pinn-torch\[{kind}\]'"):
        api.train(scan, tmp_path / 'm.h5.zip', options=OPTIONS | {'execution.logger': kind})
    assert not (tmp_path / 'm.h5.zip').exists()
