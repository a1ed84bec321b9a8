"""The configuration reference, generated from the declared options."""

from __future__ import annotations

from .config import Config, iter_options

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
        'steps, averaged weights).',
        '',
    ]
    section = None
    for item in iter_options():
        if item.section != section:
            section = item.section
            field = Config.model_fields.get(section)
            about = (getattr(field.annotation, '__doc__', '') or '') if field else ''
            lines += ['', f'## {section or "general"}', '', about.strip().splitlines()[0] if about
                      else 'What the run is.', '',
                      '| option | default | allowed | meaning |', '|---|---|---|---|']  # fmt: skip
        allowed = ', '.join(item.choices) or _bounds(item.minimum, item.maximum, item.kind)
        unit = f' [{item.unit}]' if item.unit else ''
        description = item.description.replace('|', '\\|')
        lines.append(f'| `{item.name}` | `{item.default}` | {allowed} | {description}{unit} |')
    return '\n'.join(lines) + '\n'


def _bounds(minimum: float | None, maximum: float | None, kind: type) -> str:
    if kind is bool:
        return 'True, False'
    if kind is str:
        return 'text'
    low = '' if minimum is None else f'from {minimum:g}'
    high = '' if maximum is None else f'to {maximum:g}'
    return ' '.join(part for part in (low, high) if part) or kind.__name__
