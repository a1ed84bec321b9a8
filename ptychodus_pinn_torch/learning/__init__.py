"""Training and reconstruction on Lightning."""
