"""Import ultralytics without what its import does to the process and to the user's home.

Importing it writes a settings file, looks for a network, sets OMP_NUM_THREADS for child processes,
switches OpenCV's threads off and replaces `torch.save`, `PIL.Image.open` and (on Windows) `cv2.imread`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from importlib import import_module
from types import ModuleType

from detector.errors import UserError

# Read once, by the import itself. A user's own setting wins.
QUIET = {
    "YOLO_OFFLINE": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "ULTRALYTICS_SAFE_LOAD": "true",  # weights and network descriptions are read without running code in them
}


def import_ultralytics(module: str) -> ModuleType:
    """Return `ultralytics.<module>`, leaving files, environment and patched functions as they were."""
    import cv2
    import torch
    from PIL import Image

    environment = dict(os.environ)
    patched = (torch.save, Image.open, cv2.imread, cv2.imwrite, cv2.imshow)
    threads = cv2.getNumThreads(), torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="ultralytics-") as folder:
        os.environ.update({**QUIET, "YOLO_CONFIG_DIR": folder, **_set_by_user(environment)})
        try:
            return import_module(f"ultralytics.{module}")
        finally:
            os.environ.clear()
            os.environ.update(environment)
            torch.save, Image.open, cv2.imread, cv2.imwrite, cv2.imshow = patched
            cv2.setNumThreads(threads[0])
            with suppress(RuntimeError):  # torch refuses once parallel work has begun: then it is unchanged
                torch.set_num_threads(threads[1])


def import_safe_tasks() -> ModuleType:
    """`ultralytics.nn.tasks`, once it is sure that it runs no code of the files it reads.

    Raises:
        UserError: this version cannot, or was told not to.
    """
    tasks = import_ultralytics("nn.tasks")
    safe = getattr(tasks, "_SafeLoad", None)
    if safe is None or not safe.restricted():
        raise UserError(
            "model.pretrained: this ultralytics would run code that the file brings; "
            "install a newer one, and do not set ULTRALYTICS_SAFE_LOAD"
        )
    return tasks


def _set_by_user(environment: dict[str, str]) -> dict[str, str]:
    keys = (*QUIET, "YOLO_CONFIG_DIR")
    return {key: environment[key] for key in keys if key in environment}
