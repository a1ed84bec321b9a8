"""Reading model archives, of this engine and of the other."""

from __future__ import annotations

from pathlib import Path

from ..models.archive import Archive
from ..models.opening import open_model
from .keras_model import NETWORK_PREFIX
from .keras_network import CnnNetwork

__all__ = ['load_network', 'read_model']


def read_model(path: Path) -> Archive:
    """Returns the archive of a network that runs on TensorFlow, whichever engine trained it.

    Raises:
        ArchiveError: not a model, or of a network that only the other engine has.
    """
    return open_model(path, backend='tensorflow')


def load_network(archive: Archive) -> CnnNetwork:
    """Returns the network of an archive, ready to run.

    Raises:
        ValueError: weights that do not fit the network.
    """
    network = CnnNetwork(archive.config.network)
    weights = {
        name.removeprefix(NETWORK_PREFIX): array
        for name, array in archive.weights.items()
        if name.startswith(NETWORK_PREFIX)
    }
    network.load(weights, str(archive.path or 'the archive'))
    return network
