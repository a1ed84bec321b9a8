"""The window of Ptychodus itself, without a screen, driven by its own handlers."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from host_scans import make_parameters
from staging import stage

pytest.importorskip('PyQt5')

from gui_window import Window
from ptychodus.model import ModelCore
from PyQt5.QtWidgets import QCheckBox, QComboBox, QLabel, QLineEdit, QPushButton

from ptychodus_pinn_torch.host.settings import iter_host_options

KEPT = []


@pytest.fixture(scope='module')
def shared_window(tmp_path_factory):
    """One window for all: Qt crashes when Python collects the widgets of an earlier one."""
    folder = stage(tmp_path_factory.mktemp('in'), make_parameters())
    with ModelCore(log_level=logging.INFO) as model:
        window = Window(model, folder)
        KEPT.append(window)
        yield window


@pytest.fixture
def window(shared_window, text_models, caplog):
    caplog.set_level(logging.INFO)
    window = shared_window
    window.model.processing_core.processing_api.task_monitor.update_progress(0, 1)
    for key in ('pinn-torch_supervised', 'pinn-torch_unsupervised'):
        window.parameter.set_value(key)
        window.reconstructor.engine = 'fake_engines:PlainEngine'
        window.reconstructor.use_shipped_model()
    settings = window.reconstructor._settings
    for option in iter_host_options():
        settings.get_parameter(option.path).set_value(str(option.default))
    settings.backend.set_value('pytorch')
    window.processing._product_view_controller.get_widget().setCurrentIndex(0)
    window.processing._sync_action_buttons_to_selection()
    window.status.text_edit.clear()
    return window


@pytest.fixture
def dialogs(window, monkeypatch):
    """Answers of the file dialogs, by the method that asks."""
    answers = {}
    factory = window.processing._file_dialog_factory
    for method in ('get_existing_directory_path', 'get_open_file_path', 'get_save_file_path'):
        monkeypatch.setattr(factory, method, lambda *a, _m=method, **k: answers[_m])
    return answers


def test_choosing_nothing_selects_what_the_box_shows(window):
    box = window.processing._algorithm_view_controller.get_widget()
    shown = [box.itemText(index) for index in range(box.count())]
    assert shown[-2:] == ['pinn-torch_unsupervised', 'pinn-torch_supervised']
    assert window.parameter.get_value() == box.currentText()
    assert window.actions.reconstruct_button.text() == 'Infer'


def test_a_day_at_the_beamline(window, dialogs, tmp_path):
    data = tmp_path / 'training'
    data.mkdir()
    dialogs['get_save_file_path'] = (data / 'train_data.npz', '')
    window.processing._export_training_data_action.trigger()
    assert (data / 'train_data.npz').is_file()

    dialogs['get_existing_directory_path'] = data
    window.actions.train_button.click()
    window.wait(lambda: window.status.progress_bar.isVisible())
    window.wait(lambda: window.status.progress_bar.value() > 20)
    assert 'left' in window.status.progress_bar.format()
    assert [line.get_label() for line in window.status.axes.lines] == ['training', 'held-out']
    window.status.stop_button.click()
    window.wait(lambda: not window.is_working())
    window.wait(lambda: 'stopped' in window.log)

    steps = window.widget(QLineEdit, 'Max steps:')
    steps.setText('30')
    steps.editingFinished.emit()
    window.actions.train_button.click()
    window.wait_for_work()
    assert (data / 'model.h5.zip').read_text() == '1 0 30'
    assert 'held-out error' in window.log
    assert window.actions.reconstruct_button.isEnabled()

    window.actions.reconstruct_button.click()
    window.wait_for_work()
    repository = window.model.product_core.product_repository
    item = repository[len(repository) - 1]
    assert item.get_name() == 'demo_pinn-torch_unsupervised'
    window.wait(lambda: len(item.get_losses()) == 3 + 1 + 3 + 1 + 2)
    assert item.get_product().object_.get_layer(0)[20, 25] == 7.0
    assert window.status.axes.lines
    assert 'All is well.' in window.log
    comments = item.get_metadata_item().comments.get_value()
    assert comments.startswith('as measured\nPINN-Torch: the image is right. Positions were moved')

    dialogs['get_open_file_path'] = (data / 'model.h5.zip', '')
    window.processing._load_model_action.trigger()
    label = next(
        item for item in window.settings_view.findChildren(QLabel) if 'model.h5.zip' in item.text()
    )
    button = next(
        item
        for item in window.settings_view.findChildren(QPushButton)
        if item.text() == 'Use Shipped Model'
    )
    assert button.isVisible()
    button.click()
    assert window.reconstructor.model.path is None
    assert 'hipped model' in label.text()


def test_a_failure_in_the_background_is_a_sentence_in_the_log_pane(window, dialogs, tmp_path):
    dialogs['get_existing_directory_path'] = tmp_path / 'temporary'
    window.actions.train_button.click()
    window.wait(lambda: 'Training failed: ' in window.log)
    assert 'holds no training data' in window.log


def test_infer_is_off_while_the_own_model_is_gone(window, tmp_path):
    model = tmp_path / 'mine.h5.zip'
    model.write_text('weights')
    window.reconstructor.load_model_from_file(model)
    model.unlink()
    window.processing._sync_action_buttons_to_selection()
    assert not window.actions.reconstruct_button.isEnabled()
    window.reconstructor.use_shipped_model()
    assert window.actions.reconstruct_button.isEnabled()


def test_view_shows_every_option_with_its_description(window):
    view = window.settings_view
    tips = ' '.join(
        item.toolTip()
        for kind in (QLineEdit, QCheckBox, QComboBox)
        for item in view.findChildren(kind)
    )
    for option in iter_host_options():
        assert option.description in tips, option.path
    assert window.widget(QLineEdit, 'Max steps:').isVisible()
    assert not window.widget(QLineEdit, 'Clip norm:').isVisible()
    advanced = next(
        b for b in view.findChildren(object) if getattr(b, 'title', str)() == 'Advanced'
    )
    advanced.setChecked(True)
    assert window.widget(QLineEdit, 'Clip norm:').isVisible()


def test_a_bad_value_is_marked_and_kept(window, tmp_path):
    ini = tmp_path / 'settings.ini'
    ini.write_text('[PINNTorchTraining]\nmax_steps = many\n[PINNTorchLoss]\nkind = cheese\n')
    window.model.settings_registry.open_settings(ini)
    steps = window.widget(QLineEdit, 'Max steps:')
    assert steps.text() == 'many' and 'valid integer' in steps.toolTip()
    assert 'color' in steps.styleSheet()
    assert window.widget(QComboBox, 'Kind:').currentText() == 'cheese'
    window.actions.reconstruct_button.click()
    window.wait(lambda: "training.max_steps = 'many'" in window.log)


def test_backend_is_a_setting(window):
    box = window.widget(QComboBox, 'Backend:')
    assert [box.itemText(i) for i in range(box.count())] == ['pytorch', 'tensorflow']
    box.setCurrentText('tensorflow')
    box.textActivated.emit('tensorflow')
    registry = window.model.settings_registry
    assert registry['PINNTorch'].parameters()['backend'].get_value() == 'tensorflow'


def test_environment_is_shown_to_override_the_backend(window, monkeypatch):
    from ptychodus_pinn_torch.host.view import BackendViewController

    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'TensorFlow')
    registry = window.model.settings_registry
    widget = BackendViewController(registry['PINNTorch'].parameters()['backend']).get_widget()
    assert 'PTYCHOPINN_BACKEND=tensorflow' in widget.findChild(QLabel).text()
    assert not widget.findChild(QComboBox).isEnabled()


CLOSING = """
import sys, zipfile
sys.path.insert(0, {folder!r})
import test_view
from pathlib import Path
with test_view.ModelCore() as model:
    window = test_view.Window(model, Path({data!r}))
    window.reconstructor.engine = 'fake_engines:EndlessEngine'
    window.processing._file_dialog_factory.get_existing_directory_path = lambda *a: Path({data!r})
    window.actions.train_button.click()
    window.wait(lambda: window.status.progress_bar.value() > 0)
    window.view.close()
print('CLOSED', flush=True)
import os
os._exit(0)
"""


def test_closing_during_training_does_not_wait_for_its_end(tmp_path):
    folder = stage(tmp_path / 'in', make_parameters())
    script = CLOSING.format(folder=str(Path(__file__).parent), data=str(folder))
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=60, check=False
    )
    assert 'CLOSED' in done.stdout.split(), done.stdout + done.stderr
