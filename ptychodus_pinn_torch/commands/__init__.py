"""The subcommands of the console script, one module each.

They read words, call the package and print; what others could use belongs into another room.
"""

__all__ = ['UsageError', 'describe_shape']


class UsageError(ValueError):
    """The words of the command line are wrong; exit status 2."""


def describe_shape(shape: tuple[int, ...]) -> str:
    """Returns a shape as people say it: `128 x 96`."""
    return ' x '.join(str(length) for length in shape)
