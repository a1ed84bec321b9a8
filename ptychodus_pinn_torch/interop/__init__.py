"""Other people's formats, read without executing anything of theirs."""
