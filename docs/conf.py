"""The configuration of Sphinx. `make docs` runs it; a warning is an error."""

import os

os.environ["GEVENTWS_PURE_PYTHON"] = "1"  # the Python twins have the docstrings
os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"  # Sphinx has imported ssl already

import geventws

project = "geventws"
author = "The geventws developers"
copyright = "The geventws developers"  # noqa: A001 - the name is Sphinx's
release = version = geventws.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_copybutton"]
intersphinx_mapping = {}
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "geventws"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_js_files = [("pages.js", {"defer": "defer"})]
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output
exclude_patterns = ["_build"]
