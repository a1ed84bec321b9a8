import logging
import sys
from dataclasses import replace

import numpy
import pytest
from host_scans import CENTER_M, PIXEL_M, make_parameters
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.settings import SettingsRegistry

from ptychodus_pinn_torch.config import ConfigError
from ptychodus_pinn_torch.host import model_file
from ptychodus_pinn_torch.host.library import PtychoPINNTorchReconstructorLibrary
from ptychodus_pinn_torch.host.runner import WorkerError
from ptychodus_pinn_torch.models.archive import read_archive
from ptychodus_pinn_torch.scan.io.reading import read_scan


class Task:
    """A task that is stopped after some questions."""

    def __init__(self, num_questions):
        self.num_questions = num_questions
        self.progress = []

    def is_stopping(self):
        self.num_questions -= 1
        return self.num_questions < 0

    def update_progress(self, progress, progress_goal):
        self.progress.append((progress, progress_goal))

    def refresh(self):
        pass


def test_export_keeps_counts_dtype_modes_and_bad_pixels(reconstructor, parameters, tmp_path):
    reconstructor.export_training_data(tmp_path / 'data', parameters)
    with numpy.load(tmp_path / 'data.npz') as data:
        assert data['diff3d'].dtype == numpy.uint16
        assert numpy.array_equal(data['diff3d'], parameters.diffraction_patterns)
        assert str(data['diff3d_kind']) == 'counts'
        assert data['bad_pixels'][3, 5] and data['bad_pixels'].sum() == 1
        assert data['probeGuess'].shape == (2, 32, 32)
        assert data['objectGuess'].shape == (70, 90)
        assert numpy.allclose(data['ycoords'][:4], [20, 20, 20, 23])
        assert numpy.allclose(data['xcoords'][:4], [25, 29, 33, 25])
        from ptychodus.api.io import save_ptychopinn_training_data

        save_ptychopinn_training_data(tmp_path / 'theirs.npz', parameters)
        with numpy.load(tmp_path / 'theirs.npz') as theirs:
            assert set(data) == set(theirs) | {'diff3d_kind'}
            assert {key: data[key].dtype for key in theirs} == {
                key: theirs[key].dtype for key in theirs
            }
    assert read_scan(tmp_path / 'data.npz').num_modes == 2


def test_an_export_that_fails_leaves_no_file(reconstructor, parameters, tmp_path, monkeypatch):
    def fail(*arguments, **arrays):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(numpy, 'savez', fail)
    with pytest.raises(OSError, match='No space left'):
        reconstructor.export_training_data(tmp_path / 'data.npz', parameters)
    assert [path.name for path in tmp_path.iterdir()] == ['temporary']


def test_training_leaves_a_model_that_is_loaded(reconstructor, training_folder, tmp_path, caplog):
    reconstructor._settings.get_parameter('training.max_steps').set_value('60')
    (training_folder / 'test_data.npz').write_bytes((training_folder / 'one.npz').read_bytes())
    assert reconstructor.get_progress_goal() > 0
    goals, outputs = set(), []
    for output in reconstructor.train(training_folder, tmp_path / 'out'):
        goals.add(reconstructor.get_progress_goal())
        outputs.append(output)
    assert 60 in goals and len(outputs) >= 3
    assert outputs[-1].progress == 60
    assert [item.epoch for item in outputs[-1].training_loss] == [1, 2, 3, 4, 5, 6]
    assert outputs[-1].validation_loss[0].value == pytest.approx(0.2)
    assert (tmp_path / 'out' / 'model.h5.zip').read_text() == '1 1 60'
    assert reconstructor.is_model_loaded()
    assert 'left' in caplog.text and 'held-out error' in caplog.text


def test_staged_files_are_training_data_too(reconstructor, parameters, tmp_path):
    from staging import stage

    stage(tmp_path / 'in', parameters)
    reconstructor._settings.get_parameter('training.max_steps').set_value('2')
    list(reconstructor.train(tmp_path / 'in', tmp_path / 'out'))
    assert (tmp_path / 'out' / 'model.h5.zip').read_text() == '1 0 2'


def test_a_folder_without_data_is_explained(reconstructor, tmp_path, caplog):
    (tmp_path / 'notes.txt').write_text('x')
    with pytest.raises(FileNotFoundError, match='holds no training data .*notes.txt.*export'):
        list(reconstructor.train(tmp_path, tmp_path))
    assert 'Training failed' in caplog.text


def test_product_stays_on_the_grid_of_the_input(reconstructor, parameters):
    (output,) = reconstructor.reconstruct(parameters)
    given, made = parameters.product, output.product
    assert output.progress == 1
    assert replace(made.metadata, comments='as measured') == given.metadata
    assert made.probe_positions is given.probe_positions
    assert made.probes is given.probes
    geometry = made.object_.get_geometry()
    assert (geometry.center_y_m, geometry.center_x_m) == CENTER_M
    assert (geometry.pixel_height_m, geometry.pixel_width_m) == PIXEL_M
    array = made.object_.get_layer(0)
    marked = {tuple(index) for index in numpy.argwhere(array == 7.0)}
    assert marked == {(20 + 3 * i, 25 + 4 * j) for i in range(3) for j in range(3)}
    rest = array != 7.0
    expected = 1j * given.object_.get_layer(0)
    assert numpy.allclose(array[rest], expected[rest], atol=1e-5)
    assert [(loss.epoch, loss.value) for loss in made.losses] == [(0, 0.5), (1, 0.25)]


def test_the_verdict_is_in_the_comments_and_what_was_there_stays(reconstructor, parameters):
    verdict = 'PINN-Torch: the image is right. Positions were moved by 1.5 px rms, 2.5 px at most.'
    (output,) = reconstructor.reconstruct(parameters)
    assert output.product.metadata.comments == f'as measured\n{verdict}'
    commented = replace(
        output.product.metadata, comments='before\n\nPINN-Torch: an older verdict.\nafter: 100 %'
    )
    again = replace(parameters, product=replace(output.product, metadata=commented))
    (output,) = reconstructor.reconstruct(again)
    assert output.product.metadata.comments == f'before\n\nafter: 100 %\n{verdict}'
    empty = replace(commented, comments='')
    again = replace(parameters, product=replace(output.product, metadata=empty))
    (output,) = reconstructor.reconstruct(again)
    assert output.product.metadata.comments == verdict


def test_refined_positions_and_probe_reach_the_product_only_when_asked(reconstructor, parameters):
    for name in ('update_positions', 'update_probe'):
        reconstructor._settings.get_parameter(f'reconstruction.{name}').set_value('True')
    (output,) = reconstructor.reconstruct(parameters)
    given, made = parameters.product, output.product
    for old, new in zip(given.probe_positions, made.probe_positions):
        assert new.index == old.index
        assert new.y_m - old.y_m == pytest.approx(PIXEL_M[0], rel=1e-4)
        assert new.x_m - old.x_m == pytest.approx(2 * PIXEL_M[1], rel=1e-4)
    assert numpy.allclose(made.probes.get_array(), 2 * given.probes.get_array(), rtol=1e-5)


def test_training_curve_comes_before_the_refinement(reconstructor, parameters, training_folder):
    reconstructor._settings.get_parameter('training.max_steps').set_value('20')
    list(reconstructor.train(training_folder, training_folder))
    (output,) = reconstructor.reconstruct(parameters)
    losses = output.product.losses
    assert [loss.epoch for loss in losses] == [1, 2, 2, 1, 2, 2, 3, 4]
    assert numpy.flatnonzero(numpy.isnan([loss.value for loss in losses])).tolist() == [2, 5]
    reconstructor.use_shipped_model()
    (output,) = reconstructor.reconstruct(parameters)
    assert [loss.epoch for loss in output.product.losses] == [0, 1]


def test_layers_and_relaxed_probes_are_reduced_and_said(reconstructor, caplog):
    parameters = make_parameters(layers=3, opr=2, bad_pixels=False)
    (output,) = reconstructor.reconstruct(parameters)
    assert output.product.object_.num_layers == 1
    assert list(output.product.object_.layer_spacing_m) == []
    assert '3 layers' in caplog.text
    assert output.product.probes.num_coherent_modes == 2


def test_a_varying_probe_goes_to_the_engine_and_comes_back(reconstructor):
    for name in ('update_positions', 'update_probe'):
        reconstructor._settings.get_parameter(f'reconstruction.{name}').set_value('True')
    parameters = make_parameters(opr=3)
    (output,) = reconstructor.reconstruct(parameters)
    given, made = parameters.product.probes, output.product.probes
    numpy.testing.assert_allclose(made.get_array()[0], 2 * given.get_array()[0], rtol=1e-5)
    numpy.testing.assert_allclose(made.get_array()[1:, 0], 3 * given.get_array()[1:, 0], rtol=1e-5)
    numpy.testing.assert_array_equal(made.get_array()[1:, 1], given.get_array()[1:, 1])
    numpy.testing.assert_allclose(made.get_opr_weights(), -given.get_opr_weights())


def test_weights_of_other_positions_are_left_out_and_said(reconstructor, caplog, tmp_path):
    parameters = make_parameters(opr=2)
    probes = parameters.product.probes
    probes = ProbeSequence(
        probes.get_array(), probes.get_opr_weights()[:-1], probes.get_pixel_geometry()
    )
    parameters = replace(parameters, product=replace(parameters.product, probes=probes))
    (output,) = reconstructor.reconstruct(parameters)
    assert '8 rows of weights for 9 positions' in caplog.text
    assert output.product.probes is probes
    reconstructor._settings.get_parameter('reconstruction.update_probe').set_value('True')
    (output,) = reconstructor.reconstruct(parameters)
    assert output.product.probes.get_opr_weights_or_none() is None, 'they belong to another probe'


def test_an_export_tells_how_the_probe_varies(reconstructor, tmp_path):
    parameters = make_parameters(opr=2)
    reconstructor.export_training_data(tmp_path / 'data', parameters)
    variation = read_scan(tmp_path / 'data.npz').probe_variation
    probes = parameters.product.probes
    numpy.testing.assert_allclose(variation.modes, probes.get_array()[1:, 0], rtol=1e-6)
    numpy.testing.assert_allclose(variation.weights, probes.get_opr_weights())


def test_one_frame_is_a_scan(reconstructor):
    (output,) = reconstructor.reconstruct(make_parameters(num_patterns=1))
    assert output.product.object_.get_layer(0)[20, 25] == 7.0


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'num_patterns': 0}, 'no diffraction patterns'),
        ({'shape': (30, 30)}, 'lie outside the object'),
        ({'shape': (0, 0)}, 'has no object'),
    ],
)
def test_scans_that_cannot_work_are_explained(reconstructor, changes, sentence, caplog):
    with pytest.raises((ValueError, WorkerError), match=sentence):
        list(reconstructor.reconstruct(make_parameters(**changes)))
    assert sentence in caplog.text


def test_bad_settings_are_a_sentence_when_work_begins(reconstructor, parameters, caplog):
    reconstructor._settings.get_parameter('training.max_steps').set_value('many')
    with pytest.raises(ConfigError, match=r"training.max_steps = 'many'.*INI"):
        list(reconstructor.reconstruct(parameters))
    assert "'many'" in caplog.text


def test_environment_chooses_the_backend(reconstructor, parameters, monkeypatch):
    monkeypatch.setenv('PTYCHOPINN_BACKEND', ' Cheese ')
    with pytest.raises(ValueError, match="'cheese', from the variable PTYCHOPINN_BACKEND"):
        list(reconstructor.reconstruct(parameters))


def test_stop_during_reconstruction_yields_nothing(reconstructor, parameters):
    reconstructor.engine = 'fake_engines:EndlessEngine'
    reconstructor.task = Task(12)
    assert list(reconstructor.reconstruct(parameters)) == []


def test_progress_moves_during_reconstruction(reconstructor, parameters):
    reconstructor.task = Task(10_000)
    list(reconstructor.reconstruct(parameters))
    assert reconstructor.task.progress[-1] == (5, 5)


def test_stopped_training_keeps_the_best_so_far(reconstructor, training_folder, caplog):
    training = reconstructor.train(training_folder, training_folder)
    while next(training).progress < 5:
        pass
    training.close()
    assert (training_folder / 'model.h5.zip').is_file()
    assert reconstructor.model.path == training_folder / 'model.h5.zip'
    assert 'best model so far' in caplog.text


def test_stop_keeps_the_best_model_of_a_worker_that_does_not_hear_it(tmp_path, parameters, caplog):
    library = PtychoPINNTorchReconstructorLibrary(SettingsRegistry(), False)
    reconstructor, folder = library.reconstructors[0], tmp_path / 'training'
    folder.mkdir()
    reconstructor.export_training_data(folder / 'one.npz', parameters)
    reconstructor.engine = 'fake_engines:SlowStepEngine'
    (folder / 'model.run').mkdir()
    (folder / 'model.run' / 'best.h5.zip').write_text('of another run')
    training, best = reconstructor.train(folder, folder), folder / 'model.run' / 'best.h5.zip'
    for _ in training:
        if best.is_file():
            break
    assert best.read_bytes() != b'of another run'
    training.close()
    model = folder / 'model.h5.zip'
    assert (
        reconstructor.model.path == model
        and 'did not come to its end; its best model' in caplog.text
    )
    archive = read_archive(model)
    assert archive.config.network.width == 4 and len(archive.weights) > 3


def test_a_model_is_loaded_checked_saved_and_missed(reconstructor, parameters, tmp_path):
    model = tmp_path / 'mine.h5.zip'
    with pytest.raises(FileNotFoundError, match='does not exist'):
        reconstructor.load_model_from_file(model)
    model.write_text('')
    with pytest.raises(ValueError, match='is no model'):
        reconstructor.load_model_from_file(model)
    assert reconstructor.model.path is None
    model.write_text('weights')
    reconstructor.load_model_from_file(model)
    reconstructor.save_model(tmp_path / 'copy.h5.zip')
    assert (tmp_path / 'copy.h5.zip').read_text() == 'weights'
    model.unlink()
    assert not reconstructor.is_model_loaded()
    with pytest.raises(FileNotFoundError, match='is gone'):
        list(reconstructor.reconstruct(parameters))


def test_without_an_own_model_the_shipped_one_is_saved(reconstructor, tmp_path, monkeypatch):
    shipped = tmp_path / 'universal.h5.zip'
    monkeypatch.setattr(model_file, 'shipped_model', lambda: shipped)
    assert reconstructor.is_model_loaded()
    with pytest.raises(FileNotFoundError, match='no model to save'):
        reconstructor.save_model(tmp_path / 'model.h5.zip')
    shipped.write_text('weights')
    reconstructor.save_model(tmp_path / 'model.h5.zip')
    assert (tmp_path / 'model.h5.zip').read_text() == 'weights'


def test_log_of_the_worker_arrives_below_the_library_logger(reconstructor, parameters, caplog):
    list(reconstructor.reconstruct(parameters))
    records = [record for record in caplog.records if record.levelno == logging.INFO]
    assert any('All is well.' in record.getMessage() for record in records)
    assert all(record.name.startswith('ptychodus_pinn_torch') for record in records)
    assert [record.getMessage() for record in caplog.records].count('Nearly.') == 1


def test_parent_never_imports_an_engine(reconstructor, parameters, training_folder):
    reconstructor._settings.get_parameter('training.max_steps').set_value('2')
    before = set(sys.modules)
    list(reconstructor.train(training_folder, training_folder))
    list(reconstructor.reconstruct(parameters))
    assert not {'torch', 'lightning', 'tensorflow'} & (set(sys.modules) - before)


def test_a_real_archive_brings_its_history_and_its_description(parameters, tmp_path):
    from ptychodus.api.settings import SettingsRegistry

    from ptychodus_pinn_torch.config import Config
    from ptychodus_pinn_torch.host.library import PtychoPINNTorchReconstructorLibrary
    from ptychodus_pinn_torch.models.archive import Archive, write_archive

    history = [{'epoch': float(epoch), 'loss': 1.0, 'held_out': None} for epoch in range(3)]
    weights = {'w': numpy.ones(3, numpy.float32)}
    write_archive(
        tmp_path / 'mine.h5.zip',
        Archive(Config(), weights, history, details={'made_from': 'Siemens stars'}),
    )
    library = PtychoPINNTorchReconstructorLibrary(SettingsRegistry(), False)
    reconstructor = library.reconstructors[0]
    reconstructor.engine = 'fake_engines:PlainEngine'
    reconstructor.load_model_from_file(tmp_path / 'mine.h5.zip')
    assert 'Siemens stars' in reconstructor.model.describe()
    (output,) = reconstructor.reconstruct(parameters)
    assert [loss.epoch for loss in output.product.losses] == [0, 1, 2, 2, 3, 4]
    (tmp_path / 'other.h5.zip').write_bytes(b'PK')
    with pytest.raises(ValueError, match='no model archive'):
        reconstructor.load_model_from_file(tmp_path / 'other.h5.zip')
    assert reconstructor.model.path == tmp_path / 'mine.h5.zip'
