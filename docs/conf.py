"""Sphinx configuration."""

from __future__ import annotations

from ptychodus_pinn_torch import __version__

project = 'ptychodus-pinn-torch'
author = 'The ptychodus-pinn-torch developers'
release = __version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
add_module_names = False
default_role = 'code'  # of docstrings
html_theme = 'sphinx_rtd_theme'
exclude_patterns = ['_build']
myst_heading_anchors = 3
nb_execution_mode = 'force'  # tutorials are kept without outputs, and run when the pages are made
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = 'warn'
