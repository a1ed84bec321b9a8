"""What we bind to in the installed Ptychodus; a new release must fail here, not at a beamline."""

import inspect
from importlib.metadata import entry_points, version

import ptychodus.model.core
from ptychodus.api import reconstruct
from ptychodus.api.object import Object
from ptychodus.model.processing.api import ProcessingAlgorithmParameter, ProcessingAPI
from ptychodus.model.task_manager import TaskManager
from ptychodus.model.task_monitor import TaskProgressMonitor

from ptychodus_pinn_torch.host import attach as attach_module
from ptychodus_pinn_torch.host.library import PtychoPINNTorchReconstructorLibrary
from ptychodus_pinn_torch.host.reconstructor import PINNTorchReconstructor


def parameters_of(function):
    return tuple(inspect.signature(function).parameters)


def test_installed_ptychodus_is_supported():
    assert version('ptychodus').startswith('1.7')
    assert attach_module.find_host_fault() == ''


def test_reconstructors_implement_every_abstract_method_with_its_signature():
    base = reconstruct.TrainableReconstructor
    assert base.__abstractmethods__ == attach_module.ABSTRACT_METHODS
    assert not PINNTorchReconstructor.__abstractmethods__
    for name in attach_module.ABSTRACT_METHODS - {'name'}:
        ours, theirs = getattr(PINNTorchReconstructor, name), getattr(base, name)
        assert parameters_of(ours) == parameters_of(theirs), name


def test_library_has_the_contract_of_a_library():
    assert not PtychoPINNTorchReconstructorLibrary.__abstractmethods__
    assert parameters_of(reconstruct.ReconstructorLibrary.__init__) == ('self', 'logger_name')


def test_value_types_have_the_fields_we_use():
    assert [*reconstruct.ReconstructInput.__dataclass_fields__] == [
        'diffraction_patterns', 'bad_pixels', 'product',
    ]  # fmt: skip
    assert [*reconstruct.ReconstructOutput.__dataclass_fields__] == [
        'product', 'progress', 'status',
    ]  # fmt: skip
    assert [*reconstruct.TrainOutput.__dataclass_fields__] == [
        'training_loss', 'validation_loss', 'progress', 'status',
    ]  # fmt: skip
    assert parameters_of(Object.__init__) == (
        'self', 'array', 'pixel_geometry', 'center', 'layer_spacing_m',
    )  # fmt: skip


def test_seams_of_the_model_are_as_expected():
    module = ptychodus.model.core
    seam = module.ProcessingCore
    if getattr(seam, 'attaches_reconstructor_libraries', False):
        seam = seam.__mro__[1]
    assert parameters_of(seam.__init__) == attach_module._SEAMS['ptychodus.model.core'][1]
    assert isinstance(TaskManager.is_stopping, property)
    assert isinstance(TaskProgressMonitor.is_stopping, property)
    assert isinstance(TaskProgressMonitor.is_processing, property)
    assert isinstance(ProcessingAPI.task_monitor, property)
    assert parameters_of(TaskProgressMonitor.update_progress) == (
        'self', 'progress', 'progress_goal',
    )  # fmt: skip
    assert hasattr(ProcessingAlgorithmParameter, 'get_current_reconstructor')
    assert hasattr(ProcessingAlgorithmParameter, 'available_reconstructors')


def test_seams_of_the_controller_are_as_expected():
    import ptychodus.controller.core as module
    from ptychodus.controller.processing.core import ProcessingController

    assert (
        parameters_of(ProcessingController.__init__)
        == attach_module._SEAMS['ptychodus.controller.core'][1]
    )
    for name in ('_sync_model_to_view', '_sync_action_buttons_to_selection', '_update'):
        assert parameters_of(getattr(ProcessingController, name))[0] == 'self'
    source = inspect.getsource(ProcessingController)
    for name in ('_actions_view.reconstruct_button', '_algorithm_parameter'):
        assert name in source
    assert hasattr(module, 'ProcessingController')


def test_our_library_is_declared():
    (item,) = [
        item
        for item in entry_points(group=attach_module.LIBRARY_GROUP)
        if item.name == 'pinn-torch'
    ]
    assert item.load() is PtychoPINNTorchReconstructorLibrary
