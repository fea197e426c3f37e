"""Make the notebooks from their sources, the .py files beside them.

python scripts/notebook.py            # writes notebooks/*.ipynb
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def text_of(source: Path) -> str:
    """The notebook of a source, without outputs; the same source gives the same text."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"  # else drawn anew each time
    notebook.metadata.pop("jupytext", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)) + "\n"


def main() -> None:
    """Write them all."""
    for source in sorted(NOTEBOOKS.glob("*.py")):
        target = source.with_suffix(".ipynb")
        target.write_text(text_of(source), encoding="utf-8")
        print(target.relative_to(NOTEBOOKS.parent))


if __name__ == "__main__":
    main()
