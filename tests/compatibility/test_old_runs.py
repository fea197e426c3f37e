"""Run directories, checkpoints and configurations of an earlier version: see README.md in this folder."""

from __future__ import annotations

import csv
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.config.loading import load_config
from tests.starter import Starter
from tests.support import Run

HERE = Path(__file__).parent
OLD_RUNS, EXPECTED = HERE / "old_runs", HERE / "expected"
# Between instruction sets (SSE, AVX2, AVX-512) the resumed rows differ by up to 3e-5.
TOLERANCE = 1e-3
# Times, and what that version measured otherwise: over positions too, not between images alone.
MEASURED_ANEW = "time/", "signal/input_dependence"

OldRun = Callable[[str], Path]
Detector = Callable[..., Run]


@pytest.fixture
def old_run(tmp_path: Path) -> OldRun:
    """A run as the earlier version left it, in a folder that may be written to."""

    def unpack(name: str) -> Path:
        directory = tmp_path / "runs" / name
        shutil.copytree(OLD_RUNS / name, directory)
        for packed in directory.rglob("*.xz"):
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
            packed.unlink()
        return directory

    return unpack


@pytest.fixture
def detector(warm_start: Starter, tmp_path: Path) -> Detector:
    """`python -m detector` in a process of its own, in the test's folder."""

    def call(*arguments: str, program: str = "detector") -> Run:
        return warm_start.end(warm_start.start(arguments, cwd=tmp_path, program=program), tmp_path)

    return call


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_numbers(old_run: OldRun, detector: Detector) -> None:
    directory = old_run("interrupted")
    before = (directory / "history.jsonl").read_bytes()
    done = detector("--resume", str(directory), program="train.py")
    assert done.code == 0, done.err
    after = (directory / "history.jsonl").read_bytes()
    assert after.startswith(before)

    new, expected = rows(directory / "history.jsonl")[before.count(b"\n") :], rows(EXPECTED / "resumed.jsonl")
    assert [row["step"] for row in new] == [row["step"] for row in expected]
    for row, wanted in zip(new, expected, strict=True):
        measured = {key: value for key, value in wanted.items() if not key.startswith(MEASURED_ANEW)}
        assert {key: row.get(key) for key in measured} == pytest.approx(measured, rel=TOLERANCE, abs=1e-6)
    assert json.loads((directory / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpoint"), [
    ("finished", ""), ("yolo", ""), ("interrupted", "checkpoints/last.pt"),
])  # fmt: skip
def test_val_finds_the_same_metrics(old_run: OldRun, detector: Detector, name: str, checkpoint: str) -> None:
    found = detector("val", str(old_run(name) / checkpoint), "--split", "train", "--json", "--out", "val")
    assert found.code == 0, found.err
    wanted = json.loads((EXPECTED / f"val_{name}.json").read_text())
    metrics = {key: value for key, value in wanted["metrics"].items() if value is not None}
    got = json.loads(found.out)["metrics"]
    assert {key: got[key] for key in metrics} == pytest.approx(metrics, abs=0.01)


@pytest.mark.slow
def test_predict_finds_the_same_boxes(old_run: OldRun, detector: Detector) -> None:
    checkpoint = old_run("finished") / "checkpoints" / "best.pt"
    images = HERE / "data" / "images" / "train"
    arguments = ("predict", str(checkpoint), str(images), "--conf", "0.3", "--json", "--no-images")
    found = detector(*arguments)
    assert found.code == 0, found.err
    wanted = json.loads((EXPECTED / "predict_finished.json").read_text())
    got = {Path(image["file"]).name: image["boxes"] for image in json.loads(found.out)["results"]}
    assert got.keys() == wanted.keys()
    for name, boxes in wanted.items():
        assert [box["name"] for box in got[name]] == [box["name"] for box in boxes]
        for box, same in zip(got[name], boxes, strict=True):
            assert box["xyxy"] == pytest.approx(same["xyxy"], abs=0.05)
            assert box["score"] == pytest.approx(same["score"], abs=1e-3)


@pytest.mark.slow
def test_a_diverged_run_is_replayed(old_run: OldRun, detector: Detector) -> None:
    directory = old_run("diverged")
    found = detector("replay", str(directory))
    assert found.code == 3, found.err
    culprit = json.loads((directory / "failure" / "failure.json").read_text())["culprit"]
    assert culprit["layer"] == "trunk.p3_0.a.conv"  # as it was called then
    assert "backbone.p3_0.conv1.conv" in found.out
    assert "now        the same" in found.out


@pytest.mark.slow
def test_compare_tells_the_same(old_run: OldRun, detector: Detector) -> None:
    for name in ("finished", "interrupted", "diverged", "yolo"):
        old_run(name)
    found = detector("compare", "runs", "--allow-mixed", "--csv", "-")
    assert found.code == 0, found.err
    assert measured(found.out) == pytest.approx(measured((EXPECTED / "compare.csv").read_text()), rel=1e-6)


def measured(table: str) -> dict[tuple[str, str], float]:
    """What the table says of each ablation's runs.

    Runs of one name are numbered by their first value: which of them has the plain name is no number.
    """
    lines = [line for line in csv.DictReader(table.splitlines()) if line["kind"] == "measured"]
    rows = [lines[at : at + 6] for at in range(0, len(lines), 6)]
    rows.sort(key=lambda row: (row[0]["name"].split(" [")[0], float(row[0]["mean"])))
    return {
        (line["name"].split(" [")[0] + f" {number}", line["metric"]): float(line["mean"])
        for number, row in enumerate(rows)
        for line in row
        if line["mean"]
    }


@pytest.mark.parametrize("file", sorted((HERE / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_complete_configuration_still_says_what_it_said(file: Path) -> None:
    config = load_config(file).config.model_dump(mode="json")
    for section, keys in yaml.safe_load(file.read_text()).items():
        assert {key: config[section][key] for key in keys} == keys
