"""Lightning checkpoints and bundles of the published PtychoPINN torch codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy
from numpy.typing import NDArray

from .archive import ArchiveError
from .foreign_model import REMEDY, ForeignModel, layout_of_weights
from .safe_zip import SafeZip
from .tensorflow_archive import MODEL, read_params
from .torch_file import StoredTensor, load_tensors

__all__ = ['model_from_tree', 'read_torch_bundle']

PREFIX = 'model.autoencoder.'
OPERATORS = ('fno', 'ffno')
_RULES = (
    (r'^encoder\.blocks\.(\d+)\.((?:conv|bn)[12]\.)', r'encoder.\1.pair.\2'),
    (r'^encoder\.blocks\.(\d+)\.attention\.ChannelGate\.mlp\.1\.', r'encoder.\1.gate.0.squeeze.'),
    (r'^encoder\.blocks\.(\d+)\.attention\.ChannelGate\.mlp\.3\.', r'encoder.\1.gate.0.excite.'),
    (r'^encoder\.blocks\.(\d+)\.attention\.SpatialGate\.', r'encoder.\1.gate.1.'),
    (r'^encoder\.blocks\.(\d+)\.attention\.conv\.', r'encoder.\1.gate.conv.'),
    (r'^bottleneck_cbam\.ChannelGate\.mlp\.1\.', r'bottleneck.0.squeeze.'),
    (r'^bottleneck_cbam\.ChannelGate\.mlp\.3\.', r'bottleneck.0.excite.'),
    (r'^bottleneck_cbam\.SpatialGate\.', r'bottleneck.1.'),
    (r'^(first|second|shared)\.blocks\.(\d+)\.', r'\1.levels.\2.'),
    (r'^(first|second)\.merge_blocks\.(\d+)\.0\.', r'\1.merges.\2.conv1.'),
    (r'^(first|second)\.merge_blocks\.(\d+)\.2\.', r'\1.merges.\2.conv2.'),
    (r'^(first|second|shared)\.(?:amp|phase|head)\.conv1\.', r'\1.inner.'),
    (r'^(first|second|shared)\.(?:amp|phase|head)\.conv2\.', r'\1.outer.'),
    (r'^(first|second|shared)\.(?:amp|phase|head)\.bn1\.', r'\1.inner_norm.'),
    (r'^(first|second|shared)\.(?:amp|phase|head)\.bn2\.', r'\1.outer_norm.'),
    (r'^(first|second|shared)\.(?:amp|phase|head)\.conv_up_block\.', r'\1.outer_pair.'),
    (r'^shared\.refinement_blocks\.(\d+)\.block\.', r'shared.refiners.\1.'),
    (r'^shared\.eca\.', r'shared.gate.'),
    (r'^lifter\.', r'operator.lifter.'),
    (r'^fno_blocks\.', r'operator.blocks.'),
    (r'^intermediate\.', r'operator.intermediate.'),
    (r'^cnn_refiner\.(\d+)\.0\.', r'operator.refiners.\1.'),
    (r'^ffno_stack\.shared_gate$', r'operator.gate'),
    (r'^ffno_stack\.shared_spectral\.', r'operator.spectral.'),
    (r'^ffno_stack\.blocks\.(\d+)\.(norm|expand|project)\.', r'operator.blocks.\1.\2.'),
    (r'^refiners\.', r'operator.refiners.'),
    (r'^output_proj\.', r'operator.output.'),
)
_COPIES = re.compile(r'^(blocks\.|ffno_stack\.blocks\.\d+\.shared_spectral\.)')
"""Weights of Fourier operators that are stored a second time."""

_ACTIVATIONS = {'sigmoid': 'sigmoid', 'silu': 'silu', 'swish': 'silu', 'SiLU': 'silu'}


def model_from_tree(tree: Any, source: str) -> ForeignModel:
    """Returns the model in a Lightning checkpoint of the latent, torchapi or main code.

    Raises:
        ArchiveError: not of PtychoPINN, or a network that cannot be reproduced exactly.
    """
    if not isinstance(tree, Mapping) or not isinstance(tree.get('state_dict'), Mapping):
        raise ArchiveError(f'{source}: is no Lightning checkpoint: it holds no state_dict.')
    parameters = tree.get('hyper_parameters')
    if not isinstance(parameters, Mapping) or 'model_config' not in parameters:
        raise ArchiveError(
            f'{source}: holds no hyper_parameters with a model_config: only checkpoints of '
            'PtychoPINN and of this package can be read.'
        )
    found = _make_model(
        tree['state_dict'],
        _mapping(parameters, 'model_config', source),
        _mapping(parameters, 'data_config', source),
        source,
    )
    found.details['epoch'] = tree.get('epoch')
    return found


def _mapping(parameters: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    found = parameters.get(name) or {}
    if not isinstance(found, Mapping):
        raise ArchiveError(f'{source}: {name} is a {type(found).__name__}: it is damaged.')
    return dict(found)


def read_torch_bundle(bundle: SafeZip) -> ForeignModel:
    """Returns the model of a bundle of the main torch code.

    Raises:
        ArchiveError: incomplete, damaged, forged, or a network that cannot be reproduced exactly.
    """
    source = bundle.source
    state = _tensors(bundle, f'{MODEL}/model.pth')
    if '_sentinel' in state:
        raise ArchiveError(f'{source}: {MODEL}/model.pth holds no weights.')
    params = read_params(bundle)
    model, data = _configs_of_params(params, state)
    if 'torch_scaling_metadata.pt' in bundle.names:
        stored = _tensors(bundle, 'torch_scaling_metadata.pt')
        model |= _mapping(stored, 'model_config', source)
        data |= _mapping(stored, 'data_config', source)
    found = _make_model(state, model, data, source)
    found.details['converted_from'] = 'PtychoPINN torch bundle'
    return found


def _tensors(bundle: SafeZip, name: str) -> Mapping[str, Any]:
    source = f'{bundle.source}: {name}'
    found = load_tensors(bundle.inside(name))
    if not isinstance(found, Mapping):
        raise ArchiveError(f'{source}: holds no tensors by name.')
    return found


def _configs_of_params(
    params: Mapping[str, Any], state: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the legacy parameters say of network and data; weights tell the rest."""
    model = {
        'architecture': params.get('architecture', 'cnn'),
        'amp_activation': params.get('amp_activation', 'silu'),
        'object_big': params.get('object.big', True),
        'probe_big': params.get('probe.big', True),
        'pad_object': params.get('pad_object', True),
        'cnn_output_mode': params.get('generator_output_mode', 'real_imag'),
        'cbam_encoder': any('.attention.ChannelGate.' in str(name) for name in state),
    }
    return model, {'N': params['N'], 'C': params['gridsize'] ** 2}


def _make_model(
    state: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any], source: str
) -> ForeignModel:
    """Returns the model that weights and hyper-parameters describe."""
    own = {
        str(name).removeprefix(PREFIX): value
        for name, value in state.items()
        if str(name).startswith(PREFIX) and isinstance(value, StoredTensor)
    }
    if not own:
        raise ArchiveError(f'{source}: holds no weights of a PtychoPINN network.')
    names = {str(name) for name in state}
    family = _family(names)
    _refuse_what_is_unknown(names, model, family, source)
    weights = {
        new: _as_array(value, new)
        for name, value in own.items()
        if (new := _translate(name)) is not None
    }
    is_operator = model.get('architecture') in OPERATORS
    layout = (_operator_layout if is_operator else _layout)(weights, model, data, family, source)
    dead = [name for name in weights if _is_dead(name, layout)]
    details = {
        'converted_from': f'PtychoPINN torch checkpoint, {family} family',
        'pattern_size': layout['pattern_size'],
    }
    unknown = [name for name in own if _translate(name) is None and not _COPIES.match(name)]
    if unused := [*unknown, *dead]:
        details['left_out'] = (
            f'{len(unused)} weights that the published code holds and never uses, such as {unused[0]}'
        )
    return ForeignModel(
        layout, {name: x for name, x in weights.items() if name not in dead}, details, source
    )


def _as_array(value: StoredTensor, name: str) -> NDArray[Any]:
    """Returns a weight; complex ones as pairs, those of Fourier blocks with one part of rows."""
    numbers = value.numbers()
    if numbers.dtype.kind != 'c':
        return numbers
    pairs = numpy.stack([numbers.real, numbers.imag], axis=-1)
    return pairs[None] if name.endswith('.spectral.weights') else pairs


def _is_dead(name: str, layout: Mapping[str, Any]) -> bool:
    """Returns whether a weight belongs to a part that the layout leaves out."""
    is_outer = '.outer' in name and not layout.get('has_outer', True)
    return is_outer or (
        '.gate.' in name
        and name.startswith('encoder.')
        and layout.get('encoder_attention') == 'none'
    )


def _family(names: set[str]) -> str:
    if any('.merge_blocks.' in name for name in names):
        return 'latent'
    has_alpha = any(name.endswith('forward_model.alpha') for name in names)
    has_scaler = any('rect_scaler' in name for name in names)
    return 'main' if has_alpha and has_scaler else 'torchapi'


def _translate(name: str) -> str | None:
    """Returns our name of a weight; None for weights that the published code never uses."""
    for theirs, ours in (('amp', 'first'), ('phase', 'second'), ('shared', 'shared')):
        name = name.replace(f'decoder_{theirs}.', f'{ours}.', 1)
    for pattern, target in _RULES:
        if re.match(pattern, name):
            return re.sub(pattern, target, name)
    return None


def _refuse_what_is_unknown(
    names: set[str], model: Mapping[str, Any], family: str, source: str
) -> None:
    architecture = model.get('architecture', 'cnn')
    has_attention = any('.attention_blocks.' in name for name in names)
    reasons = (
        (
            architecture not in {'cnn', 'unet', *OPERATORS},
            f'its architecture is {architecture!r}',
        ),
        (
            model.get('use_shared_decoder') and family != 'main',
            'it has the shared decoder of another code than main',
        ),
        (family == 'latent' and has_attention, 'it has attention in the decoder'),
        (model.get('encoder_type', 'cnn') != 'cnn', 'its encoder is not convolutional'),
        (model.get('pad_object', True) is False, 'it has pad_object switched off'),
        (
            model.get('batch_norm') and not any('.bn1.' in name for name in names),
            'it was made with batch normalisation, and holds none',
        ),
        (
            model.get('fno_input_transform', 'none') != 'none',
            f'its input is transformed ({model.get("fno_input_transform")})',
        ),
    )
    for is_true, reason in reasons:
        if is_true:
            raise ArchiveError(f'{source}: {reason}, which {REMEDY}.')


def _input_scale(model: Mapping[str, Any], data: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Returns the fields of a layout that say how counts become the input."""
    uses_roots = family == 'main' and data.get('measurement_domain') != 'count_intensity'
    return {
        'is_input_root': uses_roots,
        'input_energy': 0.25 if family == 'main' and not uses_roots else 1.0,
        'is_group_scaled': data.get('normalize') == 'Group',
    }


def _layout(
    weights: Mapping[str, NDArray[Any]],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    family: str,
    source: str,
) -> dict[str, Any]:
    channels = data.get('C') if model.get('object_big', True) else 1
    return {
        'family': family,
        **layout_of_weights(weights, int(data.get('N', 0)), channels, source),
        **_input_scale(model, data, family),
        'activation': _ACTIVATIONS.get(str(model.get('amp_activation', 'silu')), 'silu'),
        'object_kind': _object_kind(model, family, source),
        'encoder_attention': _encoder_attention(model, family),
        'has_bottleneck_attention': any(name.startswith('bottleneck.') for name in weights),
        'has_skips': family == 'latent',
        'has_outer': family == 'latent' or bool(model.get('probe_big', True)),
        'is_masked': family == 'main',
        'has_norm': any('.bn1.' in name for name in weights),
    }


def _operator_layout(
    weights: Mapping[str, NDArray[Any]],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    family: str,
    source: str,
) -> dict[str, Any]:
    """Returns the layout of a Fourier operator, whose sizes its weights tell."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise ArchiveError(f'{source}: the weight {name} is missing: the file is incomplete.')
        return tuple(weights[name].shape)

    def number(prefix: str) -> int:
        return len({name.split('.')[2] for name in weights if name.startswith(prefix)})

    kind = str(model['architecture'])
    spectral = 'blocks.0.spectral.weights' if kind == 'fno' else 'spectral.weights_x'
    expansion = 0 if kind == 'fno' else shape('operator.blocks.0.expand.weight')[0]
    width, channels = shape('operator.lifter.conv1.weight')[:2]
    mode = str(model.get('generator_output_mode') or 'real_imag')
    kinds = {'real_imag': 'plain_rectangular', 'amp_phase_logits': 'polar'}
    if mode not in kinds:
        raise ArchiveError(f'{source}: its output mode {mode!r} {REMEDY}.')
    outputs = shape('operator.output.weight')[0]
    return {
        'family': family,
        'pattern_size': int(data.get('N', 0)),
        'num_channels': channels,
        'first_channels': outputs // 2,
        'second_channels': outputs // 2,
        **_input_scale(model, data, family),
        'activation': 'sigmoid',
        'object_kind': kinds[mode],
        'operator': kind,
        'operator_width': width,
        'operator_expansion': expansion,
        'num_modes': shape(f'operator.{spectral}')[-2],
        'num_blocks': number('operator.blocks.'),
        'num_refiners': number('operator.refiners.'),
    }


def _encoder_attention(model: Mapping[str, Any], family: str) -> str:
    if model.get('cbam_encoder', True):
        return 'cbam'
    # the main code makes this attention but never applies it
    return 'eca' if model.get('eca_encoder') and family != 'main' else 'none'


def _object_kind(model: Mapping[str, Any], family: str, source: str) -> str:
    if family == 'latent':
        return 'rectangular' if model.get('object_representation') == 'rectangular' else 'polar'
    if family == 'torchapi':
        return 'polar'
    mode = str(model.get('cnn_output_mode') or model.get('generator_output_mode') or 'amp_phase')
    kinds = {'real_imag': 'shifted_rectangular', 'amp_phase': 'polar'}
    if mode not in kinds:
        raise ArchiveError(f'{source}: its output mode {mode!r} {REMEDY}.')
    return kinds[mode]
