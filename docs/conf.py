"""Sphinx configuration: MyST pages, furo, and the public API from its docstrings."""

import contextlib
import os
import re

# autodoc imports TensorFlow: no notes on the machine it runs on, and no GPU taken.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from keras_dmp import __version__


@contextlib.contextmanager
def _without_native_log():
    """Drop what native libraries write to standard error; Python's errors still raise."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


with _without_native_log():
    import keras  # noqa: F401

project = "keras_dmp"
author = "The keras_dmp authors"
copyright = "2026, the keras_dmp authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# Tables that pages include, and pages to download.
exclude_patterns = ["_build", "reports"]
nitpicky = False
language = "en"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings write `name` for code, as Keras does.
default_role = "code"
smartquotes_action = "D"  # dashes only
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autoclass_content = "class"

html_theme = "furo"
html_title = f"keras_dmp {release}"
html_show_sourcelink = False


def _as_restructured_text(app, what, name, obj, options, lines):
    """Rewrite what Sphinx reads otherwise: Markdown tables, |absolute values|, bare examples."""
    del app, what, name, obj, options
    rewritten, in_table = [], False
    for line in lines:
        if line == "Example:":
            rewritten += [".. rubric:: Example", ""]
        elif line.startswith(":ivar ") and "_: " in line:
            # `indices_` would be read as a link called "indices".
            rewritten.append(line.replace("_: ", "\\_: ", 1))
        elif not line.startswith("|"):
            rewritten.append(re.sub(r"\|([^|`]+)\|", r"\\|\1\\|", line))
            in_table = False
        elif set(line) <= set("|:- "):
            continue
        else:
            if not in_table:
                rewritten += [".. list-table::", "   :header-rows: 1", ""]
                in_table = True
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rewritten += [f"   {'  -' if at else '* -'} {cell}" for at, cell in enumerate(cells)]
    lines[:] = rewritten


def setup(app):
    app.connect("autodoc-process-docstring", _as_restructured_text)
