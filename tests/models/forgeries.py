"""Small archives in the layouts of others, and forgeries of them."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy

GRAPH_ORDER = (0, 1, 2, 3, 6, 14, 7, 15, 8, 16, 9, 17, 12, 20, 13, 21, 4, 5, 10, 18, 11, 19)
"""Some order of the graph that is not the order of creation."""


def small_graph(num_channels: int = 1, size: int = 64) -> dict[str, Any]:
    """Returns the description of a narrow network of PtychoPINN (3 levels)."""
    layers: list[tuple[str, str, dict[str, Any]]] = [
        ('InputLayer', 'input', {'batch_shape': [None, size, size, num_channels]}),
    ]
    layers += [('Conv2D', f'conv2d_{number + 5}', {}) for number in GRAPH_ORDER]
    layers += [('Silu', f'silu_{index}', {}) for index in range(2)]
    layers += [('ZeroPadding2D', f'pad_{index}', {}) for index in range(2)]
    layers += [('CenterMaskLayer', f'mask_{index}', {}) for index in range(2)]
    layers += [
        ('ActivationLayer', 'amp', {'activation_name': 'sigmoid', 'scale': 1.0}),
        ('ActivationLayer', 'phi', {'activation_name': 'tanh', 'scale': math.pi}),
        ('CombineComplexLayer', 'obj', {'use_polar': True}),
        ('ReassemblePatchesLayer', 'padded', {}),
    ]
    rows = [{'class_name': kind, 'name': name, 'config': config} for kind, name, config in layers]
    return {'config': {'layers': rows}}


def small_shapes(num_channels: int = 1) -> list[tuple[int, int]]:
    """Returns inputs and outputs of the convolutions in their order of creation."""
    encoder = [(num_channels, 8), (8, 8), (8, 16), (16, 16), (16, 24), (24, 24)]
    decoder = [(4, num_channels), (8, num_channels), (24, 16), (16, 16), (16, 8), (8, 8)]
    return encoder + 2 * [*decoder, (4, 8), (8, 8)]


def hdf5_bytes(fill: Callable[[h5py.File], None]) -> bytes:
    """Returns the bytes of an HDF5 file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        fill(file)
    return buffer.getvalue()


def small_weights(num_channels: int = 1) -> bytes:
    """Returns `model.weights.h5` of the narrow network."""
    shapes = small_shapes(num_channels)

    def fill(file: h5py.File) -> None:
        for index, number in enumerate(GRAPH_ORDER):
            rng = numpy.random.default_rng(number)
            inputs, outputs = shapes[number]
            group = file.create_group(f'layers/conv2d{f"_{index}" if index else ""}/vars')
            group['0'] = rng.normal(0.0, 0.2, (3, 3, inputs, outputs)).astype('f4')
            group['1'] = rng.normal(0.0, 0.1, outputs).astype('f4')

    return hdf5_bytes(fill)


def zip_bytes(members: Mapping[str, bytes], *, is_packed: bool = False) -> bytes:
    """Returns a zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED if is_packed else 0) as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)
    return buffer.getvalue()


def tensorflow_members(
    *,
    graph: Mapping[str, Any] | None = None,
    weights: bytes | None = None,
    params: Any = None,
    num_channels: int = 1,
) -> dict[str, bytes]:
    """Returns the members of a `wts.h5.zip`, some of them replaced."""
    keras = zip_bytes(
        {
            'metadata.json': b'{}',
            'config.json': json.dumps(graph or small_graph(num_channels)).encode(),
            'model.weights.h5': weights or small_weights(num_channels),
        }
    )
    side = int(num_channels**0.5)
    params = {'N': 64, 'gridsize': side, 'nphotons': 1e6} if params is None else params
    manifest = {'models': ['autoencoder', 'diffraction_to_obj'], 'version': '1.0'}
    return {
        'manifest.dill': pickle.dumps(manifest),
        'diffraction_to_obj/model.keras': keras,
        'diffraction_to_obj/params.dill': pickle.dumps(params),
        'diffraction_to_obj/custom_objects.dill': pickle.dumps({'run': Path}),
    }


class Attack:
    """Pickled, it makes a folder when it is unpickled by an unguarded reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.folder),)


def write_bytes(path: Path, data: bytes) -> Path:
    """Returns the path, written."""
    path.write_bytes(data)
    return path
