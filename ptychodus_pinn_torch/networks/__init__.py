"""Networks that map a group of patterns to a canvas."""
