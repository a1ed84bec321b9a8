"""Sphinx configuration."""

from __future__ import annotations

from ptychodus_pinn_torch import __version__

project = 'ptychodus-pinn-torch'
author = 'The ptychodus-pinn-torch developers'
release = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
add_module_names = False
default_role = 'code'  # of docstrings
html_theme = 'sphinx_rtd_theme'
exclude_patterns = ['_build']
myst_heading_anchors = 3
