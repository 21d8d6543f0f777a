"""Sphinx reads this; `make docs` runs it, and a warning is an error."""

import os

os.environ["GEVENTWS_PURE_PYTHON"] = "1"  # where the docstrings are

import geventws

project = "geventws"
author = "The geventws developers"
copyright = "The geventws developers"  # noqa: A001 - Sphinx's name for it
release = version = geventws.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
intersphinx_mapping = {}
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links that GitHub follows into the repository

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "geventws"
html_show_sphinx = False
exclude_patterns = ["_build"]
