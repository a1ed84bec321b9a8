"""Whatever happens to the worker, the parent is free, nothing is left, and the next run works."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy
import pytest
from host_scans import worker_processes

from ptychodus_pinn_torch.host import payload as payload_module
from ptychodus_pinn_torch.host.payload import _find_file_of, working_folder
from ptychodus_pinn_torch.host.runner import WorkerError

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='looks at processes through /proc')

MARK = 'PINN_TORCH_TEST_MARK'


@pytest.fixture(autouse=True)
def mark(monkeypatch, request):
    """Every process started by a test carries its mark, and none is alive a moment later."""
    value = f'{request.node.name}-{os.getpid()}'
    monkeypatch.setenv(MARK, value)
    yield value
    end_s = time.monotonic() + 3.0
    while worker_processes(value) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert worker_processes(value) == []


def run_next(reconstructor, parameters):
    reconstructor.engine = 'fake_engines:PlainEngine'
    assert len(list(reconstructor.reconstruct(parameters))) == 1


@pytest.mark.parametrize(
    ('engine', 'sentence'),
    [
        ('KilledEngine', 'killed, most often because memory ran out'),
        ('CrashingEngine', r'crashed \(SIGSEGV\)'),
        ('LeavingEngine', r'exit status 3\).*bright light'),
        ('ExhaustedEngine', 'Memory ran out'),
        ('UnsendableEngine', 'a function cannot be sent'),
        ('FailingEngine', 'TypeError: cheese'),
    ],
)
def test_a_broken_worker_is_one_clear_error(engine, sentence, reconstructor, parameters, caplog):
    reconstructor.engine = f'fake_engines:{engine}'
    with pytest.raises(WorkerError, match=sentence):
        list(reconstructor.reconstruct(parameters))
    errors = [record for record in caplog.records if record.levelname == 'ERROR']
    assert len(errors) == 1 and errors[0].getMessage().startswith('Reconstruction failed: ')
    run_next(reconstructor, parameters)


def test_an_error_of_the_engine_arrives_as_its_sentence(reconstructor, training_folder):
    reconstructor.engine = 'fake_engines:FailingEngine'
    with pytest.raises(WorkerError) as caught:
        list(reconstructor.train(training_folder, training_folder))
    assert str(caught.value) == 'The scan is made of cheese: measure another one.'
    assert 'fake_engines.py' in str(caught.value.__cause__)


def test_printing_does_not_disturb(reconstructor, parameters):
    reconstructor.engine = 'fake_engines:ChattyEngine'
    (output,) = reconstructor.reconstruct(parameters)
    assert output.progress == 1


def kill_one_after(delay_s, mark):
    """Kills the first process that carries the mark, once there is one."""
    is_done = False
    while not is_done:
        time.sleep(delay_s)
        for pid in worker_processes(mark)[:1]:
            os.kill(pid, signal.SIGKILL)
            is_done = True


@pytest.mark.parametrize('seed', range(20))
def test_a_killed_worker_is_an_error_and_not_a_silence(
    seed, mark, reconstructor, parameters, training_folder
):
    delay_s = random.Random(seed).uniform(0.0, 1.0)
    reconstructor.engine = 'fake_engines:MuteEngine' if seed % 4 else 'fake_engines:EndlessEngine'
    thread = threading.Thread(target=kill_one_after, args=(delay_s, mark))
    thread.start()
    with pytest.raises(WorkerError, match='was killed|crashed'):
        if seed % 2:
            list(reconstructor.train(training_folder, training_folder))
        else:
            list(reconstructor.reconstruct(parameters))
    thread.join()
    if seed % 5 == 0:
        run_next(reconstructor, parameters)


@pytest.mark.parametrize('engine', ['PlainEngine', 'EndlessEngine', 'MuteEngine'])
def test_stop_does_not_wait_for_the_end_of_the_engine(engine, mark, reconstructor, training_folder):
    reconstructor.engine = f'fake_engines:{engine}'
    training = reconstructor.train(training_folder, training_folder)
    begin_s = time.monotonic()
    for _ in training:
        if time.monotonic() - begin_s > 1.0:
            break
    training.close()
    assert worker_processes(mark) == []


PARENT = """
import sys, threading
sys.path.insert(0, {folder!r})
from host_scans import make_parameters
from ptychodus.api.settings import SettingsRegistry
from ptychodus_pinn_torch.host.library import PtychoPINNTorchReconstructorLibrary
reconstructor = PtychoPINNTorchReconstructorLibrary(SettingsRegistry(), False).reconstructors[0]
reconstructor.engine = 'fake_engines:EndlessEngine'
list(reconstructor.reconstruct(make_parameters()))
"""


def test_the_worker_dies_with_its_parent_and_cleans_up(mark, temporary_root):
    script = textwrap.dedent(PARENT).format(folder=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, '-c', script])
    while len(worker_processes(mark)) < 3 and parent.poll() is None:
        time.sleep(0.1)
    assert list(temporary_root.glob(f'{payload_module.FOLDER_PREFIX}*'))
    parent.kill()
    parent.wait()
    end_s = time.monotonic() + 3.0
    while worker_processes(mark) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert worker_processes(mark) == []


def test_folders_of_dead_processes_are_removed_and_those_of_living_ones_kept(temporary_root):
    dead = temporary_root / f'{payload_module.FOLDER_PREFIX}dead'
    dead.mkdir()
    (dead / 'lock').touch()
    with working_folder() as living, working_folder() as other:
        assert not dead.exists()
        assert living.is_dir() and other.is_dir()


def test_a_folder_is_not_taken_for_abandoned_while_it_is_made(temporary_root, monkeypatch):
    lock = payload_module._try_lock

    def look_first(file):
        monkeypatch.setattr(payload_module, '_try_lock', lock)
        payload_module._remove_abandoned_folders(temporary_root)
        return lock(file)

    monkeypatch.setattr(payload_module, '_try_lock', look_first)
    with working_folder() as folder:
        payload_module._remove_abandoned_folders(temporary_root)
        assert folder.is_dir() and (folder / payload_module._LOCK_NAME).exists()
    assert not list(temporary_root.iterdir())


def test_a_memory_map_is_passed_on_and_not_copied(tmp_path):
    patterns = numpy.arange(5 * 4 * 4, dtype=numpy.uint16).reshape(5, 4, 4)
    patterns.tofile(tmp_path / 'patterns.raw')
    mapped = numpy.memmap(tmp_path / 'patterns.raw', numpy.uint16, 'r', 32, (4, 4, 4))
    for piece in (mapped, mapped[1:], numpy.asarray(mapped)[2:3]):
        found = _find_file_of(piece)
        assert found is not None and found.path == tmp_path / 'patterns.raw'
        assert numpy.array_equal(found.open(), piece)
    assert _find_file_of(mapped[::2]) is None
    assert _find_file_of(numpy.array(mapped)) is None
    private = numpy.memmap(tmp_path / 'patterns.raw', numpy.uint16, 'c', 0, (4, 4, 4))
    assert _find_file_of(private) is None
