"""The subcommands of the console script, one module each."""
