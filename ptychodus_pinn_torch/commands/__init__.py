"""The subcommands of the console script, one module each.

They read words, call the package and print; what others could use belongs into another room.
"""
