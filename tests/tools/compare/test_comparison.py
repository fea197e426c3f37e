"""What is compared with what, what is refused, and that the tables say the same in every format."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from detector.cli import main
from detector.errors import UserError
from detector.tools.compare import table
from detector.tools.compare.comparison import Comparison, compare
from detector.tools.compare.metrics import METRICS
from detector.tools.compare.runs import load_runs
from detector.tools.compare.sheets import sheets

Make = Callable[..., Path]
V, MAP = "gradient/vanishing_index_init", "train/mAP50-95"


def folder(make_run: Make, *ablations: tuple[str, dict[str, object]], seeds: int = 3) -> Path:
    path = Path()
    for number, (name, changes) in enumerate(ablations):
        for seed in range(seeds):
            path = make_run(name, seed, v=number + 0.1 * seed, train_map=0.9 - 0.2 * number, **changes)
    return path.parent


def compared(path: Path, **options: object) -> Comparison:
    return compare(*load_runs([path]), **options)  # type: ignore[arg-type]


def test_groups_differences_and_what_was_changed(make_run: Make) -> None:
    c = compared(folder(make_run, ("stripped", {"model.norm": "none"}), ("baseline", {})))
    assert [group.label for group in c.groups] == ["baseline", "stripped"]
    assert c.groups[1].changes == ("model.norm=none",)
    assert c.baseline.estimates[V].mean == pytest.approx(1.1)
    d = c.groups[1].differences[V]
    # Paired, the seeds' own differences cancel: exactly -1 each time.
    assert (d.n, d.mean, d.sd, d.p) == (3, pytest.approx(-1), pytest.approx(0), 0.25)
    assert c.baseline.differences == {}
    assert any("3 pair(s) can give is 0.25" in note for note in c.notes)
    assert any("memorisation" in note for note in c.notes)


def test_holm_counts_the_ablations(make_run: Make) -> None:
    others = [(f"a{n}", {"train.lr": 0.1 + n}) for n in range(3)]
    c = compared(folder(make_run, ("baseline", {}), *others, seeds=6))
    assert [group.differences[V].p for group in c.groups[1:]] == [2 / 64] * 3
    assert [group.differences[V].p_holm for group in c.groups[1:]] == [6 / 64] * 3
    assert any("fewer than 9 pairs claim no test" in note for note in c.notes)
    (seeds,) = [note for note in c.notes if note.startswith("n = ")]
    assert seeds.startswith("n = 6 seeds a row; it takes 5 to describe") and "fewer" not in seeds


def test_seeds_are_paired_by_number(make_run: Make) -> None:
    for seed in (0, 1, 2):
        make_run("baseline", seed, v=seed)
    path = make_run("other", 2, v=5.0, **{"model.norm": "none"})
    d = compared(path.parent).groups[1].differences[V]
    assert (d.n, d.mean) == (1, 3.0)


def test_a_baseline_can_be_chosen(make_run: Make) -> None:
    path = folder(make_run, ("baseline", {}), ("b", {"model.norm": "none"}))
    assert compared(path, baseline="b").baseline.label == "b"
    with pytest.raises(UserError, match="--baseline c: no such ablation among b, baseline"):
        compared(path, baseline="c")


def test_one_name_for_two_configurations_is_two_groups(make_run: Make) -> None:
    make_run("baseline", 0)
    path = make_run("baseline", 1, folder="faster", **{"train.lr": 0.5})
    assert [g.label for g in compared(path.parent).groups] == ["baseline", "baseline [train.lr=0.5]"]


def given(*paths: Path, **options: object) -> Comparison:
    return compare(*load_runs(paths), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("changed_first", [True, False])
def test_of_one_name_the_nearest_to_its_defaults_is_the_reference(
    make_run: Make, changed_first: bool
) -> None:
    """A run with a change that was typed is called as the baseline is."""
    plain = make_run("baseline", v=0.5)
    changed = make_run("baseline", v=0.9, folder="a_block", **{"model.block": "bottleneck"})
    order = (changed, plain) if changed_first else (plain, changed)
    c = given(*order)
    assert [group.label for group in c.groups] == ["baseline", "baseline [model.block=bottleneck]"]
    assert c.baseline.runs[0].directory == plain
    assert c.groups[1].changes == ("model.block=bottleneck",)
    assert c.groups[1].differences[V].mean == pytest.approx(0.4)
    says = "baseline is baseline-s0, which changes the fewest keys of configs/coco8.yaml."
    assert any(says in note for note in c.notes)
    assert says in " ".join(printed(c, 80).split())
    assert not any("share a name" in note for note in given(plain).notes)


@pytest.mark.parametrize("changed_first", [True, False])
def test_the_defaults_of_an_ablation_are_its_own_file_s(make_run: Make, changed_first: bool) -> None:
    """`--ablation no_residual model.shortcut=residual` is the baseline, and yet not what no_residual is."""
    plain = make_run("no_residual", **{"model.shortcut": "none"})
    undone = make_run("no_residual", folder="undone")
    c = given(*((undone, plain) if changed_first else (plain, undone)))
    assert [group.label for group in c.groups] == ["no_residual", "no_residual [model.shortcut=residual]"]
    assert any("the fewest keys of ablations/no_residual.yaml" in note for note in c.notes)


def test_where_none_is_nearer_the_first_given_is_the_reference(make_run: Make) -> None:
    one = make_run("baseline", folder="one", **{"train.lr": 0.1})
    two = make_run("baseline", folder="two", **{"train.lr": 0.2})
    for runs, label, first in ((one, two), "baseline [train.lr=0.2]", "one"), (
        (two, one), "baseline [train.lr=0.1]", "two",
    ):  # fmt: skip
        c = given(*runs)
        assert [group.label for group in c.groups] == ["baseline", label]
        assert any(f"baseline is {first}, the first given of those" in note for note in c.notes)


def test_of_another_training_loop_no_defaults_are_known(make_run: Make) -> None:
    first = make_run("net", folder="one", **{"train.lr": 0.1})
    second = make_run("net", folder="two")
    for run in (first, second):
        with (run / "config.yaml").open("a") as file:
            file.write("watch: {model: Net}\n")
    c = given(first, second)
    assert [group.label for group in c.groups] == ["net", "net [train.lr=0.02]"]
    assert any("net is one, the first that was given" in note for note in c.notes)


@pytest.mark.parametrize("name", ["../configs/coco8", "/etc/passwd", "a" * 500, "x\x00y", "coco8.yaml/"])
def test_a_name_that_is_any_text_is_no_file_s(make_run: Make, name: str) -> None:
    changed = make_run(name, folder="changed", **{"train.lr": 0.1})
    plain = make_run(name, folder="plain")
    c = given(changed, plain)
    assert c.groups[0].runs[0].directory == plain
    assert any("plain, which changes the fewest keys of configs/coco8.yaml" in note for note in c.notes)


def test_a_baseline_can_be_the_directory_of_a_run(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_run("baseline")
    changed = make_run("baseline", folder="a_block", **{"model.block": "bottleneck"})
    again, other = plain.with_name("again"), make_run("other", **{"train.lr": 0.1})
    shutil.copytree(plain, again)
    monkeypatch.chdir(plain.parents[1])
    for wanted in (str(changed), "runs/a_block", "runs/a_block/", "runs/../runs/a_block"):
        c = given(plain, changed, baseline=wanted)
        assert c.baseline.label == "baseline [model.block=bottleneck]"
        assert [group.label for group in c.others] == ["baseline"]
        assert c.others[0].changes == ("model.block=basic",)
    assert main(["compare", "runs/a_block", "runs/baseline-s0", "--baseline", "runs/baseline-s0"]) == 0
    assert "Difference from baseline, paired" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"runs/other-s0: no such ablation among .*; nor is it the directory"):
        given(plain, changed, baseline="runs/other-s0")
    with pytest.raises(UserError, match=r"runs/again: is left out: the same ablation, .* as baseline-s0"):
        given(plain, again, other, baseline="runs/again")
    for odd in ("x\x00y", "a" * 5000, ""):
        with pytest.raises(UserError, match="no such ablation"):
            given(plain, changed, baseline=odd)


@pytest.mark.parametrize(
    ("changes", "summary", "named"),
    [
        ({"data.image_size": 96}, {}, "image size: 64 px (1: baseline-s0) and 96 px (1: other-s0)"),
        ({"train.steps": 30}, {}, "length: 20 steps (1: baseline-s0) and 30 steps (1: other-s0)"),
        ({}, {"data_fingerprint": "b" * 64}, "data: coco8 aaaaaaaa (1: baseline-s0) and coco8 bbbbbbbb"),
    ],
)
def test_different_data_sizes_and_lengths_are_refused(
    make_run: Make,
    changes: dict[str, object],
    summary: dict[str, object],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run()
    path = str(make_run("other", summary=summary, **changes).parent)
    assert main(["compare", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert "--allow-mixed" in captured.err
    assert len(captured.err.strip().splitlines()) <= 2
    assert main(["compare", path, "--allow-mixed"]) == 0
    assert "Not comparable, and compared all the same" in capsys.readouterr().out


def test_runs_that_are_comparable_are_named_ready_to_type(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that holds a trial of another length, as one's own `runs` soon does."""
    for name in ("baseline", "other"):
        make_run(name, **({} if name == "baseline" else {"train.lr": 0.1}))
    trial = make_run("trial", steps=5)
    monkeypatch.chdir(trial.parents[1])
    assert main(["compare", "runs"]) == 2
    typed = re.search(r"such as these 2: (.*);", capsys.readouterr().err)
    assert typed is not None and typed[1] == "runs/baseline-s0 runs/other-s0"
    assert main(["compare", *typed[1].split()]) == 0


def test_an_unfinished_run_on_other_data_is_refused_by_name(make_run: Make) -> None:
    make_run()
    path = make_run("other", **{"data.path": "datasets/shapes.yaml"})
    (path / "summary.json").unlink()
    with pytest.raises(UserError, match="shapes"):
        compared(path.parent)


def test_an_unfinished_run_joins_its_ablation(make_run: Make) -> None:
    make_run("baseline", 0)
    path = make_run("baseline", 1)
    (path / "summary.json").unlink()
    c = compared(path.parent)
    assert [len(group.runs) for group in c.groups] == [2]
    assert (c.baseline.estimates[V].n, c.baseline.estimates[MAP].n) == (2, 1)
    assert any("could not be verified" in note for note in c.notes)
    assert any(line.startswith("baseline-s1: unfinished") for line in table.remarks(c))


def cube(make_run: Make, factors: int) -> Path:
    path = Path()
    for levels in itertools.product((0, 1), repeat=factors):
        shortcut, norm, act = (*levels, 0)[:3]
        changes = {
            "model.shortcut": ("residual", "none")[shortcut],
            "model.norm": ("batch", "none")[norm],
            "model.act": ("silu", "sigmoid")[act],
        }
        for seed in range(3):
            v = 1 + 2 * shortcut - 4 * norm + 8 * act + 16 * shortcut * norm + 0.01 * seed
            name = "baseline" if not any(levels) else f"cell{''.join(map(str, levels))}"
            path = make_run(name, seed, v=v, **changes)
    return path.parent


def test_a_full_factorial_is_recognised(make_run: Make) -> None:
    design = compared(cube(make_run, 3)).factorial
    assert design is not None
    assert len(design.factors) == 3
    effects = design.effects[V]
    # y = … + 16·s·n: s alone moves 2 without n and 18 with it, 10 on average; the interaction is half of 16.
    assert {design.name(f): round(e.mean, 6) for f, e in effects.items()} == {
        "shortcut": 10,
        "batch norm": 4,
        "SiLU (→ sigmoid)": 8,
        "shortcut × batch norm": 8,
        "shortcut × SiLU (→ sigmoid)": 0,
        "batch norm × SiLU (→ sigmoid)": 0,
        "shortcut × batch norm × SiLU (→ sigmoid)": 0,
    }
    assert all(e.n == 3 for e in effects.values())


def test_the_largest_factorial_among_the_runs_is_taken(make_run: Make) -> None:
    make_run("odd", 0, **{"model.act": "relu"})
    make_run("plain_sigmoid", 0, **{"model.act": "sigmoid", "model.norm": "none", "model.shortcut": "none"})
    design = compared(cube(make_run, 2)).factorial
    assert design is not None
    assert design.factors == ("model.shortcut", "model.norm")
    assert design.fixed == {"model.act": "silu"}


def test_three_cells_are_no_factorial(make_run: Make) -> None:
    path = folder(
        make_run, ("baseline", {}), ("a", {"model.norm": "none"}), ("b", {"model.shortcut": "none"})
    )
    assert compared(path).factorial is None


def test_a_diverged_run_is_counted_where_it_has_numbers(make_run: Make) -> None:
    make_run("baseline", 0)
    broken = {"status": "diverged", "gradient/vanishing_index": "NaN", "train/loss": "NaN"}
    path = make_run("baseline", 1, summary=broken)
    c = compared(path.parent)
    assert (c.baseline.estimates[MAP].n, c.baseline.estimates["train/loss"].n) == (2, 1)
    assert any("1 run(s) diverged" in note for note in c.notes)
    assert "1 of 2 runs" in table.markdown(c)


def test_what_the_data_says_about_the_score(make_run: Make) -> None:
    key = "val/mAP50-95"
    kinds = {"empty": "no-objects", "same": "same-images", "other": "tiny"}
    for name, kind in kinds.items():
        summary = {"data/warnings": {kind: 1}} | ({key: "NaN"} if name == "empty" else {})
        path = make_run(name, summary=summary, **{"model.act": name})
        rows = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
        if name == "empty":
            lines = [json.dumps(row | {key: "NaN"} if key in row else row) for row in rows]
            (path / "history.jsonl").write_text("\n".join(lines) + "\n")
    make_run("stopped", summary={"status": "stopped"}, **{"model.act": "x"})
    c = compared(path.parent)
    remarks = table.remarks(c)
    assert "val holds the images of train, and its mAP is memorisation: same-s0." in remarks
    assert "train or val shows no object at all, and has no mAP: empty-s0." in remarks
    assert not any("finite" in line for line in remarks)
    cells = {line.split("|")[1].split("<br>")[0].strip(): line for line in table.markdown(c).splitlines()
             if line.startswith("|")}  # fmt: skip
    assert [name for name, line in cells.items() if "no objects" in line] == ["empty"]
    console = Console(file=io.StringIO(), width=80)
    table.print_console(c, console)
    assert "no objects" in console.file.getvalue()  # type: ignore[attr-defined]


def test_csv_holds_every_number_unrounded(make_run: Make) -> None:
    c = compared(cube(make_run, 2))
    rows = list(csv.DictReader(io.StringIO(table.csv_text(c))))
    measured = {(r["name"], r["metric"]): r for r in rows if r["kind"] == "measured"}
    assert len(measured) == len(c.groups) * len(METRICS)
    assert float(measured["cell01", V]["mean"]) == c.groups[1].estimates[V].mean
    difference = next(r for r in rows if r["kind"] == "difference" and r["metric"] == V)
    assert float(difference["p_sign_flip"]) == 0.25
    assert sum(r["kind"] == "effect" for r in rows) == 3 * 5


def test_hostile_names_stay_text_in_every_format(make_run: Make) -> None:
    make_run()
    path = make_run('=1+1|[red]<b>"\\$&%_{~^#\x1b[31m', folder="bad", **{"model.norm": "none"})
    c = compared(path.parent)
    name = c.groups[1].label
    assert name.isprintable()
    rows = list(csv.reader(io.StringIO(table.csv_text(c))))
    assert all(row[1].startswith("'=") for row in rows[1:] if row[1] != "baseline")
    console = Console(file=io.StringIO(), width=300)
    table.print_console(c, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]" in printed
    assert "\x1b[31m" not in printed
    lines = [line for line in table.markdown(c).splitlines() if line.startswith("|")]
    cells = {line.replace("\\|", "").count("|") for line in lines[: len(c.groups) + 2]}
    assert len(cells) == 1
    assert "<b>" not in table.markdown(c)
    body = [line for line in table.latex(c).splitlines() if not line.startswith("%")]
    for line in body:
        assert not re.search(r"(?<!\\)[%#_]", line), line
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0, line


@pytest.mark.slow
def test_the_command_writes_what_it_is_asked_for(
    make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folder(make_run, ("baseline", {}), ("b", {"model.norm": "none"}))
    targets = {name: tmp_path / f"out.{name}" for name in ("html", "csv", "latex", "markdown")}
    arguments = [text for name, path in targets.items() for text in (f"--{name}", str(path))]
    assert main(["compare", str(runs), *arguments]) == 0
    assert "What was measured" in capsys.readouterr().out
    assert all(path.stat().st_size > 200 for path in targets.values())
    assert main(["compare", str(runs), "--markdown", "-"]) == 0
    assert capsys.readouterr().out == targets["markdown"].read_text()
    assert main(["compare", str(runs), "--csv", str(tmp_path / "no" / "where.csv")]) == 2
    assert "where.csv: cannot be written" in capsys.readouterr().err


def test_what_is_left_out_is_printed(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    bad = make_run("bad")
    (bad / "config.yaml").write_text("]")
    assert main(["compare", str(bad.parent)]) == 0
    assert "left out: bad-s0: what it was trained on is unknown" in capsys.readouterr().out


def test_the_order_of_a_suite_is_kept(make_run: Make) -> None:
    path = folder(make_run, ("baseline", {}), ("a", {"model.norm": "none"}), ("b", {"model.act": "relu"}))
    assert [group.label for group in compared(path).groups] == ["baseline", "a", "b"]
    (path / "suite.json").write_text(json.dumps({"suite": "ladder", "cells": ["b", "a", "baseline"]}))
    c = compared(path)
    assert [group.label for group in c.groups] == ["b", "a", "baseline"]
    assert (c.baseline.label, [group.label for group in c.others]) == ("baseline", ["b", "a"])
    assert c.groups[0].differences[V].mean == pytest.approx(2)
    rows = [line.split()[0] for line in printed(c, 200).splitlines() if re.match(r"(baseline|a|b) ", line)]
    assert rows == ["b", "a", "baseline", "b", "a"]
    for broken in ("{", "[]", '{"cells": 3}', '{"cells": [["b"], {}, 4]}', "[" * 100_000):
        (path / "suite.json").write_text(broken)
        assert {group.label for group in compared(path).groups} == {"baseline", "a", "b"}


def printed(c: Comparison, width: int, **options: bool) -> str:
    console = Console(file=io.StringIO(), width=width)
    table.print_console(c, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [80, 120])
def test_a_row_is_one_line_of_the_terminal(make_run: Make, width: int) -> None:
    c = compared(cube(make_run, 3))
    lines = printed(c, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)  # nothing is cut off
    rows = {line.split()[0]: line for line in lines[: lines.index("")]}
    assert list(rows) == ["What", "ablation", *(group.label for group in c.groups)]
    for group in c.groups:
        e = group.estimates[V]
        mean = f"{e.mean:+.2f}".replace("-", "−")
        assert (f"{mean} ± {e.sd:.2f}" if width == 120 else f" {mean} ") in rows[group.label]
        assert " healthy " in rows[group.label]
    assert sum(line.startswith("shortcut × ") for line in lines) == 3
    assert "--wide" in "".join(lines)


def test_wide_has_every_column_and_interval(make_run: Make) -> None:
    c = compared(cube(make_run, 2))
    text = printed(c, 80, wide=True)
    for column in (*(metric.label for metric in METRICS), "verdict at init, late"):
        assert column in text
    e = c.groups[0].estimates[V]
    assert f"[{e.low:+.2f}, {e.high:+.2f}]".replace("-", "−") in text
    assert "the same in all 3" in text  # of a difference whose interval would have no width
    assert "p 0.25, Holm 0.75" in text
    assert "…" not in text


def test_a_long_name_gives_way_to_the_numbers(make_run: Make) -> None:
    c = compared(folder(make_run, ("baseline", {}), ("n" * 60, {"model.norm": "none"})))
    lines = printed(c, 80).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines[: lines.index("")] if line.startswith("nnn")]
    assert "…" in row
    assert row.split()[-4:] == ["+1.10", "+1.00", "0.700", "0.000"]


def test_simple_effects_come_before_the_averages_that_hide_them(make_run: Make) -> None:
    c = compared(cube(make_run, 3))
    titles = [sheet.title for sheet in sheets(c)]
    assert titles[2].startswith("Simple effects: one component stripped from ")
    assert titles[3].startswith("Factorial effects") and "n = 3 seeds" in titles[3]
    assert c.factorial is not None
    # y = … + 16·s·n: stripping the shortcut alone moves 2, on average over the batch norm it is 10.
    assert round(c.factorial.simple[V][0].mean, 6) == 2
    assert c.factorial.simple[V][0].n == 3
    assert any("fewer than 5, the numbers are examples only" in note for note in c.notes)


@pytest.mark.parametrize(("seeds", "wide"), [(1, True), (2, True), (2, False)])
def test_brackets_are_explained_where_they_are_shown(make_run: Make, seeds: int, wide: bool) -> None:
    c = compared(folder(make_run, ("baseline", {}), ("a", {"train.lr": 0.1}), seeds=seeds))
    console = Console(file=io.StringIO(), width=200)
    table.print_console(c, console, wide=wide)
    tables, _, remarks = console.file.getvalue().partition("· ")
    assert (re.search(r"\[[-+]?\d", tables) is not None) == (seeds > 1 and wide) == ("Brackets" in remarks)
    assert f"n = {seeds} seed{'s' * (seeds > 1)} a row" in remarks


def test_floors_and_ceilings_are_named_instead_of_intervals_without_width(make_run: Make) -> None:
    for name, level, changes in (("baseline", 0.997, {}), ("dead", 0.001, {"model.norm": "none"})):
        for seed in range(3):
            path = make_run(name, seed, v=0.1 * seed, train_map=level + 0.001 * seed, **changes)
    c = compared(path.parent)
    assert [group.estimates[MAP].edge for group in c.groups] == ["ceiling", "floor"]
    assert c.groups[1].differences[MAP].edge == ""  # from one end to the other is a difference
    text = printed(c, 80, wide=True)
    assert "at the ceiling" in text and "at the floor" in text
    assert any("train mAP50-95 is at its floor in 1 of 2 rows (dead)" in note for note in c.notes)
    assert not any(note.startswith("V ") for note in c.notes)  # it has no bounds


def test_a_terminal_names_a_few_and_says_where_the_rest_is(make_run: Make) -> None:
    names = [f"dead{at}" for at in range(5)]
    for at, name in enumerate(names):
        path = make_run(name, v=0.1, train_map=0.001, **{"train.lr": 0.1 + at})
    c = compared(path.parent)
    (whole,) = (note for note in c.notes if note.startswith("train mAP50-95 is at its floor"))
    assert all(name in whole for name in names)  # in files
    flat = " ".join(printed(c, 80).split())
    assert "is at its floor in 5 of 5 rows (dead0, dead1 and 3 more, see --wide)" in flat
    assert whole in " ".join(printed(c, 80, wide=True).split())
    _, *rest = printed(c, 80)[printed(c, 80).index("· With --wide") :].splitlines()
    assert all(line.startswith(("· ", "  ")) and len(line) <= 80 for line in rest)


def test_loss_and_seconds_have_no_interval_below_zero(make_run: Make) -> None:
    for seed in range(2):
        path = make_run("baseline", seed, summary={"train/loss": 0.1 + seed, "seconds": 1.0 + 50 * seed})
    for key in ("train/loss", "seconds"):
        e = compared(path.parent).baseline.estimates[key]
        assert e.low == 0 < e.mean < e.high


def test_a_run_of_its_own_is_fine(make_run: Make) -> None:
    c = compared(make_run())
    assert len(sheets(c)) == 1
    assert math.isnan(c.baseline.estimates[V].low)
    assert json.dumps(table.csv_text(c))


def test_a_metric_of_one_s_own_is_compared_wherever_it_was_measured(make_run: Make) -> None:
    for seed in range(3):
        make_run("baseline", seed, summary={"train/recall": 0.9, "val/recall": 0.5 + 0.1 * seed})
        own = {"train/recall": 0.8, "val/recall": 0.4 + 0.1 * seed, "val/mAP50": 0.3}
        make_run("stripped", seed, summary=own, **{"model.norm": "none"})
        path = make_run("before", seed, **{"model.act": "relu"})  # trained before there was the metric
    c = compared(path.parent)
    assert [metric.key for metric in c.metrics[len(METRICS) :]] == ["train/recall", "val/recall"]
    groups = {group.label: group for group in c.groups}
    assert groups["baseline"].estimates["val/recall"].mean == pytest.approx(0.6)
    assert groups["stripped"].differences["val/recall"].mean == pytest.approx(-0.1)
    assert groups["before"].estimates["val/recall"].n == 0
    for text in (table.csv_text(c), table.markdown(c), table.latex(c)):
        assert "recall" in text
    console = Console(file=io.StringIO(), width=200)
    table.print_console(c, console)
    assert "val recall" in console.file.getvalue()  # type: ignore[attr-defined]


def test_of_a_stranger_s_metrics_only_words_are_taken_and_not_too_many(make_run: Make) -> None:
    odd = {"val/<script>": 0.1, "val/": 0.2, "val/a b": 0.3, "val/text": "high"}
    many = {f"val/m{at}": 0.5 for at in range(100)}
    c = compared(make_run("baseline", 0, summary=odd | many).parent)
    own = c.metrics[len(METRICS) :]
    assert [metric.key for metric in own[:2]] == ["val/text", "val/m0"]
    assert len(own) == 20
    assert math.isnan(c.baseline.estimates["val/text"].mean)
