"""Sphinx: `make docs` builds with warnings as errors; tests/test_docs.py runs every Python example."""

import re
from pathlib import Path

project = "neurosim"
copyright = "The neurosim authors. Apache-2.0"
_source = (Path(__file__).parents[1] / "neurosim" / "__init__.py").read_text(encoding="utf-8")
release = version = re.search(r'__version__ = "(.+?)"', _source)[1]

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"neurosim {release}"
