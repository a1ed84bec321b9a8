"""A physics-informed neural network reconstructor for Ptychodus."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import reconstruct, simulate, train
    from .config import Config
    from .live.live_reconstruction import LiveReconstruction
    from .metrics.comparison import compare_objects
    from .scan.io.reading import read_scan
    from .scan.scan import Scan

try:
    __version__ = version('ptychodus-pinn-torch')
except PackageNotFoundError:
    __version__ = '0+unknown'

__all__ = [
    'Config',
    'LiveReconstruction',
    'PositionTransform',
    'Scan',
    'compare_objects',
    'read_scan',
    'reconstruct',
    'simulate',
    'train',
]

_HOMES = {
    'Config': '.config',
    'LiveReconstruction': '.live.live_reconstruction',
    'PositionTransform': '.scan.positions',
    'Scan': '.scan.scan',
    'compare_objects': '.metrics.comparison',
    'read_scan': '.scan.io.reading',
    'reconstruct': '.api',
    'simulate': '.api',
    'train': '.api',
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
