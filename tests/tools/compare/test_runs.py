"""Run directories as they are found: compared with their state named, or left out with the reason."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.errors import UserError
from detector.loggers.jsonl import JsonlLogger
from detector.rundir import RunDir
from detector.tools.compare.comparison import compare
from detector.tools.compare.history import MAX_ROWS, thin
from detector.tools.compare.runs import KEYS, LeftOut, Run, load_runs

Make = Callable[..., Path]


def only(directory: Path) -> Run:
    runs, out = load_runs([directory])
    assert not out
    return runs[0]


def left_out(good: Path, bad: Path) -> LeftOut:
    runs, out = load_runs([good, bad])
    assert [run.directory for run in runs] == [good]
    (item,) = out
    assert item.directory == bad
    return item


def test_a_sound_run(make_run: Make) -> None:
    run = only(make_run(v=-1.5, late=0.25))
    assert (run.name, run.seed, run.state, run.notes) == ("baseline", 0, "finished", ())
    assert run.values[KEYS[0]] == -1.5
    assert run.curves.steps == (0, 5, 10, 15, 19)
    assert run.curves.layers[0] == "00_stem"
    assert run.curves.profiles["activation_grad"][0, 0] == pytest.approx(10**-1.5)


def test_a_folder_of_runs_and_the_same_run_named_twice(make_run: Make) -> None:
    one, two = make_run(seed=0), make_run(seed=1)
    (one.parent / "notes").mkdir()
    runs, out = load_runs([one.parent, two, one.parent / ".." / "runs"])
    assert ([run.seed for run in runs], out) == ([0, 1], [])


def test_a_copy_is_not_another_sample(make_run: Make) -> None:
    run = make_run()
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    (run / "summary.json").unlink()  # the finished one is kept, whatever the order
    item = load_runs([run, copy])[1]
    assert item[0].directory == run
    assert "same ablation, configuration and seed as copy" in item[0].reason


def test_unfinished_runs_keep_what_was_measured_at_the_start(make_run: Make) -> None:
    directory = make_run(v=-2.0)
    (directory / "summary.json").unlink()
    run = only(directory)
    assert run.state == "unfinished"
    assert run.values[KEYS[0]] == -2.0
    assert all(math.isnan(run.values[key]) for key in KEYS[1:])
    assert run.verdicts == ("vanishing", None)
    assert "no summary.json" in run.notes[0]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00\xff", '{"a": ' * 5000, "null"])
def test_an_invalid_summary_is_named(make_run: Make, text: str) -> None:
    directory = make_run()
    (directory / "summary.json").write_text(text, encoding="latin-1")
    run = only(directory)
    assert run.state == "unfinished"
    assert "summary.json" in run.notes[0]


def test_a_summary_of_another_version(make_run: Make) -> None:
    directory = make_run()
    summary = json.loads((directory / "summary.json").read_text())
    del summary["status"], summary["gradient/vanishing_index"]
    summary |= {"train/loss": [1], "seconds": "soon", "seed": 7, "ablation": None, "commit": 3}
    (directory / "summary.json").write_text(json.dumps(summary))
    run = only(directory)
    assert run.state == "stopped"
    assert "another version" in run.notes[0]
    assert "gradient/vanishing_index, status" in run.notes[0]
    assert "seed 7" in run.notes[1]
    assert (run.name, run.seed) == ("baseline", 0)


def test_a_torn_history(make_run: Make) -> None:
    directory = make_run()
    path = directory / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    run = only(directory)
    assert run.curves.steps == (0, 5, 10, 15)
    assert any("torn" in note for note in run.notes)


def test_a_history_cut_short_of_its_summary(make_run: Make) -> None:
    directory = make_run(steps=40)
    path = directory / "history.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "ends at step 10 of 40" in only(directory).notes[0]


def test_bad_lines_are_counted_and_the_rest_is_read(make_run: Make) -> None:
    directory = make_run()
    path = directory / "history.jsonl"
    lines = path.read_text().splitlines()
    lines[1:1] = ["not json", "[]", '{"step": "two"}', '{"step": 0}', '{"step": -1}', "{" * 9999, "\x00"]
    path.write_text("\n".join(lines) + "\n")
    run = only(directory)
    assert run.curves.steps == (0, 5, 10, 15, 19)
    assert run.notes == ("7 line(s) of its history are not rows in order, and left out: 2, 3, 4, …",)


def test_numbers_that_are_not_finite_are_gaps(tmp_path: Path, make_run: Make) -> None:
    directory = make_run(
        summary={"status": "diverged", "train/loss": "NaN", "gradient/vanishing_index": "NaN"}
    )
    (directory / "history.jsonl").unlink()
    logger = JsonlLogger(RunDir(directory))  # the real writer's spelling
    for step, norm in enumerate([1.0, math.nan, math.inf]):
        logger.log({"step": step, "train/loss": norm, "activation_grad/00_stem": norm})
    logger.close()
    with (directory / "history.jsonl").open("a") as file:
        file.write(
            '{"step": 3, "train/loss": NaN, "activation_grad/00_stem": null, "note": "x"}\n'
        )  # another's
    run = only(directory)
    assert run.state == "diverged"
    assert "3 row(s) of its history hold numbers that are not finite, from step 1" in run.notes
    steps, loss = run.curves.series["train/loss"]
    assert steps == (0, 1, 2, 3)
    assert [math.isfinite(value) for value in loss] == [True, False, False, False]
    assert math.isnan(run.values["seconds"])
    assert run.values["train/mAP50-95"] == 0.9


def test_no_history_leaves_the_table(make_run: Make) -> None:
    directory = make_run()
    (directory / "history.jsonl").unlink()
    run = only(directory)
    assert (run.state, run.curves.steps) == ("finished", ())
    assert "no curves" in run.notes[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file"),
        ("a: [", "config.yaml:1"),
        ("just text", "no usable data.image_size, train.seed"),
        ("data: {image_size: big}\ntrain: {seed: 0}", "no usable data.image_size"),
    ],
)
def test_without_a_configuration_a_run_is_left_out(make_run: Make, text: str | None, reason: str) -> None:
    good, bad = make_run(), make_run("other")
    (bad / "config.yaml").unlink()
    if text is not None:
        (bad / "config.yaml").write_text(text)
    assert reason in left_out(good, bad).reason


def test_a_run_that_recorded_nothing_is_left_out(make_run: Make) -> None:
    good, bad = make_run(), make_run("other")
    (bad / "summary.json").unlink()
    (bad / "history.jsonl").write_text("")
    assert "nothing was recorded" in left_out(good, bad).reason


def test_a_directory_in_place_of_a_file(make_run: Make) -> None:
    directory = make_run()
    for name in ("history.jsonl", "summary.json"):
        (directory / name).unlink()
        (directory / name).mkdir()
    good = make_run("other")
    assert "nothing was recorded" in left_out(good, directory).reason


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"step": 0}]', "nonsense", '[{"step": []}]', "7"])
def test_an_odd_ledger_is_left_out_and_named(make_run: Make, text: str) -> None:
    directory = make_run()
    (directory / "ledger.json").write_text(text)
    run = only(directory)
    assert run.ledger == ()
    assert text == "{}" or "ledger.json" in run.notes[0]


def test_a_ledger_is_read(make_run: Make) -> None:
    directory = make_run()
    entry = {"step": 0, "block": "04_p3.0", "operation": "a.act", "layer": "SiLU", "factor": 0.1}
    (directory / "ledger.json").write_text(json.dumps([entry, entry | {"factor": "NaN"}]))
    ledger = only(directory).ledger
    assert (ledger[0].operation, ledger[0].factor) == ("a.act (SiLU)", 0.1)
    assert math.isnan(ledger[1].factor)


def test_nothing_to_compare_is_a_mistake(tmp_path: Path, make_run: Make) -> None:
    with pytest.raises(UserError, match="no such directory"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"nor a folder of them: .*; a run leaves them: python"):
        load_runs([tmp_path])
    run = make_run()
    with pytest.raises(UserError, match=f"did you mean {run.parent}\\?$"):  # they are one folder further down
        load_runs([tmp_path])
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="no run to compare"):
        load_runs([tmp_path / "runs"])


def test_thinning_keeps_both_ends(tmp_path: Path) -> None:
    for count in (0, 1, 5, 99, 100, 101, 2000):
        kept = thin(count, MAX_ROWS)
        assert len(kept) == min(count, MAX_ROWS)
        assert not count or (kept[0], kept[-1]) == (0, count - 1)


def test_only_whole_rows_are_rows(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.history_file.write_text('{"step": 0, "a": 1.5}\n{"step": 1, "a": 2')
    rows, notes = run.scan_history()
    assert rows == [{"step": 0, "a": 1.5}]
    assert len(notes) == 1


def test_patience_is_not_another_ablation(make_run: Make) -> None:
    """A run with a raised timeout, and one from before there were timeouts, are seeds of one ablation."""
    directories = [make_run(seed=0), make_run(seed=1, **{"train.timeout": 900, "data.timeout": 900})]
    runs, out = load_runs(directories)
    assert not out
    assert [group.label for group in compare(runs).groups] == ["baseline"]
    assert runs[0].identity == runs[1].identity


def test_a_key_that_came_later_groups_with_its_default_only(make_run: Make) -> None:
    later = {"train.sync_norms": True}, {"train.sync_norms": False}
    runs, _ = load_runs([make_run(seed=0), *(make_run(seed=1 + n, **more) for n, more in enumerate(later))])
    assert [len(group.runs) for group in compare(runs).groups] == [2, 1]
