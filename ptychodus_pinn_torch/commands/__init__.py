"""The subcommands of the console script, one module each.

They read words, call the package and print; what others could use belongs into another room.
"""

__all__ = ['UsageError']


class UsageError(ValueError):
    """The words of the command line are wrong; exit status 2."""
