"""A model of somebody else, understood but not yet ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..config import Config, override_config
from .archive import Archive, ArchiveError
from .card import write_card

__all__ = ['REMEDY', 'ForeignModel', 'layout_of_weights']

REMEDY = 'cannot be reproduced exactly: train a cnn or unrolled model instead'
"""The end of every sentence about a network that is not quite one of ours."""

_ABOUT = (
    'A converted model of PtychoPINN: the weights are those of the original; nothing of it was '
    'executed. Images come in the units and on the grid of ptychodus-pinn-torch.'
)


@dataclass(frozen=True)
class ForeignModel:
    """Weights under our names, and the layout of the network that they belong to.

    Attributes:
        layout: Fields of `networks.ptychopinn.PinnLayout`.
        weights: Arrays by the names of `networks.ptychopinn.PtychoPinnNetwork`.
        details: What the model card says; may be added to.
        source: Where it was read from.
    """

    layout: Mapping[str, Any]
    weights: Mapping[str, NDArray[Any]]
    details: dict[str, Any]
    source: str

    def to_archive(self) -> Archive:
        """Returns the model as an archive of ours, its weights checked against the layout.

        Raises:
            ArchiveError: weights that are missing, of another shape or not finite.
        """
        from ..networks.ptychopinn import PinnLayout
        from ..networks.registry import build_with_weights

        try:
            layout = PinnLayout(**self.layout)
            layout.check()
            config = override_config(
                Config(),
                {
                    'network.kind': 'ptychopinn',
                    'network.layout': layout.to_text(),
                    'grouping.group_size': layout.num_channels,
                },
            )
            build_with_weights(config.network, self.weights, self.source)
        except (ValueError, TypeError) as error:
            raise ArchiveError(str(error)) from error
        archive = Archive(
            config=config,
            weights={f'network.{name}': array for name, array in self.weights.items()},
            card=write_card(config, self.details, (), about=_ABOUT),
            details=dict(self.details),
            created='by PtychoPINN',
        )
        return archive.check_weights(self.source)


def layout_of_weights(
    weights: Mapping[str, NDArray[Any]],
    pattern_size: int,
    num_channels: int | None,
    source: str,
) -> dict[str, Any]:
    """Returns the fields of a layout that the weights alone tell.

    The rest of the file says the size of the patterns in pixels and, unless it is None, their
    number per group.

    Raises:
        ArchiveError: weights are missing, or are for other patterns than the file says.
    """

    def shape(name: str) -> tuple[int, ...]:
        if f'{name}.weight' not in weights:
            raise ArchiveError(
                f'{source}: the weight {name}.weight is missing: the file is incomplete.'
            )
        return tuple(weights[f'{name}.weight'].shape)

    def widths(prefix: str, name: str) -> tuple[int, ...]:
        levels = {item[len(prefix) :].split('.')[0] for item in weights if item.startswith(prefix)}
        return tuple(shape(f'{prefix}{level}.{name}')[0] for level in range(len(levels)))

    first = 'shared' if any(name.startswith('shared.') for name in weights) else 'first'
    encoder, decoder = widths('encoder.', 'pair.conv2'), widths(f'{first}.levels.', 'conv2')
    if not encoder or not decoder:
        raise ArchiveError(f'{source}: holds no encoder and decoder of a PtychoPINN network.')
    found = shape('encoder.0.pair.conv1')[1], 8 * 2 ** len(encoder)
    num_channels = found[0] if num_channels is None else num_channels
    if found != (num_channels, pattern_size):
        raise ArchiveError(
            f'{source}: is configured for {num_channels} patterns of {pattern_size} px per group '
            f'but its weights take {found[0]} of {found[1]} px: the file was put together from two '
            'models.'
        )
    outputs = (
        (shape('first.inner')[0], shape('second.inner')[0])
        if first == 'first'
        else ((shape('shared.inner')[0] // 2,) * 2)
    )
    return {
        'pattern_size': pattern_size,
        'num_channels': num_channels,
        'encoder_widths': encoder,
        'decoder_widths': decoder,
        'outer_channels': decoder[-1] - shape(f'{first}.inner')[1],
        'outer_width': shape(f'{first}.outer_pair.conv2')[0],
        'first_channels': outputs[0],
        'second_channels': outputs[1],
        'has_shared_decoder': first == 'shared',
        'refiner_widths': widths('shared.refiners.', '0') if first == 'shared' else (),
    }
