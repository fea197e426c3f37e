"""Where a result comes from: versions, commit, command and machine, for the summary of a run."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from detector.runtime.files import PACKAGE

_PACKAGES = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "ultralytics": ("ultralytics",),
    "opencv": ("opencv-python", "opencv-python-headless"),  # the same library under two names
    "wandb": ("wandb",),
    "numpy": ("numpy",),
    "faster-coco-eval": ("faster-coco-eval",),
}
_ROOT = PACKAGE.parent
_GIT_SECONDS = 5.0  # a repository on a dead network disk must not hold a run up


def provenance(device: str = "cpu", *, root: Path = _ROOT, outputs: Sequence[str] = ()) -> dict[str, object]:
    """What is needed to run this again, and nothing about who ran it: no host or user name.

    Args:
        device: where the run computes, as text, e.g. "cuda:0 (NVIDIA H100)".
        root: the project's folder, asked for its commit.
        outputs: files below it that the asking program writes itself: to change them is not to be dirty.

    Returns:
        `versions` (package to version, None where it is not installed), `commit` and `dirty` (None
        outside a git repository), `code` (see `code_fingerprint`), `command`, `platform`, `cpus`, `device`.
    """
    others = [f":(exclude){path}" for path in outputs]
    status = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *others)
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(*distributions) for name, distributions in _PACKAGES.items()},
        "commit": _git(root, "rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else bool(status),
        "code": code_fingerprint(root),
        "command": shlex.join(sys.argv),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": _cpus(),
        "device": device,
    }


def code_fingerprint(root: Path = _ROOT) -> str:
    """Sixteen hex digits of a sha256 over train.py and the package: unlike a commit it sees every change."""
    digest = hashlib.sha256()
    for path in (root / "train.py", *sorted((root / "detector").rglob("*.py"))):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _version(*distributions: str) -> str | None:
    """The version from the installed metadata: importing torch to ask it would take seconds."""
    for name in distributions:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def _cpus() -> int | None:
    """Cores this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no repository at `root`, or no answer in time."""
    if not (root / ".git").exists():
        return None  # installed as a package: git would answer for whatever repository lies around it
    try:
        # fsmonitor is a program named by the repository's own config: asking for a commit must not start it.
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
