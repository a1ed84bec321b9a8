"""Sphinx configuration; writes the configuration reference from the declared options."""

from __future__ import annotations

from pathlib import Path

from ptychodus_pinn_torch import __version__
from ptychodus_pinn_torch.reference import configuration_reference

project = 'ptychodus-pinn-torch'
author = 'The ptychodus-pinn-torch developers'
release = __version__
extensions = ['myst_parser']
html_theme = 'sphinx_rtd_theme'
exclude_patterns = ['_build']
myst_heading_anchors = 3

Path(__file__).with_name('configuration.md').write_text(configuration_reference(), encoding='utf-8')
