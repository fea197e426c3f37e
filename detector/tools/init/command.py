"""`detector init`: copies the template, and draws its pictures."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from detector.errors import UserError
from detector.runtime.files import new_folder

TEMPLATE = Path(__file__).with_name("template")
TRAIN, VAL, SIZE = 64, 16, 160  # images to begin with, and their side in pixels


def init(directory: Path, /) -> Path:
    """Begin a small project of one's own, in a new folder.

    A configuration, an ablation, a suite, a plugin and a dataset of drawn shapes, all of which work, and a
    README with the commands: change one thing after the other into what is yours.

    Args:
        directory: the folder to make; nothing is ever overwritten.

    Returns:
        The folder.

    Raises:
        UserError: it holds something already, or cannot be made.
    """
    from detector.data.shapes import render_shapes

    folder = new_folder(directory, "", "directory")
    try:
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    render_shapes(folder / "data", train=TRAIN, val=VAL, size=SIZE)
    print(f"{folder}: lab.yaml, data.yaml, ablations/, suite.yaml, my_parts.py, README.md")
    print(f"Next: cd {shlex.quote(str(folder))} && detector train --config lab.yaml")
    return folder
