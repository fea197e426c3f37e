"""The files around the code agree with each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import detector

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(pyproject: dict[str, Any]) -> list[Requirement]:
    project = pyproject["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_there_is_one_version(pyproject: dict[str, Any]) -> None:
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "detector.__version__"}
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


def test_make_help_lists_every_documented_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    documented = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"^make ([a-z]+)", done.stdout, re.MULTILINE) == documented
    assert {"setup", "train", "test", "check", "clean"} <= set(documented)
