"""A model of somebody else, understood but not yet ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..config import Config, override_config
from .archive import Archive, ArchiveError

__all__ = ['ForeignModel']


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
        from ..networks.registry import build_network, load_weights

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
            load_weights(build_network(config.network), self.weights, self.source)
        except (ValueError, TypeError) as error:
            raise ArchiveError(str(error)) from error
        archive = Archive(
            config=config,
            weights={f'network.{name}': array for name, array in self.weights.items()},
            card=_card(self),
            details=dict(self.details),
            created='by PtychoPINN',
        )
        return archive.check_weights(self.source)


def _card(model: ForeignModel) -> str:
    rows = '\n'.join(f'- {key}: {value}' for key, value in model.details.items())
    return (
        '# A converted model of PtychoPINN\n\n'
        'The weights are those of the original; nothing of it was executed. Images come in the '
        'units and on the grid of ptychodus-pinn-torch.\n\n' + rows + '\n'
    )
