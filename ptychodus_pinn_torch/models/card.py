"""The model card that every archive carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import Config, iter_options

__all__ = ['write_card']


def _changed_options(config: Config) -> list[str]:
    values = [(item, item.value_in(config)) for item in iter_options(config.network.kind)]
    lines = [f'- `{item.path}` = {value}' for item, value in values if value != item.default]
    return lines or ['- all at their defaults']


def write_card(
    config: Config,
    details: Mapping[str, Any],
    history: Sequence[Mapping[str, float | None]],
    *,
    about: str = '',
) -> str:
    """Returns the model card: what it was made from, how, and what it reached (Markdown)."""
    lines = ['# A model for ptychographic reconstruction', '']
    if about:
        lines += [about.strip(), '']
    lines += ['## Data and result', '']
    lines += [f'- {key.replace("_", " ")}: {value}' for key, value in details.items()]
    lines += ['', '## Options that differ from the defaults', '', *_changed_options(config), '']
    if history:
        lines += ['## Training', '', '| epoch | step | loss | held out |', '|---|---|---|---|']
        stride = max(1, len(history) // 12)
        for row in [*history[::stride], history[-1]]:
            cells = [row.get(key) for key in ('epoch', 'step', 'loss', 'held_out')]
            lines.append('| ' + ' | '.join('' if c is None else f'{c:.5g}' for c in cells) + ' |')
    return '\n'.join(lines) + '\n'
