"""Writes the configuration reference from the declared options: run it when one has changed."""

from __future__ import annotations

from pathlib import Path

from ptychodus_pinn_torch.config import Config, NetworkConfig, Scope, iter_options

__all__ = ['configuration_reference']


def configuration_reference() -> str:
    """Returns the page (Markdown): every option with default, bounds, unit and meaning."""
    lines = [
        '# Configuration',
        '',
        'Every option, from its one declaration in `config.py`. On the command line it is',
        '`--section.name`, with dashes for underscores; in a file for `--config` (JSON or YAML) a tree',
        'of sections; in Python `options={"section.name": value}`; in Ptychodus a setting.',
        'Presets: `quick` (300 training steps, one epoch of refinement), `default`, and `best` (3000',
        'steps, averaged weights; 64 final steps).',
        '',
    ]
    section = None
    for item in iter_options():
        if item.section != section:
            section = item.section
            field = Config.model_fields.get(section)
            kind: object = NetworkConfig if section == 'network' else field and field.annotation
            about = (getattr(kind, '__doc__', '') or '') if field else ''
            lines += ['', f'## {section or "general"}', '', about.strip().splitlines()[0] if about
                      else 'What the run is.', '',
                      '| option | default | allowed | where | meaning |', '|---|---|---|---|---|']  # fmt: skip
        allowed = ', '.join(item.choices) or _bounds(item.minimum, item.maximum, item.kind)
        unit = f' [{item.unit}]' if item.unit else ''
        description = item.description.replace('|', '\\|')
        lines.append(
            f'| `{item.name}` | `{item.default}` | {allowed} | {_where(item.scope)} | {description}{unit} |'
        )
    return '\n'.join(lines) + '\n'


def _bounds(minimum: float | None, maximum: float | None, kind: type) -> str:
    if kind is bool:
        return 'True, False'
    if kind is str:
        return 'text'
    low = '' if minimum is None else f'from {minimum:g}'
    high = '' if maximum is None else f'to {maximum:g}'
    return ' '.join(part for part in (low, high) if part) or kind.__name__


def _where(scope: Scope) -> str:
    """Returns where an option has an effect."""
    words = [', '.join(scope.commands)]
    if scope.networks:
        words.append(f'{", ".join(scope.networks)} network')
    if scope.backends:
        words.append(f'{", ".join(scope.backends)} backend')
    if len(scope.modes) == 1:
        words.append(scope.modes[0])
    if scope.needs:
        path, values = scope.needs
        words.append(f'{path} = {" or ".join(str(value) for value in values)}')
    return '; '.join(word for word in words if word)


if __name__ == '__main__':
    Path(__file__).with_name('configuration.md').write_text(configuration_reference(), 'utf-8')
