import os
import subprocess
import sys
from pathlib import Path

import pytest
from host_scans import make_parameters
from staging import stage

from ptychodus_pinn_torch.commands import doctor


def run(*words, **environment):
    return subprocess.run(
        [str(Path(sys.executable).with_name('ptychodus-pinn')), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_app_hands_every_word_to_ptychodus():
    done = run('app', '--version')
    assert done.returncode == 0 and 'Ptychodus' in done.stdout + done.stderr
    assert run('app', '-b', 'bake').returncode == 2


def test_app_runs_a_batch_with_its_exit_status(tmp_path):
    settings = '[Processing]\nAlgorithm = pinn-torch_unsupervised\n'
    folder = stage(tmp_path / 'in', make_parameters(), settings)
    done = run(
        'app', '-b', 'train', '-i', str(folder), '-o', str(tmp_path / 'out'),
        PTYCHOPINN_BACKEND='cheese',
    )  # fmt: skip
    assert done.returncode == 1
    assert "Training failed: backend 'cheese', from the variable" in done.stdout


def test_app_refuses_a_batch_that_ptychodus_would_skip_in_silence(tmp_path):
    folder = stage(tmp_path / 'in', make_parameters(), '[Processing]\nAlgorithm = cheese\n')
    done = run('app', '-b', 'reconstruct', '-i', str(folder), '-o', str(tmp_path / 'out'))
    assert done.returncode == 2
    assert 'cheese is not in Ptychodus' in done.stderr


def test_doctor_reports_and_checks_the_settings(tmp_path):
    ini = tmp_path / 'settings.ini'
    ini.write_text('[Processing]\nAlgorithm = cheese\n')
    done = run('doctor', '--settings', str(ini))
    assert done.returncode == 2
    assert 'Algorithm = cheese is not in Ptychodus' in done.stdout
    assert 'plain `ptychodus` lists pinn-torch_unsupervised' in done.stdout
    assert 'CPU with' in done.stdout


@pytest.fixture
def quick_doctor(monkeypatch):
    answers = {doctor._LIST_RECONSTRUCTORS: '[]', doctor._LIST_DEVICES: ''}
    monkeypatch.setattr(doctor, '_ask', lambda code: answers[code])


def test_doctor_has_a_remedy_for_what_is_missing(quick_doctor, monkeypatch):
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'cheese')
    findings = {finding.topic: finding for finding in doctor.examine()}
    assert 'ptychodus-pinn app' in findings['Attached'].remedy
    assert findings['Backend'].remedy == 'unset PTYCHOPINN_BACKEND'
    assert 'torch' in findings['Devices'].remedy


def test_doctor_stops_at_a_ptychodus_that_cannot_be_used(monkeypatch):
    from ptychodus_pinn_torch.host import attach

    monkeypatch.setattr(attach, 'SUPPORTED_RELEASE', (1, 9))
    finding = doctor.examine()[-1]
    assert finding.topic == 'Ptychodus' and 'pip install' in finding.remedy
