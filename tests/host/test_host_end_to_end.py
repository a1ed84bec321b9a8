"""The documented ways through Ptychodus, with the real engine, on a scan with a known truth."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from ptychodus.api.io import load_product
from ptychodus.api.reconstruct import ReconstructInput
from staging import stage

from ptychodus_pinn_torch.scan.io.products import make_host_product
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

pytest.importorskip('torch')

SETTINGS = """
[Processing]
Algorithm = pinn-torch_unsupervised
[PINNTorchTraining]
start = none
max_steps = 3
[PINNTorchReconstruction]
refine_epochs = 4
[PINNTorchExecution]
accelerator = cpu
num_threads = 1
"""


def make_scan():
    """Returns a scan in one corner of a rectangular object, and its truth."""
    scan = simulate_scan(SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, seed=3))
    margin = ((11, 60), (40, 5))
    truth = numpy.pad(scan.truth, margin, constant_values=1.0)
    flat = numpy.ones_like(truth)
    scan = replace(
        scan,
        positions_px=scan.positions_px + numpy.array([11.0, 40.0]),
        object_=flat,
        object_center_m=(4e-7, -9e-7),
    )
    product = make_host_product(scan, flat, scan.positions_px, scan.probe, [])
    product = replace(
        product,
        metadata=replace(product.metadata, name='simulated', comments='beam was lost twice'),
    )
    return ReconstructInput(scan.patterns, ~scan.good_pixels, product), truth, scan


@pytest.fixture(scope='module')
def simulated():
    return make_scan()


def run(*words, **environment):
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def script(name):
    return Path(sys.executable).with_name(name)


def phase_distance(test, truth, scan):
    """Returns the rms phase difference in radians on the middle of the scanned area."""
    low = numpy.ceil(scan.positions_px.min(axis=0)).astype(int)
    high = numpy.floor(scan.positions_px.max(axis=0)).astype(int)
    area = (slice(low[0], high[0]), slice(low[1], high[1]))
    product = test[area] * truth[area].conj()
    product *= numpy.exp(-1j * numpy.angle(product.sum()))
    return float(numpy.sqrt(numpy.mean(numpy.angle(product) ** 2)))


@pytest.mark.slow
def test_the_documented_batch_loop(simulated, tmp_path):
    parameters, truth, scan = simulated
    folder = stage(tmp_path / 'in', parameters, SETTINGS)
    done = run(script('ptychodus'), '-b', 'train', '-i', folder, '-o', tmp_path / 'model')
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(tmp_path / 'model' / 'model.h5.zip', folder)
    done = run(
        sys.executable, '-m', 'ptychodus', '-b', 'reconstruct', '-i', folder, '-o', tmp_path / 'out'
    )
    assert done.returncode == 0, done.stdout + done.stderr
    product = load_product(tmp_path / 'out' / 'product.000001.h5')
    given = load_product(folder / 'product.h5')
    comments = product.metadata.comments.split('\n')
    assert comments[:-1] == ['beam was lost twice']
    assert comments[-1].startswith('PINN-Torch: the image is right: ')
    assert product.object_.get_geometry() == given.object_.get_geometry() or (
        str(product.object_.get_geometry()) == str(given.object_.get_geometry())
    )
    image = product.object_.get_layer(0)
    distance = phase_distance(image, truth, scan)
    flat = phase_distance(numpy.ones_like(truth), truth, scan)
    assert distance < 0.7 * flat
    for other in (truth[::-1], truth[:, ::-1], truth[::-1, ::-1]):
        assert distance < 0.7 * phase_distance(image, other, scan)

    done = run(
        script('ptychodus-pinn'), 'reconstruct', folder, '--model', folder / 'model.h5.zip',
        '--output', tmp_path / 'product.h5', '--refine', '4', '--device', 'cpu', '--no-picture',
        '--threads', '1',
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    written = load_product(tmp_path / 'product.h5')
    assert written.metadata.comments == product.metadata.comments
    ours = written.object_.get_layer(0)
    assert phase_distance(image, ours, scan) < 1e-3


HEADLESS = """
import json, sys
from pathlib import Path
from ptychodus.model import ModelCore

key = 'pinn-torch_supervised'
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
with ModelCore(folder / 'settings.ini') as core:
    api = core.workflow_api
    diffraction = api.load_assembled_diffraction_data(folder / 'diffraction.h5')
    product = api.load_product(folder / 'product.h5', diffraction=diffraction)
    product.export_training_data(out / 'train_data.npz', algorithm=key)
    product.train_reconstructor_local(out, out, algorithm=key, block=True)
    core.processing_core.processing_api.save_model_to_file(out / 'copy.h5.zip')
    core.processing_core.processing_api.load_model_from_file(out / 'copy.h5.zip')
    image = product.reconstruct_local(algorithm=key, block=True)
    image.save_product(out / 'image.h5', file_type='HDF5')
print('MODULES', json.dumps([name for name in sys.modules if '.' not in name]))
"""


@pytest.mark.slow
def test_ten_lines_of_python_and_no_framework_in_the_parent(simulated, tmp_path):
    parameters, truth, scan = simulated
    truth_product = replace(
        parameters.product,
        object_=type(parameters.product.object_)(
            truth,
            parameters.product.object_.get_pixel_geometry(),
            parameters.product.object_.get_center(),
        ),
    )
    folder = stage(tmp_path / 'in', replace(parameters, product=truth_product), SETTINGS)
    out = tmp_path / 'out'
    out.mkdir()
    code = textwrap.dedent(HEADLESS)
    done = run(sys.executable, '-c', code, folder, out)
    assert done.returncode == 0, done.stdout + done.stderr
    modules = json.loads(done.stdout.rpartition('MODULES ')[2])
    assert not {'torch', 'lightning', 'tensorflow', 'PyQt5'} & set(modules)
    product = load_product(out / 'image.h5')
    assert product.losses
    assert product.object_.get_layer(0).shape == truth.shape


STREAM = """
import sys, time
from pathlib import Path
import h5py
from ptychodus.api.diffraction import DiffractionMetadata, SimpleDiffractionArray
from ptychodus.api.geometry import ImageExtent, PixelGeometry
from ptychodus.api.io import load_product
from ptychodus.model import ModelCore
from ptychodus.model.workflow import ConcreteDiffractionWorkflowAPI

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
points = list(load_product(folder / 'product.h5').probe_positions)
with h5py.File(folder / 'diffraction.h5') as file:
    patterns, indexes = file['patterns'][()], file['indexes'][()]
parts = [slice(first, first + 10) for first in range(0, len(patterns), 10)]
with ModelCore(folder / 'settings.ini') as core:
    stream = core.create_streaming_context(
        DiffractionMetadata(
            [10] * len(parts), patterns.dtype, ImageExtent(32, 32), detector_distance_m=1.0,
            detector_pixel_geometry=PixelGeometry(75e-6, 75e-6), photon_energy_eV=1e4,
        )
    )
    diffraction_api = core.diffraction_core.diffraction_api
    stream.start()
    for number, part in enumerate(parts):
        stream.append_positions_x([point.x_m for point in points[part]], indexes[part].tolist())
        stream.append_positions_y([point.y_m for point in points[part]], indexes[part].tolist())
        stream.append_array(SimpleDiffractionArray(f'{number}', indexes[part], patterns[part]))
        core.run_tasks()
    end = time.monotonic() + 60
    while len(diffraction_api.get_repository()[0]) < len(parts):
        assert time.monotonic() < end
        core.run_tasks()
        time.sleep(0.02)
    stream.stop()
    diffraction = ConcreteDiffractionWorkflowAPI(diffraction_api, 0)
    product = core.workflow_api.load_product(folder / 'product.h5', diffraction=diffraction)
    image = product.reconstruct_local(algorithm='pinn-torch_unsupervised', block=True)
    image.save_product(out, file_type='HDF5')
"""


@pytest.mark.slow
def test_patterns_of_the_streaming_context_become_the_right_image(simulated, tmp_path):
    parameters, truth, scan = simulated
    folder = stage(tmp_path / 'in', parameters, SETTINGS)
    done = run(sys.executable, '-c', STREAM, folder, tmp_path / 'image.h5')
    assert done.returncode == 0, done.stdout + done.stderr
    product = load_product(tmp_path / 'image.h5')
    image = product.object_.get_layer(0)
    assert phase_distance(image, truth, scan) < 0.05
    assert product.metadata.comments.split('\n')[-1].startswith('PINN-Torch: the image is right')


@pytest.mark.slow
def test_layers_relaxed_probe_and_bad_pixels_at_once_come_out_right(simulated):
    from ptychodus.api.object import Object
    from ptychodus.api.probe import ProbeSequence
    from ptychodus.api.settings import SettingsRegistry

    from ptychodus_pinn_torch.host.library import PtychoPINNTorchReconstructorLibrary
    from ptychodus_pinn_torch.models.archive import shipped_model

    if not shipped_model().is_file():
        pytest.skip('there is no shipped model')
    parameters, truth, scan = simulated
    given = parameters.product
    layer, modes = given.object_.get_layer(0), given.probes.get_array()
    geometry, rng = given.object_.get_pixel_geometry(), numpy.random.default_rng(0)
    varying = rng.normal(size=len(given.probe_positions))  # what one mode adds the other takes away
    bad_pixels = numpy.zeros(scan.pattern_shape, bool)
    bad_pixels[16, 16] = bad_pixels[5, 20:] = True
    product = replace(
        given,
        object_=Object(numpy.stack([layer] * 2), geometry, given.object_.get_center(), [1e-6]),
        probes=ProbeSequence(
            numpy.concatenate([modes, 0.1 * modes]),
            numpy.stack([1.0 - 0.1 * varying, varying], axis=1),
            geometry,
        ),
    )
    parameters = replace(
        parameters,
        diffraction_patterns=numpy.where(bad_pixels, 60000, scan.patterns).astype(numpy.uint16),
        bad_pixels=bad_pixels,
        product=product,
    )
    reconstructor = PtychoPINNTorchReconstructorLibrary(SettingsRegistry(), False).reconstructors[0]
    (output,) = reconstructor.reconstruct(parameters)
    assert output.product.object_.num_layers == 1
    assert phase_distance(output.product.object_.get_layer(0), truth, scan) < 0.05
