"""The pages of the operations, in the order of the registry."""

from pathlib import Path

from cnn_ext.operations import OPERATIONS

DOCS = Path(__file__).parents[1]


def markdown() -> str:
    """A table of contents of the pages that there are."""
    pages = [o.name for o in OPERATIONS if (DOCS / f"{o.name}.md").exists()]
    return "\n".join(["```{toctree}", ":hidden:", ":caption: Operations", "", *pages, "```"])
