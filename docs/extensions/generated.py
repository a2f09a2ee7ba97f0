"""The directive ``generated``: Markdown that a function writes while the site is built.

    ```{generated} performance
    ```

calls ``markdown()`` of the module ``performance`` beside this one.
"""

import importlib

from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """Calls the function and reads what it returns in place of the directive."""

    required_arguments = 1

    def run(self) -> list:
        """Read again at every build, for what the function reads may have changed."""
        self.env.note_reread()
        text = importlib.import_module(self.arguments[0]).markdown()
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True}
