"""Networks by name: those of this package, and those that others register by entry point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import NETWORK_GROUP, NetworkConfig
from .contract import TrainableNetwork

__all__ = ['build_network', 'build_with_weights', 'check_weights', 'load_weights']


def build_network(config: NetworkConfig) -> nn.Module:
    """Returns a new network with start values, which fulfils `TrainableNetwork`.

    Raises:
        ValueError: no network of that kind is registered, or it breaks the contract.
    """
    found = {item.name: item for item in entry_points(group=NETWORK_GROUP)}
    if config.kind not in found:
        raise ValueError(
            f'network.kind = {config.kind!r} is unknown: choose one of {", ".join(sorted(found))}.'
        )
    network = found[config.kind].load()(config)
    if not isinstance(network, nn.Module) or not isinstance(network, TrainableNetwork):
        names = sorted(set(dir(TrainableNetwork)) - set(dir(network)))
        raise ValueError(
            f'network.kind = {config.kind!r}: {found[config.kind].value} breaks the contract of '
            f'networks; it lacks {", ".join(n for n in names if n[0] != "_") or "nn.Module"}.'
        )
    return network


def build_with_weights(
    config: NetworkConfig, weights: Mapping[str, NDArray[Any]], source: str
) -> nn.Module:
    """Returns the network with these weights; no room is made for one that they do not fit.

    Raises:
        ValueError: names or shapes differ; says which.
    """
    try:
        with torch.device('meta'):  # shapes alone
            shapes = {name: x.shape for name, x in build_network(config).state_dict().items()}
    except Exception:  # noqa: BLE001 - a network of others that cannot be made without numbers
        shapes = None
    if shapes is not None:
        check_weights(shapes, weights, source)
    network = build_network(config)
    load_weights(network, weights, source)
    return network


def load_weights(network: nn.Module, weights: Mapping[str, NDArray[Any]], source: str) -> None:
    """Loads weights into a network.

    Raises:
        ValueError: names or shapes differ; says which.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    check_weights(own, weights, source)
    state: dict[str, Tensor] = {
        name: torch.from_numpy(numpy.array(array)) for name, array in weights.items()
    }
    network.load_state_dict(state)


def check_weights(
    shapes: Mapping[str, Sequence[int]], weights: Mapping[str, NDArray[Any]], source: str
) -> None:
    """Refuses weights that are not those of a network.

    Args:
        shapes: Of the network's own weights, by name.
        weights: What was given.
        source: Where it came from.

    Raises:
        ValueError: names or shapes differ; says which.
    """
    missing = sorted(set(shapes) - set(weights))
    unknown = sorted(set(weights) - set(shapes))
    if missing or unknown:
        what = f'lacks {missing[0]}' if missing else f'has {unknown[0]}, which the network has not'
        raise ValueError(f'{source}: does not fit the network: it {what}.')
    for name, shape in shapes.items():
        if tuple(shape) != tuple(weights[name].shape):
            raise ValueError(
                f'{source}: {name} has shape {tuple(weights[name].shape)}, '
                f'the network wants {tuple(shape)}.'
            )
