"""`detector reproduce`: identical is said only of what is, and the first run is never touched."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detector.cli import main
from detector.tools.reproduce import command as reproduce_command
from detector.tools.reproduce.command import (
    Difference,
    changes,
    compare_histories,
    compare_summaries,
    lost_rows,
)  # fmt: skip
from tests.starter import Started, Starter
from tests.support import ROOT, Run

QUICK = ("data.image_size=64", "train.steps=4", "train.eval_every=2", "gradients.every=2",
         "tracking.plots=false")  # fmt: skip
SUMMARY = {
    "status": "finished", "steps": 4, "train/loss": 1.5, "gradient/verdict": "healthy", "seconds": 3.0,
    "gradient/diagnosis": "prose", "data_fingerprint": "f", "versions": {"torch": "2.6"}, "commit": "a",
    "threads": 1,
}  # fmt: skip
ROWS = [
    {"step": 0, "train/loss": 2.5, "time/step_ms": 9.0},
    {"step": 3, "train/loss": 1.5, "val/mAP50": math.nan},
]


def fake_run(directory: Path, rows: list[dict[str, Any]] = ROWS, **summary: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("train: {steps: 4}\nrun: {name: mine}\n")
    text = "".join(json.dumps(row).replace("NaN", '"NaN"') + "\n" for row in rows)
    (directory / "history.jsonl").write_text(text)
    (directory / "summary.json").write_text(json.dumps({**SUMMARY, **summary}))
    return directory


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Stand in for the second training: it leaves what a test says, and ends with `code`."""

    def prepare(code: int = 0, **result: Any) -> list[list[str]]:
        calls: list[list[str]] = []

        def train(arguments: list[str]) -> int:
            calls.append(arguments)
            out = next(a.removeprefix("run.dir=") for a in arguments if a.startswith("run.dir="))
            fake_run(Path(out), **result)
            return code

        monkeypatch.setattr(reproduce_command, "train", train)
        return calls

    return prepare


def contents(directory: Path) -> dict[Path, tuple[int, bytes]]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
def test_a_run_comes_out_the_same(
    train_py: Callable[..., Run], warm_start: Starter, coco8: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The second run is forked, too; `test_an_installed_wheel_works_in_any_folder` lets it be started."""

    def forked(command: Sequence[str], stdout: int) -> nullcontext[Started]:
        assert command[:2] == [sys.executable, str(ROOT / "train.py")]
        return nullcontext(warm_start.start(command[2:], cwd=tmp_path))

    monkeypatch.setattr(reproduce_command, "subprocess", SimpleNamespace(Popen=forked, DEVNULL=-3))
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    monkeypatch.chdir(tmp_path)
    run = train_py(*QUICK, "data.fliplr=0.5")
    before = contents(run.directory)
    assert main(["reproduce", str(run.directory)]) == 0
    out = capfd.readouterr().out
    assert "conditions:  the same" in out
    assert out.count("identical") == 4
    assert contents(run.directory) == before
    (second,) = (tmp_path / "runs").iterdir()
    assert second.name.startswith("run-again-")


def test_identical(
    tmp_path: Path, again: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = fake_run(tmp_path / "first")
    calls = again(rows=[ROWS[0] | {"time/step_ms": 1.0}, ROWS[1]], seconds=9.0)
    assert main(["reproduce", str(first), "--out", str(tmp_path / "second")]) == 0
    (arguments,) = calls
    assert arguments[:2] == ["--config", str(first / "config.yaml")]
    assert {"tracking.wandb=disabled", "data.fallback=none", "train.threads=1"} <= set(arguments)
    assert "2 rows, 5 numbers: identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"rows": [ROWS[0]]}, "step 3, the whole row: there then, nothing now"),
        ({"rows": [ROWS[0], ROWS[1] | {"val/mAP50": 0.5}]}, "step 3, val/mAP50: nan then, 0.5 now"),
        (
            {"rows": [ROWS[0] | {"train/loss": 2.5000000000000004}, ROWS[1]]},
            "step 0, train/loss: 2.5 then, 2.5000000000000004 now (relative 1.8e-16)",
        ),
        ({"rows": [ROWS[0] | {"new": 1.0}, ROWS[1]]}, "step 0, new: nothing then, 1.0 now"),
        ({"train/loss": 1.8}, "step 4, train/loss: 1.5 then, 1.8 now (relative 2.0e-01)"),
        ({"status": "diverged", "code": 3}, "status: finished then, diverged now"),
        ({"data_fingerprint": "g"}, "data:        not the same"),
    ],
)
def test_what_differs_is_said(
    tmp_path: Path,
    again: Callable[..., list[list[str]]],
    capsys: pytest.CaptureFixture[str],
    result: dict[str, Any],
    said: str,
) -> None:
    first = fake_run(tmp_path / "first")
    again(**result)
    assert main(["reproduce", str(first), "--out", str(tmp_path / "second")]) == 1
    assert said in capsys.readouterr().out


def test_a_run_that_was_stopped_is_compared_as_far_as_it_came(
    tmp_path: Path, again: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = fake_run(tmp_path / "first", rows=ROWS[:1], status="stopped", steps=1)
    again()
    assert main(["reproduce", str(first), "--out", str(tmp_path / "second")]) == 0
    out = capsys.readouterr().out
    assert "compared up to step 0" in out and "summary:" not in out
    (first / "summary.json").unlink()  # killed
    assert main(["reproduce", str(first), "--out", str(tmp_path / "third")]) == 0
    assert "conditions:  not known" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_gaps_in_the_history_are_named_and_are_not_identical(
    tmp_path: Path, again: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str], status: str
) -> None:
    """Lost before the run went on, which its summary says, or after its end, which nothing says."""
    whole = [{"step": step, "train/loss": 3.0 - step} for step in range(5)]
    told = {"steps_lost": [1, 2]} if status == "finished" else {}
    first = fake_run(tmp_path / "first", rows=[whole[0], *whole[3:]], status=status, **told)
    again(rows=whole)
    assert main(["reproduce", str(first), "--out", str(tmp_path / "second")]) == 1
    out = capsys.readouterr().out
    assert "first at   step 1, the whole row: nothing then, there now" in out
    assert "the first run's history has gaps: rows of 2 step(s) are lost: 1, 2\n" in out
    assert out.endswith("not the same\n")


def test_what_lacks_rows_at_its_end_has_no_gap() -> None:
    rows = [{"step": step} for step in range(4)]
    assert lost_rows(rows[:2], rows) == [] == lost_rows(rows, rows[:2])
    assert lost_rows(rows[1::2], rows) == [0, 2]


@pytest.mark.parametrize("out", ["first", "first/inside", "full", "file", "link/inside"])
def test_nothing_is_overwritten(
    tmp_path: Path, again: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str], out: str
) -> None:
    first = fake_run(tmp_path / "first")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(first)
    calls = again()
    assert main(["reproduce", str(first), "--out", str(tmp_path / out)]) == 2
    assert "choose a new directory" in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize(("code", "returned"), [(2, 2), (130, 130), (1, 2), (-9, 2)])
def test_a_second_run_that_fails(
    tmp_path: Path, again: Callable[..., list[list[str]]], code: int, returned: int
) -> None:
    first = fake_run(tmp_path / "first")
    again(code=code)
    assert main(["reproduce", str(first), "--out", str(tmp_path / "second")]) == returned


@pytest.mark.parametrize(
    ("file", "content"),
    [("summary.json", "{"), ("summary.json", "[]"), ("history.jsonl", ""), ("history.jsonl", '{"a": 1}\n'),
     ("config.yaml", "a: 1")],
)  # fmt: skip
def test_a_damaged_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: str
) -> None:
    first = fake_run(tmp_path / "first")
    (first / file).write_text(content)
    assert main(["reproduce", str(first)]) == 2
    assert file in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["first"]


def test_changes_name_what_both_know() -> None:
    then = {"versions": {"torch": "2.6", "old": "1"}, "commit": "a", "device": "cpu", "threads": 2}
    now = {"versions": {"torch": "2.7", "new": "1"}, "commit": "b", "threads": 2}
    assert list(changes(then, now)) == ["torch 2.6 -> 2.7", "commit a -> b"]


def test_every_number_counts_and_times_do_not() -> None:
    one = [{"step": 0, "a": 0.1, "time/x": 1.0}, {"step": 1, "a": math.inf, "b": math.nan}]
    two = [{"step": 0, "a": 0.1, "time/x": 2.0}, {"step": 1, "a": math.inf, "b": math.nan}]
    assert compare_histories(one, two) == ([], 5)
    two[1]["a"] = -math.inf
    assert compare_histories(one, two)[0] == [Difference(1, "a", math.inf, -math.inf)]


def test_prose_and_times_are_no_metrics() -> None:
    other = SUMMARY | {"gradient/diagnosis": "other prose", "seconds": 1.0}
    assert compare_summaries(SUMMARY, other) == []


def test_a_run_that_was_stacked_is_said_to_be() -> None:
    assert list(changes({"stacked": 5}, {})) == ["trained with 4 others (detector ablate --stack) -> alone"]
    assert not list(changes({}, {}))
