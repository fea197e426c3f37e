"""The pictures of a run: written for every history there can be, and showing what it says."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.config.schema import ModelConfig
from detector.loggers import plot_logger as plot_logger
from detector.loggers import plots
from detector.loggers.plots import write_plots
from detector.rows import Key
from detector.rundir import RunDir

Make = Callable[..., list[dict[str, Any]]]
ALL = {"gradient_depth.png", "gradient_curves.png", "weight_gradients.png", "loss_map.png"}


def _names(paths: list[Path]) -> set[str]:
    for path in paths:
        assert cv2.imread(str(path)) is not None, path
    return {path.name for path in paths}


@pytest.mark.slow
def test_a_run_gives_four_pictures(tmp_path: Path, make_history: Make, summary: dict[str, Any]) -> None:
    assert _names(write_plots(make_history(), summary, tmp_path / "plots")) == ALL
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_depth_picture_shows_the_rows(
    make_history: Make, summary: dict[str, Any], blocks: list[str]
) -> None:
    history = make_history()
    figure = plots._depth(history, summary, "run", {})
    assert figure is not None
    (axis,) = figure.axes
    first, last = axis.lines[0], axis.lines[-1]
    assert len(axis.lines) == 6
    assert axis.get_yscale() == "log"
    assert [label.get_text() for label in axis.get_xticklabels()] == blocks
    assert first.get_ydata() == pytest.approx([history[0][f"activation_grad/{block}"] for block in blocks])
    assert last.get_ydata() == pytest.approx([history[-1][f"activation_grad/{block}"] for block in blocks])
    assert "+1.45 decades: exploding" in axis.get_title(loc="left")
    assert "-1.91 decades: vanishing" in axis.get_title(loc="left")


@pytest.mark.parametrize(
    ("layer", "shown"),
    [("04_4.c2f", "04_c2f"), ("00_0.conv", "00_conv"), ("05_6.conv", "05_6.conv"),
     ("07_p3.4", "07_p3.4"), ("00_stem", "00_stem"), ("mine", "mine")],
)  # fmt: skip
def test_a_layer_s_number_is_shown_once(layer: str, shown: str) -> None:
    assert plots.tick(layer) == shown


def test_what_was_recorded_inside_has_a_picture_of_its_own(
    make_history: Make, summary: dict[str, Any]
) -> None:
    history = make_history()
    assert plots._depth(history, summary, "run", {}, Key.POINT_ACTIVATION_GRAD) is None
    inside = [f"{at:03d}_model.{at}" for at in range(120)]
    for row in history:
        row |= {f"point_activation_grad/{name}": 10.0**-at for at, name in enumerate(inside)}
    figure = plots._depth(history, summary, "run", {}, Key.POINT_ACTIVATION_GRAD)
    assert figure is not None
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == inside
    assert list(axis.lines[0].get_ydata())[:3] == pytest.approx([1, 0.1, 0.01])


def test_theory_is_drawn_over_the_first_step(
    make_history: Make, summary: dict[str, Any], blocks: list[str], tmp_path: Path
) -> None:
    history = make_history()
    figure = plots._depth(history, summary, "run", {block: 2.0**-at for at, block in enumerate(blocks)})
    assert figure is not None
    line = figure.axes[0].lines[-1]
    assert line.get_label() == "theory at init"
    assert line.get_ydata() == pytest.approx([2.0**-at for at in range(len(blocks))])
    other = plots._depth(history, summary, "run", {"00_other": 1.0})  # another network's
    assert other is not None
    assert len(other.axes[0].lines) == 6


def test_a_run_is_drawn_with_the_theory_of_its_model(
    make_history: Make, summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is anchored at the measured ends of the stages, so there the two agree."""
    given: list[Any] = []
    monkeypatch.setattr(plot_logger, "write_plots", lambda *arguments: given.append(arguments))
    history = make_history()
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    plot_logger.PlotLogger(RunDir(tmp_path), ModelConfig(shortcut="none")).finish(summary, None)
    expected = given[0][3]
    for end in ("14_p3.9", "19_p4.3", "22_p5.1"):
        assert expected[end] == pytest.approx(history[0][f"activation_grad/{end}"])
    assert expected["03_p2.1"] > expected["14_p3.9"]  # without shortcuts the gradient grows towards the image


def test_the_curves_are_by_depth_with_the_index_below(make_history: Make, blocks: list[str]) -> None:
    history = make_history()
    figure = plots._curves(history, "run", Key.ACTIVATION_GRAD)
    assert figure is not None
    upper, lower = figure.axes[:2]
    assert len(upper.lines) == len(blocks)
    assert [text.get_text() for text in lower.texts] == ["vanishing", "healthy", "exploding"]
    assert lower.lines[-1].get_ydata() == pytest.approx([row["gradient/vanishing_index"] for row in history])


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [math.nan, math.inf, 0.0, 1e-300, None, "text"])
def test_values_gone_wrong(tmp_path: Path, make_history: Make, spoil: Any) -> None:
    history = make_history()
    for row in history[3:]:
        for key in row.keys() - {"step"}:
            row[key] = spoil
    assert _names(write_plots(history, {}, tmp_path)) == ALL


def test_nothing_but_wrong_values(tmp_path: Path, make_history: Make) -> None:
    history = [dict.fromkeys(row, math.nan) for row in make_history(20)]
    _names(write_plots(history, {"gradient/vanishing_index": math.nan}, tmp_path))


def test_an_underflowed_gradient_is_drawn_at_the_floor(blocks: list[str]) -> None:
    row = {"step": 0} | {f"activation_grad/{block}": 0.0 for block in blocks[:10]}
    row |= {f"activation_grad/{block}": 1.0 for block in blocks[10:]}
    figure = plots._depth([row], {}, "run", {})
    assert figure is not None
    drawn = np.asarray(figure.axes[0].lines[0].get_ydata())
    assert drawn.min() == 1e-40 and drawn.max() == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_short_histories(tmp_path: Path, make_history: Make, summary: dict[str, Any], rows: int) -> None:
    assert _names(write_plots(make_history()[:rows], summary, tmp_path)) == (ALL if rows else set())


def test_keys_that_come_and_go(tmp_path: Path) -> None:
    history = [{"step": 0, "activation_grad/00_a": 1.0}, {"train/loss": 2.0}, {"activation_grad/01_b": 3.0}]
    names = {"gradient_depth.png", "gradient_curves.png", "loss_map.png"}
    assert _names(write_plots(history, {}, tmp_path)) == names


def test_no_line_is_drawn_across_lost_rows(
    tmp_path: Path, make_history: Make, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of a curve ends where the rows end; a single row between two gaps is a point."""
    history = [row for row in make_history(steps=60) if row["step"] not in (10, 15, 25)]
    summary = summary | {"steps_lost": [10, 15, 25]}
    figures: dict[str, Any] = {}
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: figures.update({path.name: figure})
    )
    write_plots(history, summary, tmp_path)
    for name in ("gradient_curves.png", "weight_gradients.png", "loss_map.png"):
        line = figures[name].axes[0].lines[0]
        steps, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert steps[np.isnan(values)].tolist() == [10, 25]
        assert steps[np.isfinite(values)].tolist() == [0, 5, 20, *range(30, 60, 5), 59]
        assert steps[line.get_markevery()].tolist() == [20]
    write_plots(history, summary | {"steps_lost": "odd"}, tmp_path)
    assert np.isfinite(figures["loss_map.png"].axes[0].lines[0].get_ydata()).all()
