"""What the window of Ptychodus says about an option."""

from __future__ import annotations

from ..config import Option

__all__ = ['make_label', 'make_title', 'make_tool_tip']

_TITLES = {'execution': 'Computing'}


def make_title(option: Option) -> str:
    """Returns the title of an option's group."""
    return _TITLES.get(option.section, option.section.title())


def make_label(option: Option) -> str:
    """Returns an option's name as a person reads it, with its unit."""
    is_said = option.name.endswith(option.unit) and option.unit.endswith('s')
    name = option.name if is_said else option.name.removesuffix(f'_{option.unit}')
    unit = f' [{option.unit}]' if option.unit and not is_said else ''
    return f'{name[0].upper()}{name[1:].replace("_", " ")}{unit}:'


def make_tool_tip(option: Option) -> str:
    """Returns the description of an option with its bounds and its default."""
    bounds = ''
    if option.minimum is not None and option.maximum is not None:
        bounds = f' From {option.minimum:g} to {option.maximum:g}.'
    elif option.minimum is not None:
        bounds = f' At least {option.minimum:g}.'
    return f'<p>{option.description}{bounds} Default: {option.default}.</p>'
