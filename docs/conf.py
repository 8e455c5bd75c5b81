"""How Sphinx builds these pages; `make docs` does it, and every warning is an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import reckeeper

project = "Reckeeper"
copyright = "the authors of Reckeeper"
release = version = reckeeper.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4

html_theme = "furo"
html_title = f"Reckeeper {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_ivar = True

# What one copies is the command, without its answer or its comment.
copybutton_exclude = ".linenos, .gp, .go"
