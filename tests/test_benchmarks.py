"""The frame of the benchmarks: what is judged, what is written, and that every topic can be loaded."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import bench, data_pipeline, profile_data
from benchmarks.speed import bccd, ci, growth, process
from benchmarks.speed.row import Row, in_turns

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


def test_the_longest_topics_are_measured_only_when_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    kept = tmp_path / "results.json"
    kept.write_text(json.dumps({"ci": {"rows": [], "made": MADE}}))

    def measured(topic: str, core: int) -> dict[str, Any]:
        asked.append(topic)
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


@pytest.mark.parametrize("convolutions", [21, 41, 81, 161])
def test_a_depth_is_made_of_that_many_convolutions(convolutions: int) -> None:
    depths = growth.Case(convolutions=convolutions).model.depths
    assert 5 + 2 * sum(depths) == convolutions
    assert min(depths) > 0


def test_the_baseline_is_in_the_middle_of_what_grows() -> None:
    assert growth.Case().model.depths == (2, 10, 4, 2)


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
