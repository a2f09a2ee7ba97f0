"""References that Sphinx does not resolve by itself.

In docstrings, ``conv2d`` alone is the one object of ours that is so called. What is torch's or Python's
becomes a link into their documentation by rule, for Sphinx would fetch an inventory from the network.
Other packages are named without a link. What is said to be ours and is not there stays a warning.

Between pages and notebooks, paths are those of the repository, where docs and notebooks are neighbours.
"""

import builtins
import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[2]
TORCH = "https://docs.pytorch.org/docs/stable/"
PYTHON = "https://docs.python.org/3/library/"
PAGES = {
    "torch.Tensor": "tensors.html#torch.Tensor",
    "torch.autograd.Function": "autograd.html#torch.autograd.Function",
    "torch.device": "tensor_attributes.html#torch.device",
    "torch.dtype": "tensor_attributes.html#torch.dtype",
    "torch.layout": "tensor_attributes.html#torch.layout",
    "torch.nn": "nn.html",
    "torch.nn.functional": "nn.functional.html",
}
# Where torch says a name is defined, and what it is called.
MOVED = [
    (r"^torch\.nn\.modules\.\w+\.", "torch.nn."),
    (r"^torch\.autograd\.function\.", "torch.autograd."),
    (r"^torch\._tensor\.", "torch."),
]
IN_FUNCTIONS = ("bool", "float", "int", "object", "type")  # which Python describes on another page
UNLINKED = ("matplotlib.", "mpl_toolkits.", "pandas.", "PIL.", "torchvision.", "torch.")


def address(name: str) -> str | None:
    """Where a name is described; empty where there is no rule for its package; None if it is ours."""
    for pattern, replacement in MOVED:
        name = re.sub(pattern, replacement, name)
    if name in PAGES:
        return TORCH + PAGES[name]
    if re.fullmatch(r"torch\.(nn\.(functional\.)?)?\w+", name):
        return f"{TORCH}generated/{name}.html"
    if name == "None":
        return f"{PYTHON}constants.html#None"
    if isinstance(kind := getattr(builtins, name, None), type):
        page = "exceptions" if issubclass(kind, BaseException) else "stdtypes"
        return f"{PYTHON}{'functions' if name in IN_FUNCTIONS else page}.html#{name}"
    module = name.rpartition(".")[0]
    if module in ("argparse", "collections.abc", "contextlib", "pathlib", "types", "typing"):
        return f"{PYTHON}{module}.html#{name}"
    return "" if name.startswith(UNLINKED) else None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement
) -> nodes.Node | None:
    """What Sphinx asks about a reference that it does not know."""
    if node.get("refdomain") != "py":
        return None
    name, domain = node["reftarget"], env.domains.python_domain
    kinds = domain.objtypes_for_role(node["reftype"]) or ()
    ours = [o for full, o in domain.objects.items() if full.endswith(f".{name}") and o.objtype in kinds]
    if len(ours) == 1:
        (there,) = ours
        uri = app.builder.get_relative_uri(node["refdoc"], there.docname)
        return nodes.reference("", "", content, refuri=f"{uri}#{there.node_id}", internal=True)
    if (link := address(name)) is None:
        return None
    return nodes.reference("", "", content, refuri=link, internal=False) if link else content


def neighbours(app: Sphinx, document: nodes.document) -> None:
    """Paths from docs to ../notebooks and from notebooks to ../docs, as names of pages."""
    for node in document.findall(pending_xref):
        target = Path(node["reftarget"].partition("#")[0])
        if node.get("refdomain") == "doc" and target.is_relative_to(ROOT / "notebooks"):
            node["reftarget"] = str(target.relative_to(ROOT))
        elif node.get("reftype") == "myst" and target.is_relative_to("../docs"):
            node["refdomain"] = "doc"
            node["reftargetid"] = node["reftarget"].partition("#")[2] or None
            node["reftarget"] = str(target.relative_to("../docs").with_suffix(""))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", neighbours)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
