"""Where a result comes from, and nothing about who made it."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from detector.training.provenance import code_fingerprint, provenance


def _git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    done = subprocess.run(
        ["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_versions_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "a b.yaml"])
    found = provenance("cpu")
    versions = found["versions"]
    assert isinstance(versions, dict)
    assert versions["python"] == platform.python_version()
    names = {"python", "torch", "torchvision", "ultralytics", "opencv", "wandb", "numpy", "faster-coco-eval"}
    assert versions.keys() == names
    assert all(versions.values())
    assert found["command"] == "train.py --config 'a b.yaml'"
    assert found["device"] == "cpu"
    assert isinstance(found["cpus"], int) and found["cpus"] >= 1
    json.dumps(found)


def test_no_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(platform, "node", lambda: pytest.fail("the host's name is nobody's business"))
    text = json.dumps(provenance("cpu"))
    assert f"/{getpass.getuser()}" not in text


def test_the_commit_and_whether_it_is_dirty(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    _git(tmp_path, "add", "a")
    _git(tmp_path, "commit", "-qm", "first")
    clean = provenance(root=tmp_path)
    assert clean["commit"] == _git(tmp_path, "rev-parse", "HEAD")
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert provenance(root=tmp_path)["dirty"] is True
    assert provenance(root=tmp_path, outputs=["a"])["dirty"] is False
    assert provenance(root=tmp_path, outputs=["b"])["dirty"] is True


def test_outside_a_repository(tmp_path: Path) -> None:
    found = provenance(root=tmp_path)
    assert found["commit"] is None and found["dirty"] is None


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    assert provenance(root=tmp_path)["commit"] is None


def test_no_git_or_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _git(tmp_path, "init", "-q")
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr("detector.training.provenance._GIT_SECONDS", 0.2)
    monkeypatch.setenv("PATH", f"{fake.parent}:/bin:/usr/bin")
    assert provenance(root=tmp_path)["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance(root=tmp_path)["commit"] is None


@pytest.mark.slow
def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from detector.training.provenance import provenance; provenance();"
        "import detector.loggers.jsonl, detector.loggers.console, detector.loggers.wandb_logger;"
        "heavy = {'torch', 'wandb', 'matplotlib', 'cv2', 'numpy', 'rich'} & sys.modules.keys();"
        "import detector.loggers.plots;"  # which is handed arrays
        "heavy |= {'torch', 'wandb', 'matplotlib', 'cv2', 'rich'} & sys.modules.keys();"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_code_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "detector" / "nn").mkdir(parents=True)
    (tmp_path / "train.py").write_text("a")
    file = tmp_path / "detector" / "nn" / "b.py"
    file.write_text("b")
    first = code_fingerprint(tmp_path)
    assert len(first) == 16
    (tmp_path / "README.md").write_text("not code")
    assert code_fingerprint(tmp_path) == first
    file.write_text("c")
    second = code_fingerprint(tmp_path)
    assert second != first
    file.rename(file.with_name("c.py"))
    assert code_fingerprint(tmp_path) not in (first, second)
