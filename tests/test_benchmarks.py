"""The frame of the benchmarks: what is judged, what is written, and that every topic can be loaded."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import bench, data_pipeline, profile_data
from benchmarks.speed import bccd, ci, gpu, growth, growth_files, process, scan, stack
from benchmarks.speed.row import Row, in_turns
from detector.config.schema import Config, ModelConfig
from detector.data.dataset import read_dataset
from detector.rundir import RunDir
from detector.tools.compare.runs import load_runs
from detector.tools.suites.suite import expand, load_suite
from tests.support import ROOT

SIDES = ("ultralytics", 0.4, 700.0), ("ours", 0.5, 210.0), ("ours, longer", 0.7, 770.0)
MADE = {"commit": "0123456789", "dirty": False, "versions": {"torch": "2.0"}}


def test_a_ratio_of_medians_is_judged() -> None:
    row = Row("a step", "peer", "ms", [3.0, 1.0, 2.0], [4.0, 8.0, 100.0], target=0.25)
    assert row.value == pytest.approx(2 / 8)
    assert row.met
    assert not Row("a step", "peer", "ms", [2.1], [8.0], target=0.25).met


def test_where_absolute_the_peer_does_not_count() -> None:
    row = Row("start", "peer", "s", [3.0, 3.4, 3.2], [], target=3.3, absolute=True)
    assert row.value == pytest.approx(3.2)
    assert row.met


def test_more_can_be_better() -> None:
    assert Row("rate", "peer", "images/s", [13.1], [10.0], target=1.3, at_least=True).met
    assert not Row("rate", "peer", "images/s", [12.9], [10.0], target=1.3, at_least=True).met


def test_sides_take_turns() -> None:
    calls: list[str] = []
    times = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {side: len(seconds) for side, seconds in times.items()} == {"a": 3, "b": 3}
    assert all(second >= 0 for seconds in times.values() for second in seconds)


def test_the_table_has_what_was_measured() -> None:
    rows = [
        Row("a step", "ultralytics", "ms", [150.0, 160.0], [300.0, 320.0], target=0.53, note="same mAP"),
        Row("help", "–", "s", [0.5], [], target=0.3, absolute=True),
    ]
    text = bench.table({"step": {"rows": [asdict(row) for row in rows], "made": MADE}})
    first, second = (line for line in text.splitlines() if line.startswith(("| a step", "| help")))
    ours, theirs = "155 ms (150 – 160)", "310 ms (300 – 320)"
    judged = "0.5× | ≤ 0.53× | yes | 2 |"
    assert first == f"| a step<br>*same mAP* | {ours} | {theirs} | ultralytics | {judged}"
    assert second == "| help | 0.5 s (0.5 – 0.5) | – | – | 0.5 s | ≤ 0.3 s | **no** | 1 |"
    assert "commit 0123456," in text or "commit 0123456." in text


def test_no_figure_hides_what_it_says() -> None:
    assert [bench.figure(value) for value in (0.0123, 1.5, 998.4, 1002.2, 1343.3)] == [
        "0.0123", "1.5", "998", "1002", "1343",
    ]  # fmt: skip
    assert bench.figure(1.0141, 1.01) == "1.014"  # not "1.01 ≤ 1.01: no"
    assert bench.figure(1.01, 1.01) == "1.01"


def test_whose_processor_differs_is_named() -> None:
    one, other = {"processor": "A, by AVX2 alone"}, {"processor": "A"}
    assert bench.on_what({"step": one, "data": one}) == " (A, by AVX2 alone)"
    assert bench.on_what({"step": one, "ci": other, "data": one}) == " (A, by AVX2 alone; ci: A)"
    assert bench.on_what({"step": {"processor": ""}}) == ""


def test_the_longest_topics_are_measured_only_when_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    kept = tmp_path / "results.json"
    kept.write_text(json.dumps({"ci": {"rows": [], "made": MADE}}))

    limited: list[Mapping[str, str]] = []

    def measured(topic: str, core: int, limits: Mapping[str, str]) -> dict[str, Any]:
        asked.append(topic)
        limited.append(limits)
        return {"rows": [], "made": MADE}

    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "write_between", lambda *_: None)
    monkeypatch.setattr(bench, "RESULTS", kept)
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    bench.main()
    assert asked == [topic for topic in bench.TOPICS if topic not in bench.LONG]
    assert set(json.loads(kept.read_text())) == {*asked, "ci"}  # the rows of the last time stay
    monkeypatch.setattr(sys, "argv", ["bench.py", *bench.LONG])
    bench.main()
    assert asked[-3:] == list(bench.LONG)
    assert not any(limited)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--avx2", "step"])
    bench.main()
    assert limited[-1] == bench.AVX2


def test_bccd_is_judged_by_points_and_by_core_seconds() -> None:
    runs = [
        {"side": side, "seed": seed, "mAP50-95": score + seed / 100, "cpu": seconds}
        for side, score, seconds in SIDES
        for seed in (1, 0)
    ]
    points, seconds, more, longer = bccd.rows(runs)
    assert points.ours == pytest.approx([10, 10]) and not points.met
    assert seconds.value == pytest.approx(0.3) and seconds.met
    assert more.ours == pytest.approx([30, 30]) and more.met
    assert longer.value == pytest.approx(1.1) and not longer.met


def test_a_command_is_measured_and_a_failing_one_shows_its_words(tmp_path: Path) -> None:
    took = process.taken(["/bin/sh", "-c", "sleep 0.05"], tmp_path / "log")
    assert took.seconds >= 0.05 and took.cpu >= 0 and took.peak_mb > 0
    assert process.taken(["/bin/sh", "-c", "exit 3"], tmp_path / "log", good=(3,)).seconds > 0
    with pytest.raises(SystemExit, match="no such thing"):
        process.taken(["/bin/sh", "-c", "echo no such thing; exit 1"], tmp_path / "log")


def test_cores_are_given_back() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with process.cores(2) as used:
            assert used == len(os.sched_getaffinity(0)) == min(2, os.cpu_count() or 1)
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_ci_is_timed_in_a_clone_of_what_is_committed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    script = source / "run"
    script.write_text("#!/bin/sh\necho $PWD\n[ ! -e later ] && echo '== 7 passed in 1s =='\n")
    script.chmod(0o755)
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (source / "later").touch()
    (row,) = ci.measure("run", source)
    assert row.note == "7 passed in 1s" and 0 < row.ours[0] < row.target


@pytest.mark.parametrize("topic", bench.TOPICS)
def test_every_topic_can_be_loaded(topic: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.speed.{topic}").measure)


def test_what_a_benchmark_imports_late_is_still_there() -> None:
    """A topic that nobody measured for a while must not be the one to find out that a function moved."""
    missing = []
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("detector", "benchmarks")):
                module = importlib.import_module(str(node.module))
                missing += [
                    f"{path.name}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not hasattr(module, alias.name)
                    and importlib.util.find_spec(f"{node.module}.{alias.name}") is None
                ]
    assert not missing


@pytest.mark.parametrize("convolutions", [21, 41, 81, 161])
def test_a_depth_is_made_of_that_many_convolutions(convolutions: int) -> None:
    depths = growth.Case(convolutions=convolutions).model.depths
    assert 5 + 2 * sum(depths) == convolutions
    assert min(depths) > 0


def test_the_baseline_is_in_the_middle_of_what_grows() -> None:
    assert growth.Case().model.depths == (2, 10, 4, 2)


def test_the_large_data_set_is_a_data_set(tmp_path: Path) -> None:
    data = scan.make(tmp_path / "set", 50)
    found = read_dataset(data)
    assert {split: len(items) for split, items in found.splits.items()} == {"train": 47, "val": 3}
    assert all(1 <= len(item.boxes) <= 7 for items in found.splits.values() for item in items)
    assert found.notes == () and found.skipped == ()
    assert read_dataset(scan.make(tmp_path / "again", 50)).pixels == found.pixels


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8)
    sizes = {"STEPS": 1, "ROUNDS": 1, "COMPACT_SIZE": 32, "COMPACT_BATCH": 2, "YOLO": tiny}
    for name, value in sizes.items():
        monkeypatch.setattr(gpu, name, value)


@pytest.mark.slow
def test_what_a_gpu_is_measured_by_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but CUDA itself: on the day that there is a card, only that can fail."""
    small(monkeypatch)
    (rate,) = gpu.throughput("cpu", 32, 2)
    assert rate.ours and rate.theirs and rate.target == 1.3 and "32 px, batch 2, cpu" in rate.what
    for part, target in (("telemetry", 1.01), ("every", 1.05)):
        (row,) = gpu.PARTS[part]("cpu", 32, 2)
        assert row.target == target and row.ours[0] > 0
    (step,) = gpu.compact("cpu", "unchanged", lambda made: None)
    one, other = step.note.split()[-3::2]
    assert one == other  # the same training on both sides


def test_without_a_gpu_the_topic_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.measure() == []
    assert "no CUDA GPU here" in capsys.readouterr().out


@pytest.mark.slow
def test_a_part_that_fails_prints_its_error_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "part.py"
    script.write_text(
        "import json, sys, time\n"
        "part, *_, out = sys.argv[1:]\n"
        "print('words of', part, flush=True)\n"
        "if part == 'graphs': sys.exit(3)\n"
        "if part == 'nccl': time.sleep(60)\n"
        "row = dict(what=part, peer='', unit='', ours=[1], theirs=[], target=2, absolute=True)\n"
        "open(out, 'w').write(json.dumps([row]))\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(gpu, "LIMITS", gpu.LIMITS | {"nccl": 0.5})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [row.what for row in gpu.measure()] == [p for p in gpu.PARTS if p not in ("graphs", "nccl")]
    said = capsys.readouterr().err
    assert "graphs ended with 3:\nwords of graphs" in said and "nccl took more than 0.5 s" in said


def test_a_gpus_parts_end_within_eight_minutes() -> None:
    assert gpu.LIMITS.keys() == gpu.PARTS.keys()
    assert sum(gpu.LIMITS.values()) < 480


@pytest.mark.slow
def test_outcomes_of_tests_are_counted(tmp_path: Path) -> None:
    tests = tmp_path / "test_these.py"
    tests.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2, 3])\n"
        "def test_passes(n): pass\n"
        "def test_fails(): assert False\n"
        "def test_is_skipped(): pytest.skip()\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", tests]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert gpu.counted(report.read_text()) == {"passed": 3, "skipped": 1, "failed": 1}


def test_the_files_with_tests_that_need_a_card_are_found() -> None:
    names = {Path(file).name for file in gpu.marked()}
    assert {"test_cuda.py", "test_loader.py"} <= names and "test_rundir.py" not in names


def test_runs_are_made_up_with_the_keys_of_a_real_one(tmp_path: Path) -> None:
    model = RunDir.create(tmp_path / "model", Config())
    kinds = {f"{kind}/00_stem": 0.5 for kind in ("activation_grad", "weight_grad")}
    history = model.open_history()
    for step, more in ((0, {"signal/probe_auc_p3": 0.7}), (5, {}), (9, {"val/mAP50-95": 0.2})):
        history.append({"step": step, "epoch": step, "train/loss": 2.0, **kinds, **more})
    history.close()
    model.write_summary({"ablation": "coco8", "seed": 0, "status": "finished", "data_fingerprint": "a"})
    for number in range(4):
        growth_files.write_run(model, tmp_path / "runs" / str(number), 2500, *divmod(number, 2))
    runs, left_out = load_runs([tmp_path / "runs"])
    assert not left_out
    assert sorted((run.name, run.seed) for run in runs) == [
        ("ablation_1", 0), ("ablation_1", 1), ("baseline", 0), ("baseline", 1)
    ]  # fmt: skip
    notes = {note.partition(" lacks")[0] for run in runs for note in run.notes}
    assert notes == {"summary.json (another version's?)"}  # it is a short one; the histories are whole
    rows = RunDir(tmp_path / "runs" / "3").read_history()
    assert [row["step"] for row in rows] == list(range(0, 12_500, 5))
    assert rows[0].keys() - rows[1].keys() == {"signal/probe_auc_p3"}
    assert rows[-1].keys() - rows[1].keys() == {"val/mAP50-95"}
    assert len({row["train/loss"] for row in rows}) == len(rows)


def test_the_table_of_what_runs_leave_behind() -> None:
    one = {
        "value": 1e6,
        "files_mb": 3900.0,
        "table_s": 23.5,
        "table_mb": 870.0,
        "page_s": 25.0,
        "page_mb": 890.0,
    }
    suite = {"value": 8, "cell_s": 6.25, "training_s": 2.0, "alone_s": 6.0}
    text = growth_files.table({"rows in a history": [one], "runs compared": [], "cells": [suite]})
    assert "| rows in a history | 1,000,000 | 3900 | 23.5 | 870 | 25.0 | 890 |" in text
    assert "| 8 | 6.25 | 2.00 | 6.00 | +0.25 |" in text


@pytest.mark.slow
def test_a_case_is_measured() -> None:
    case = growth.Case(convolutions=21, size=32, batch=2, layers=3)
    found = growth.measure_here(case, record=True)
    assert found["recorded"] == 3
    assert math.isfinite(found["telemetry_ms"]) and found["step_ms"] > 0 and found["peak_mb"] > 0
    text = growth.table({"batch": [asdict(case) | found | {"peak_mb_recorded": 1.0}]})
    assert "| batch | 2 | 3 |" in text


def test_a_clock_stops_while_another_part_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(profile_data.time, "process_time", lambda: now.seconds)

    class Work:
        @staticmethod
        def inner(seconds: float) -> float:
            now.seconds += seconds
            return seconds

        def outer(self) -> float:
            now.seconds += 1
            return self.inner(10) + self.inner(100)

    clock = profile_data.Clock()
    clock.wrap(Work, "inner", "in")
    clock.wrap(Work, "outer", "out")
    now.seconds += 1000
    assert Work().outer() == 110 and Work.inner(10000) == 10000
    clock.enter(profile_data.REST)
    assert clock.seconds == {"in": 10110, "out": 1, profile_data.REST: 1000}


@pytest.mark.slow
def test_the_profile_of_the_data_pipeline_times_functions_that_there_are() -> None:
    for places in profile_data.parts().values():
        assert len(places) >= 2 and all(callable(getattr(place, name)) for place, name in places)


@pytest.mark.slow
def test_the_sides_of_the_data_pipeline_make_batches(
    tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detector.data import image_cache

    monkeypatch.setattr(image_cache, "FOLDER", tmp_path / "cache")
    shutil.copytree(coco8 / "coco8", tmp_path / "coco8")  # ultralytics writes beside the images
    names = "".join(f"\n  {number}: class_{number}" for number in range(80))
    data = tmp_path / "coco8" / "data.yaml"
    data.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:{names}\n", encoding="utf-8")
    sides = data_pipeline.contenders(data, 64, 2)
    assert {whose for whose, _ in sides} == {"ours", "theirs"}
    for start in sides.values():
        with closing(start(0)) as batches:  # type: ignore[type-var]
            assert next(batches) == 2


def test_the_stacked_suite_is_the_factorial() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = load_suite(stack.write_suite(Path(folder), tuple(stack.CELLS)))
        cells = expand(found)
    shipped = load_suite(Path("ablations/suites/factorial.yaml"))
    assert found.cells.keys() == shipped.cells.keys() and len(cells) == 40
    for mine, theirs in zip(cells, expand(shipped, seeds=stack.SEEDS), strict=True):
        kept = {"act", "norm", "shortcut", "scope", "init"}
        assert mine.config.model.model_dump(include=kept) == theirs.config.model.model_dump(include=kept)
