"""Continuous integration from a fresh clone: environment, style, types, all tests; on two cores."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.speed.process import ROOT, cores, taken
from benchmarks.speed.row import Row


def measure(script: str = ".ci/run", source: Path = ROOT) -> list[Row]:
    """Seconds of `.ci/run` in a clone of what is committed."""
    from detector.data.sources import datasets_dir

    with tempfile.TemporaryDirectory() as name, cores(2) as used:
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(source), str(clone)], check=True)
        # The peer's one thread a process is this benchmark's, not what a machine of CI says.
        env = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        env["DETECTOR_DATASETS"] = str(datasets_dir().resolve())
        log = Path(name) / "log"
        found = taken([str(clone / script)], log, cwd=clone, env=env)
        lines = log.read_text(errors="replace").splitlines()
        passed = next((line.strip("= ") for line in reversed(lines) if " passed" in line), "")
    what = f"`{script}` in a fresh clone, {used} cores"
    return [Row(what, "–", "s", [found.seconds], [], target=600, absolute=True, note=passed)]
