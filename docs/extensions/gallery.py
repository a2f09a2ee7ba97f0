"""The gallery of notebooks: of each its title, what it says first, and its first picture."""

import base64
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
PICTURES = ROOT / "build" / "gallery"


def markdown() -> str:
    """An entry for each notebook, in the order of their numbers."""
    return "\n\n".join(entry(file) for file in sorted(NOTEBOOKS.glob("*.ipynb")))


def entry(file: Path) -> str:
    """Title and picture, which lead to the notebook, and its first paragraph."""
    cells = json.loads(file.read_text())["cells"]
    blocks = "".join(cells[0]["source"]).split("\n\n")
    title, paragraph = blocks[0].removeprefix("# ").strip(), " ".join(blocks[1].split())
    page = f"notebooks/{file.name}"
    lines = [f"::::{{container}} notebook\n### [{title}]({page})"]
    if picture := first_picture(cells):
        kind, data = picture
        PICTURES.mkdir(parents=True, exist_ok=True)
        kept = PICTURES / f"{file.stem}.{kind}"
        kept.write_bytes(data)
        lines.append(f"[![A picture of the notebook](../build/gallery/{kept.name})]({page})")
    return "\n\n".join([*lines, paragraph, "::::"])


def first_picture(cells: list[dict[str, Any]]) -> tuple[str, bytes] | None:
    """The first among the outputs, and whether it is a png or a jpeg."""
    for cell in cells:
        for output in cell.get("outputs", []):
            for kind in ("png", "jpeg"):
                if data := output.get("data", {}).get(f"image/{kind}"):
                    return kind, base64.b64decode("".join(data))
    return None
