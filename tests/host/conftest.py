"""A library of the fake engine, and a watch on what is left behind."""

import logging
import os
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip('ptychodus')
os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
sys.path.insert(0, str(Path(__file__).parent))

from host_scans import make_parameters
from ptychodus.api.settings import SettingsRegistry

from ptychodus_pinn_torch.host import model_file
from ptychodus_pinn_torch.host.library import PtychoPINNTorchReconstructorLibrary
from ptychodus_pinn_torch.host.payload import FOLDER_PREFIX


@pytest.fixture
def parameters():
    return make_parameters()


@pytest.fixture
def text_models(monkeypatch):
    """Any file that is not empty counts as a model."""

    def inspect_model(path):
        if not path.read_text():
            raise ValueError(f'{path} is no model: it is empty.')
        return model_file.ModelFacts('a text')

    monkeypatch.setattr(model_file, 'inspect_model', inspect_model)


@pytest.fixture
def library(text_models):
    library = PtychoPINNTorchReconstructorLibrary(SettingsRegistry(), False)
    for reconstructor in library.reconstructors:
        reconstructor.engine = 'fake_engines:PlainEngine'
    return library


@pytest.fixture
def reconstructor(library):
    return library.reconstructors[0]


@pytest.fixture
def training_folder(tmp_path, reconstructor, parameters):
    folder = tmp_path / 'training'
    folder.mkdir()
    reconstructor.export_training_data(folder / 'one.npz', parameters)
    return folder


@pytest.fixture(autouse=True)
def temporary_root(tmp_path, monkeypatch):
    """Everything temporary goes into a folder of its own, which must be empty afterwards."""
    root = tmp_path / 'temporary'
    root.mkdir()
    monkeypatch.setenv('TMPDIR', str(root))
    monkeypatch.setattr(tempfile, 'tempdir', str(root))
    yield root
    assert not list(root.glob(f'{FOLDER_PREFIX}*'))


@pytest.fixture(autouse=True)
def visible_log(caplog):
    caplog.set_level(logging.INFO, logger='ptychodus_pinn_torch')
