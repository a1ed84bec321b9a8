"""Archives `wts.h5.zip` of PtychoPINN's TensorFlow code, read without TensorFlow.

Of each model the graph's description (JSON) and its weights (HDF5) are read, and the plain values
of `params.dill`; pickled classes and functions are never opened.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from ..trees import parse_json
from .archive import ArchiveError
from .foreign_model import REMEDY, ForeignModel, layout_of_weights
from .restricted_pickle import read_pickle
from .safe_zip import SafeZip

__all__ = ['read_params', 'read_tensorflow_archive']

MODEL = 'diffraction_to_obj'
_ACTIVATIONS = {'sigmoid': 'sigmoid', 'swish': 'silu', 'softplus': 'softplus', 'relu': 'relu'}


def read_tensorflow_archive(bundle: SafeZip) -> ForeignModel:
    """Returns the model that a bundle of the TensorFlow code holds.

    Raises:
        ArchiveError: incomplete, damaged, forged, or a network that we cannot reproduce.
    """
    source = bundle.source
    if f'{MODEL}/model.keras' not in bundle.names:
        _refuse_old_formats(bundle)
    inner = bundle.inside(f'{MODEL}/model.keras')
    params = read_params(bundle)
    graph = _read_graph(inner)
    convolutions = _read_weights(inner, graph)
    layout, weights = _arrange(graph, convolutions, params, source)
    details = {
        'converted_from': 'PtychoPINN TensorFlow archive',
        'pattern_size': layout['pattern_size'],
        'gridsize': params['gridsize'],
        'trained_for_photons': params.get('nphotons'),
    }
    return ForeignModel(layout, weights, details, source)


def read_params(bundle: SafeZip) -> dict[str, Any]:
    """Returns the parameters of a bundle, with `N` and `gridsize` as whole numbers.

    Raises:
        ArchiveError: they are missing, damaged, or forged.
    """
    source = f'{bundle.source}: {MODEL}/params.dill'
    params = read_pickle(bundle.read(f'{MODEL}/params.dill'), source)
    if not isinstance(params, dict) or not {'N', 'gridsize'} <= set(params):
        raise ArchiveError(f'{source}: lacks N and gridsize: the file is incomplete.')
    try:
        return {**params, 'N': int(params['N']), 'gridsize': int(params['gridsize'])}
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(f'{source}: N and gridsize are no numbers.') from error


def _refuse_old_formats(bundle: SafeZip) -> None:
    names = bundle.names
    if any(name.endswith(('saved_model.pb', 'keras_metadata.pb')) for name in names):
        kind = 'a TensorFlow SavedModel, which can only be run, not read'
    elif any(name.endswith(('.index', 'checkpoint')) or '.data-0' in name for name in names):
        kind = 'a TensorFlow checkpoint of an old PtychoPINN'
    else:
        return
    raise ArchiveError(
        f'{bundle.source}: holds {kind}: save it again with a PtychoPINN that writes model.keras.'
    )


def _read_graph(inner: SafeZip) -> list[dict[str, Any]]:
    """Returns the layers of the graph in its order."""
    try:
        tree = parse_json(inner.read('config.json'))
        layers = tree['config']['layers']
        return [
            {'class': str(layer['class_name']), 'name': str(layer['name']), **layer['config']}
            for layer in layers
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f'{inner.source}: config.json describes no Keras graph.') from error


def _read_weights(
    inner: SafeZip, graph: Sequence[Mapping[str, Any]]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Returns kernel and bias of every convolution, in the order in which they were made.

    In the file they are numbered by the order of the graph; their names carry the order of
    creation.
    """
    import h5py

    source, data = inner.source, io.BytesIO(inner.read('model.weights.h5'))
    names = [layer['name'] for layer in graph if layer['class'] == 'Conv2D']
    found = {}
    try:
        with h5py.File(data, 'r') as file:
            for index, name in enumerate(names):
                path = f'layers/conv2d{f"_{index}" if index else ""}/vars'
                kernel, bias = (_read_dataset(file, f'{path}/{part}', inner) for part in (0, 1))
                if kernel.ndim != 4 or kernel.shape[:2] != (3, 3) or bias.shape != kernel.shape[3:]:
                    raise ArchiveError(f'{source}: {path} is no 3 x 3 convolution: it {REMEDY}.')
                found[name] = (kernel, bias)
    except (OSError, RuntimeError, KeyError) as error:
        raise ArchiveError(f'{source}: model.weights.h5 is damaged: copy it again.') from error
    return [found[name] for name in sorted(found, key=_creation_number)]


def _creation_number(name: str) -> int:
    match = re.search(r'_(\d+)$', name)
    return int(match.group(1)) if match else -1


def _read_dataset(file: Any, path: str, inner: SafeZip) -> NDArray[Any]:
    """Returns a dataset of the file itself; links to other places are not followed."""
    import h5py

    source, node = inner.source, file
    for part in path.split('/'):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise ArchiveError(f'{source}: model.weights.h5 lacks {path}: the file is incomplete.')
        if not isinstance(link, h5py.HardLink):
            raise ArchiveError(f'{source}: model.weights.h5 links {path} to elsewhere: refused.')
        node = node[part]
    if not isinstance(node, h5py.Dataset) or node.external or node.is_virtual:
        raise ArchiveError(f'{source}: model.weights.h5 keeps {path} elsewhere: refused.')
    if node.dtype.kind != 'f':
        raise ArchiveError(f'{source}: model.weights.h5 has no usable weight at {path}: refused.')
    inner.spend(node.size * node.dtype.itemsize, f'model.weights.h5: {path}')
    return numpy.asarray(node[()], dtype=numpy.float32)


def _arrange(
    graph: Sequence[Mapping[str, Any]],
    convolutions: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    params: Mapping[str, Any],
    source: str,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    number = len(convolutions)
    levels = (number - 4) // 6
    if levels < 2 or number != 6 * levels + 4:
        raise ArchiveError(
            f'{source}: has {number} convolutions, no PtychoPINN network: it {REMEDY}.'
        )
    names = _names(levels)
    weights = {}
    for name, (kernel, bias) in zip(names, convolutions):
        weights[f'{name}.weight'] = numpy.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        weights[f'{name}.bias'] = bias

    size, channels = _input_shape(graph, params, source)
    layout = {
        'family': 'tensorflow',
        **layout_of_weights(weights, size, channels, source),
        'activation': _check_graph(graph, source),
        'is_masked': True,
        'has_amplified_border': any(layer['class'] == 'ReassemblePatchesLayer' for layer in graph),
        'is_input_root': True,
        'input_energy': 0.25,
    }
    return layout, weights


def _names(levels: int) -> list[str]:
    """Returns our names of the convolutions in TensorFlow's order of creation."""
    names = [f'encoder.{i}.pair.conv{k}' for i in range(levels) for k in (1, 2)]
    for decoder in ('first', 'second'):
        names += [f'{decoder}.inner', f'{decoder}.outer']
        names += [f'{decoder}.levels.{i}.conv{k}' for i in range(levels - 1) for k in (1, 2)]
        names += [f'{decoder}.outer_pair.conv{k}' for k in (1, 2)]
    return names


def _input_shape(
    graph: Sequence[Mapping[str, Any]], params: Mapping[str, Any], source: str
) -> tuple[int, int]:
    """Returns pattern size and patterns per group; graph and parameters must agree."""
    shapes = [layer.get('batch_shape') for layer in graph if layer['class'] == 'InputLayer']
    shape = next((s for s in shapes if isinstance(s, list) and len(s) == 4 and s[1] == s[2]), None)
    if shape is None or not all(isinstance(value, int) for value in shape[1:]):
        raise ArchiveError(f'{source}: the graph takes no square patterns: it {REMEDY}.')
    size, channels = int(shape[1]), int(shape[3])
    wanted = params['N'], params['gridsize'] ** 2
    if (size, channels) != wanted:
        raise ArchiveError(
            f'{source}: params.dill says {wanted[1]} patterns of {wanted[0]} px, the graph takes '
            f'{channels} of {size} px: the file was put together from two models.'
        )
    return size, channels


def _check_graph(graph: Sequence[Mapping[str, Any]], source: str) -> str:
    """Returns the activation of the amplitude after a look at everything that could differ."""

    def find(kind: str) -> list[Mapping[str, Any]]:
        return [layer for layer in graph if layer['class'] == kind]

    activations = {layer['name']: layer for layer in find('ActivationLayer')}
    amplitude = activations.get('amp', {}).get('activation_name')
    phase = activations.get('phi', {})
    is_scaled = float(activations.get('amp', {}).get('scale', 1.0)) != 1.0
    reasons = (
        (amplitude not in _ACTIVATIONS or is_scaled, f'its amplitude is {amplitude!r}'),
        (
            phase.get('activation_name') != 'tanh'
            or not math.isclose(float(phase.get('scale', 0.0)), math.pi, rel_tol=1e-6),
            'its phase is no pi * tanh',
        ),
        (
            not all(layer.get('use_polar', False) for layer in find('CombineComplexLayer')),
            'it adds amplitude and phase as real and imaginary part (use_polar is off)',
        ),
        (
            len(find('ZeroPadding2D')) != 2 or len(find('CenterMaskLayer')) != 2,
            'it has pad_object or probe_big switched off',
        ),
        (len(find('Silu')) != 2 and amplitude is not None, 'its outer branch is another one'),
        (bool(find('Lambda')), 'it holds Python functions'),
    )
    for is_true, reason in reasons:
        if is_true:
            raise ArchiveError(f'{source}: {reason}; it {REMEDY}.')
    return _ACTIVATIONS[str(amplitude)]
