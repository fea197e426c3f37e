"""The files around the code agree with each other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import detector
from tests.support import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(pyproject: dict[str, Any]) -> list[Requirement]:
    project = pyproject["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_there_is_one_version(pyproject: dict[str, Any]) -> None:
    assert pyproject["tool"]["hatch"]["version"] == {"path": "detector/__init__.py"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == detector.__version__
    assert detector.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["license"] == pyproject["project"]["license"] == "AGPL-3.0-or-later"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_dependency_is_pinned_once_within_its_bounds(pyproject: dict[str, Any], python: str) -> None:
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert pin.name not in pins
            pins[pin.name] = specifier.version
    for requirement in requirements(pyproject):
        assert requirement.specifier.contains(pins[requirement.name.lower()], prereleases=True), requirement


def test_the_supported_pythons_are_the_tested_ones(pyproject: dict[str, Any]) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    supported = SpecifierSet(pyproject["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported] == tested
    assert f"Python {tested[0]} to {tested[-1]} is needed" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_continuous_integration_walks_both_ways_in() -> None:
    """The clone's commands are README's, in its order; the wheel's are in a script of their own."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = {
        name: [step["run"] for step in job["steps"] if "run" in step]
        for name, job in workflow["jobs"].items()
    }
    blocks = re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    *made, compared = [line for block in blocks[:2] for line in block.splitlines()]
    assert len(made) == 2
    assert steps["clone"] == [*made, f"source .venv/bin/activate && {compared}"]
    (script,) = steps["wheel"]
    subprocess.run(["bash", "-n", ROOT / script.split()[0]], check=True)
    text = (ROOT / script.split()[0]).read_text(encoding="utf-8")
    walked = [line for line in text.splitlines() if line.startswith("detector ")]
    assert [shlex.split(line)[1] for line in walked][1:4] == ["init", "train", "train"]
    assert compared in walked and os.access(ROOT / script.split()[0], os.X_OK)


def test_make_help_lists_every_documented_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    documented = re.findall(
        r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert re.findall(r"^make ([a-z-]+)", done.stdout, re.MULTILINE) == documented
    assert {"setup", "train", "test", "check", "clean"} <= set(documented)


def test_a_run_needs_no_developer_s_tools(tmp_path: Path) -> None:
    """What `make` would do in a clone without .venv."""

    def commands(target: str) -> str:
        return subprocess.run(
            ["make", "-n", target, f"VENV={tmp_path}/none"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    for target in ("setup", "train"):
        assert "--editable ." in commands(target) and "[dev]" not in commands(target)
    for target in ("test", "check", "bench"):
        # In one call of pip, not one for a run and another for the tools.
        assert commands(target).count("--editable") == 1 and commands(target).count("[dev]") == 1


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree and unpacked as pip does it; what it needs is there already."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", folder / "site", wheel],
        check=True,
    )
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_carries_what_a_clone_has(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "train.py", "configs", "ablations", "datasets/*.yaml", "detector"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    package = installed / "detector"
    for name in listed:
        copy = installed / name if name.startswith("detector/") else package / "_project" / name
        assert copy.read_bytes() == (ROOT / name).read_bytes(), name
    carried = {
        path.relative_to(package / "_project").as_posix() for path in (package / "_project").rglob("*.*")
    }
    assert {name for name in carried if not name.endswith(".pyc")} == {
        name for name in listed if not name.startswith("detector/")
    }
    assert (package / "py.typed").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_wheel_works_in_any_folder(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    env = environment() | {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env.pop("DETECTOR_DATASETS", None)

    def program(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=empty, env=env, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    small = "data.image_size=64", "train.steps=2", "model.depths=[1,1,1,1]", "tracking.wandb=disabled"
    # As `python -m detector`, with fewer images to draw and to evaluate.
    shapes = "import functools, runpy, detector.data.sources as sources\n"
    shapes += "sources.render_shapes = functools.partial(sources.render_shapes, train=8, val=4)\n"
    shapes += "runpy.run_module('detector', run_name='__main__', alter_sys=True)"
    program("-c", shapes, "train", "--config", "shapes", "run.dir=runs/one", "data.fliplr=0.5", *small)
    assert (tmp_path / "cache/gradient-detector/datasets/shapes/images").is_dir()
    # By the wheel's train.py, in a process of its own, with another order of sets.
    assert "identical" in program("-m", "detector", "reproduce", "runs/one")
    # The others one after the other in one process: what takes the time is to import PyTorch.
    commands = [
        ["info", "--config", "no_residual"],
        ["ablate", "factorial", "--dry-run"],
        ["init", "lab"],
        ["compare", "runs", "--html", "page.html"],
        ["train", "--config", "lab/lab.yaml", "data=lab/data.yaml", "run.dir=runs/lab", *small],
    ]
    code = f"import detector.cli; print([detector.cli.main(command) for command in {commands}])"
    code += "; import detector.models.weights as w; print(w.WEIGHTS)"
    shown = program("-c", code)
    assert "no_residual: 68 convolutions" in shown and "[0, 0, 0, 0, 0]" in shown
    suite, _, made = shown.partition("lab: ")
    assert suite.count("detector train --config") == 40 and "detector train --config lab.yaml" in made
    assert shown.endswith(f"{tmp_path / 'cache/gradient-detector/weights'}\n")
    assert sorted(os.listdir(empty)) == ["lab", "page.html", "runs"]
