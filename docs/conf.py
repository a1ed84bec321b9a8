"""Sphinx configuration."""

from __future__ import annotations

from ptychodus_pinn_torch import __version__

project = 'ptychodus-pinn-torch'
author = 'The ptychodus-pinn-torch developers'
release = __version__
extensions = ['myst_parser']
html_theme = 'sphinx_rtd_theme'
exclude_patterns = ['_build']
myst_heading_anchors = 3
