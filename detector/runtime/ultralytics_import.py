"""Import ultralytics without what its import does to the process and to the user's home.

Importing it writes a settings file, looks for a network, sets OMP_NUM_THREADS for child processes,
switches OpenCV's threads off and replaces `torch.save`, `PIL.Image.open` and (on Windows) `cv2.imread`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def safe_tasks() -> Iterator[ModuleType]:
    """`ultralytics.nn.tasks`, which inside runs no code of the files that it reads.

    It reads its switch once, when it is imported: where a user's program did that before, it is off, and is
    off again afterwards.

    Raises:
        UserError: this version cannot.
    """
    tasks = import_ultralytics("nn.tasks")
    before, safe = getattr(tasks, "SAFE_LOAD", None), getattr(tasks, "_SafeLoad", None)
    tasks.SAFE_LOAD = True  # type: ignore[attr-defined]
    try:
        if before is None or safe is None or not safe.restricted():
            raise UserError(
                "model.pretrained: this ultralytics would run code that the file brings; install a newer one"
            )
        yield tasks
    finally:
        tasks.SAFE_LOAD = before  # type: ignore[attr-defined]


def _set_by_user(environment: dict[str, str]) -> dict[str, str]:
    keys = (*QUIET, "YOLO_CONFIG_DIR")
    return {key: environment[key] for key in keys if key in environment}
