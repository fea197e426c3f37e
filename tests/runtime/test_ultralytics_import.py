"""Importing ultralytics without its side effects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.errors import UserError
from detector.runtime.ultralytics_import import import_ultralytics, safe_tasks


@pytest.mark.slow
def test_importing_ultralytics_leaves_nothing_behind(tmp_path: Path) -> None:
    """In an empty home: no file, no changed environment, no patched function, no draw, no output."""
    script = """
import os, random, sys, numpy, torch, cv2
from PIL import Image
def state():
    draws = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    threads = cv2.getNumThreads(), torch.get_num_threads()
    return dict(os.environ), torch.save, Image.open, cv2.imread, threads, draws
before = state()
import pytest

from detector.runtime.ultralytics_import import import_ultralytics
import_ultralytics("utils.loss")
import_ultralytics("data.augment")
after = state()
assert before == after, [(a, b) for a, b in zip(before, after) if a != b]
from ultralytics.utils.checks import AUTOINSTALL
from ultralytics.utils import ONLINE
assert not AUTOINSTALL and not ONLINE
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO_", "XDG_"))}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"HOME": str(home), "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert [p for p in home.rglob("*") if "Ultralytics" in str(p)] == []
    assert list(tmp_path.glob("ultralytics-*")) == []


def test_no_file_runs_code_though_a_program_has_imported_ultralytics_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = import_ultralytics("nn.tasks")
    monkeypatch.setattr(tasks, "SAFE_LOAD", False)  # as after `from ultralytics import YOLO`
    assert not tasks._SafeLoad.restricted()
    with safe_tasks() as found:
        assert found is tasks and tasks._SafeLoad.restricted()
    assert tasks.SAFE_LOAD is False  # the program's own loading is as it was
    monkeypatch.setattr(tasks._SafeLoad, "SUPPORTED", False)
    with pytest.raises(UserError, match="install a newer one"), safe_tasks():
        pass
    monkeypatch.delattr(tasks, "_SafeLoad")
    with pytest.raises(UserError, match="install a newer one"), safe_tasks():
        pass
