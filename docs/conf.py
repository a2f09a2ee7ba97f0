"""The documentation site: ``make docs`` builds it into build/docs, with warnings as errors.

Sphinx, because the docstrings are written for it. The pages are Markdown that the code forge shows as
it is (MyST); ``notebooks`` is a link to the folder above, and they are shown with the outputs that are
committed. What is made of data, and not written, are functions in ``extensions``.

Nothing comes from the network, neither while the site is built nor while it is read. Mathematics is
drawn by one file of MathJax, from the package sphinx-mathjax-offline: of the ways that need no network
(MathML by latex2mathml too) it alone drew every formula right in every browser.
"""

import re
import sys
from importlib.metadata import files
from pathlib import Path

import cnn_ext

sys.path.insert(0, str(Path(__file__).with_name("extensions")))

project = "cnn_ext"
release = version = cnn_ext.__version__
author = "The authors of cnn_ext"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
    "sphinx_copybutton",
    "generated",
    "references",
]
exclude_patterns = ["extensions", "notebooks/.ipynb_checkpoints", "notebooks/README.md"]
nitpicky = True
smartquotes_action = "D"  # dashes; quotes are as they are written

# Docstrings: Google style, types in the signature, in the order of the source.
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 72
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Shape"]

# Markdown and notebooks.
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove-warn"

(MATHJAX,) = [f for f in files("sphinx-mathjax-offline") or () if f.name == "tex-svg-full.js"]
mathjax_path = MATHJAX.name
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}

html_theme = "furo"
html_title = f"cnn_ext {release}"
html_static_path = ["static", str(MATHJAX.locate())]
html_css_files = ["style.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def readable(app, what, name, obj, options, signature, result):  # noqa: D103 - Sphinx knows it
    # A default that is a module has its path on this machine in it; one that is made has no name.
    if signature is None:
        return None
    signature = re.sub(r"<module '([\w.]+)' from '[^']*'>", r"\1", signature)
    return signature.replace("<factory>", "..."), result


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", readable)
