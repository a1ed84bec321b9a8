"""Says what is installed, which way PINN-Torch gets into Ptychodus, and what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from ..backend import BACKEND_VARIABLE, available_backends, is_backend_available, resolve_backend

__all__ = ['Finding', 'configure', 'examine', 'run']

PLUGIN_FILE = 'pinn_torch_reconstructors.py'
OUR_KEYS = ('pinn-torch_unsupervised', 'pinn-torch_supervised')
_REINSTALL = 'pip install --force-reinstall --no-deps ptychodus-pinn-torch'

_LIST_RECONSTRUCTORS = """
import json
from ptychodus.model import ModelCore
core = ModelCore()
print(json.dumps(list(core.processing_core.processing_api.available_reconstructors())))
"""
_LIST_DEVICES = """
import json, torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if torch.backends.mps.is_available():
    devices.append('Apple GPU')
print(json.dumps([torch.__version__, devices, torch.get_num_threads()]))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: What was looked at. `text` is what was found.
        remedy: What to do about it; empty when all is well.
    """

    topic: str
    text: str
    remedy: str = ''


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        '--settings', type=Path, metavar='FILE', help='an INI file of Ptychodus to check as well'
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 when all is well, 2 when something is missing."""
    findings = examine(arguments.settings)
    for finding in findings:
        if finding.remedy or not arguments.quiet:
            mark = 'MISSING' if finding.remedy else 'ok'
            sys.stdout.write(f'{mark:<8}{finding.topic:<14}{finding.text}\n')
        if finding.remedy:
            sys.stdout.write(f'{"":<22}-> {finding.remedy}\n')
    return 2 if any(finding.remedy for finding in findings) else 0


def examine(settings: Path | None = None) -> list[Finding]:
    """Returns what was found, in the order in which it should be put right."""
    findings = [*_examine_packages(), _examine_host()]
    if findings[-1].remedy:
        return findings
    reconstructors = _ask(_LIST_RECONSTRUCTORS)
    listed = tuple(json.loads(reconstructors)) if reconstructors else ()
    findings += [
        _examine_way(listed),
        _examine_libraries(),
        _examine_window(),
        *_examine_backends(),
        _examine_devices(),
        _examine_model(),
    ]
    if settings is not None:
        findings += _examine_settings(settings, listed or OUR_KEYS)
    return findings


def _ask(code: str) -> str:
    """Returns the last line that a fresh interpreter prints; empty when it fails."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines else ''


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ''


def _examine_packages() -> list[Finding]:
    own = _version('ptychodus-pinn-torch')
    text = f'{own or "no version"}, {Path(__file__).parents[1]}'
    return [
        Finding('Python', f'{platform.python_version()}, {sys.executable}'),
        Finding('PINN-Torch', text, '' if own else 'pip install ptychodus-pinn-torch'),
    ]


def _examine_host() -> Finding:
    from ..host.attach import SUPPORTED_VERSIONS, find_host_fault, find_seam_fault

    install = f"pip install 'ptychodus{SUPPORTED_VERSIONS}'"
    found = _version('ptychodus')
    if not found:
        return Finding('Ptychodus', 'is not installed', install)
    try:
        fault = find_host_fault()
        if not fault:
            import ptychodus.model.core as core

            if not hasattr(core.ProcessingCore, 'attaches_reconstructor_libraries'):
                fault = find_seam_fault(core)
    except ImportError as error:
        fault = f'{found} cannot be imported: {error}'
    if fault:
        return Finding('Ptychodus', fault, install)
    import ptychodus

    return Finding('Ptychodus', f'{found}, {Path(str(ptychodus.__file__)).parent}')


def _examine_way(listed: tuple[str, ...]) -> Finding:
    import ptychodus

    plugin = Path(str(ptychodus.__file__)).parent / 'plugins' / PLUGIN_FILE
    if set(OUR_KEYS) <= set(listed):
        return Finding('Attached', f'by {plugin}: plain `ptychodus` lists {", ".join(OUR_KEYS)}')
    reason = 'but PINN-Torch is not listed' if plugin.is_file() else 'is not there'
    return Finding(
        'Attached',
        f'plain `ptychodus` does not list PINN-Torch: {plugin} {reason}',
        f'{_REINSTALL}  (into the environment of Ptychodus), or start `ptychodus-pinn app`',
    )


def _examine_libraries() -> Finding:
    from ..host.attach import LIBRARY_GROUP

    items = entry_points(group=LIBRARY_GROUP)
    names = ', '.join(f'{item.name} ({item.value})' for item in items) or 'none is declared'
    is_there = 'PtychoPINNTorchReconstructorLibrary' in names
    return Finding('Libraries', names, '' if is_there else _REINSTALL)


def _examine_window() -> Finding:
    if importlib.util.find_spec('PyQt5') is None:
        return Finding(
            'Window',
            'PyQt5 is not installed; batch mode does without '
            "(for a window: pip install 'ptychodus-pinn-torch[gui]')",
        )
    return Finding('Window', f'PyQt5 {_version("PyQt5")}')


def _examine_backends() -> list[Finding]:
    installed = [
        f'{name} {"installed" if is_backend_available(name) else "not installed"}'
        for name in available_backends()
    ]
    override = os.environ.get(BACKEND_VARIABLE, '').strip()
    source = f'by {BACKEND_VARIABLE}' if override else 'unless the settings say otherwise'
    try:
        chosen = Finding('Backend', f'{resolve_backend()}, {source}')
    except ValueError as error:
        chosen = Finding('Backend', str(error), f'unset {BACKEND_VARIABLE}')
    except RuntimeError as error:
        chosen = Finding('Backend', str(error), str(error).rpartition(': ')[2])
    return [Finding('Backends', ', '.join(installed)), chosen]


def _examine_devices() -> Finding:
    answer = _ask(_LIST_DEVICES)
    if not answer:
        return Finding('Devices', 'PyTorch cannot be imported', 'pip install --upgrade torch')
    torch_version, devices, num_threads = json.loads(answer)
    names = ', '.join(devices) or 'no GPU'
    return Finding('Devices', f'{names}; CPU with {num_threads} threads; torch {torch_version}')


def _examine_model() -> Finding:
    from ..host.model_file import inspect_model
    from ..models.archive import shipped_model

    path = shipped_model()
    if not path.is_file():
        return Finding('Shipped model', f'{path} is not there', _REINSTALL)
    try:
        inspect_model(path)
    except ValueError as error:
        return Finding('Shipped model', str(error), _REINSTALL)
    return Finding('Shipped model', f'{path.name}, {path.stat().st_size / 1e6:.1f} MB')


def _examine_settings(settings: Path, listed: tuple[str, ...]) -> list[Finding]:
    from ..host.settings import find_ini_faults

    faults = find_ini_faults(settings, listed)
    if not faults:
        return [Finding('Settings', f'{settings}: nothing wrong with it')]
    return [Finding('Settings', fault, f'edit {settings}') for fault in faults]
