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
    """Title, picture, first paragraph; all lead to the notebook."""
    cells = json.loads(file.read_text())["cells"]
    blocks = "".join(cells[0]["source"]).split("\n\n")
    title, paragraph = blocks[0].removeprefix("# ").strip(), " ".join(blocks[1].split())
    page = f"notebooks/{file.name}"
    lines = [f"::::{{container}} notebook\n### [{title}]({page})"]
    if (picture := first_picture(cells)) is not None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        kept = PICTURES / f"{file.stem}.png"
        kept.write_bytes(picture)
        lines.append(f"[![A picture of the notebook](../build/gallery/{kept.name})]({page})")
    return "\n\n".join([*lines, paragraph, "::::"])


def first_picture(cells: list[dict[str, Any]]) -> bytes | None:
    """The first PNG among the outputs."""
    for cell in cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                return base64.b64decode("".join(png))
    return None
