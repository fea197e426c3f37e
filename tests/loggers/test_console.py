"""What a human sees: a bar on a terminal, plain lines elsewhere, and a result that explains itself."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detector.loggers.console import ConsoleLogger, verdict_word

Make = Callable[..., list[dict[str, Any]]]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


def _run(history: list[dict[str, Any]], summary: dict[str, Any], stream: io.StringIO) -> tuple[str, str]:
    results = io.StringIO()
    logger = ConsoleLogger(150, progress=stream, results=results)
    for row in history:
        logger.log(row)
    logger.message("a [bracketed] message")
    logger.finish(summary, Path("runs/x/checkpoints/best.pt"))
    logger.close()
    return stream.getvalue(), results.getvalue()


def test_plain_lines_where_there_is_no_terminal(make_history: Make, summary: dict[str, Any]) -> None:
    shown, _ = _run(make_history(), summary, io.StringIO())
    lines = shown.splitlines()
    assert 10 <= len(lines) <= 16
    assert "\x1b" not in shown
    assert all(len(line) <= 80 for line in lines)
    assert re.match(r"step +0/150 loss 3\d\.\d .*V \+1\.45 exploding", lines[0])
    evaluations = [line for line in lines if re.match(r"step +(50|100|149)/150", line)]
    assert len(evaluations) == 3
    assert all("val 0.000" in line and "V " in line for line in evaluations)
    assert lines[-1] == "a [bracketed] message"


def test_a_metric_of_one_s_own_is_in_the_lines_and_the_table(
    make_history: Make, summary: dict[str, Any]
) -> None:
    own = {"train/recall": 0.75, "val/recall": math.nan}
    rows = [row | (own if "val/mAP50-95" in row else {}) for row in make_history()]
    shown, results = _run(rows, summary | own, io.StringIO())
    assert "recall train 0.750 val none" in shown.splitlines()[-2]
    assert "recall" not in shown.splitlines()[0]  # not measured yet
    assert re.search(r"train recall +│ +0\.750 │ on the images trained on", results)
    bar, _ = _run(rows, summary | own, _Terminal())
    assert "recall" not in bar  # no room


def test_a_bar_on_a_terminal(make_history: Make, summary: dict[str, Any]) -> None:
    shown, results = _run(make_history(), summary, _Terminal())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "150/150" in text and "loss" in text and "mAP train 0.500 val 0.000" in text
    assert "\x1b[31mV" in shown  # vanishing is red
    assert "a [bracketed] message" in text
    assert "\x1b" not in results


def test_the_result_explains_itself_in_80_columns(make_history: Make, summary: dict[str, Any]) -> None:
    _, results = _run(make_history(), summary, io.StringIO())
    assert all(len(line) <= 80 for line in results.splitlines())
    for words in ("no_residual · seed 1 · coco8", "memorisation", "+1.45", "-1.91", "vanishing", "1,650,000"):
        assert words in results
    assert "first bad layer" not in results
    assert "runs/x/checkpoints/best.pt" in results


def test_the_network_is_named_and_the_limits_are_those_of_its_layers(
    make_history: Make, summary: dict[str, Any]
) -> None:
    late = {"gradient/decades_per_layer": 0.1}
    _, whole = _run(make_history(), summary | late, io.StringIO())
    assert "from 12 layers on" in " ".join(re.sub("│", " ", whole).split())
    few = {f"activation_grad/{at:02d}_{at}.conv": 1.0 for at in range(11)}
    summary |= late | {"model": "yolo26n.yaml"}
    _, results = _run([{"step": 0, **few}], summary, io.StringIO())
    assert "no_residual · yolo26n.yaml · seed 1" in results
    words = " ".join(re.sub("│", " ", results).split())
    assert "of 11 layers V itself is judged: -1.0 to +1.2 is healthy" in words
    assert "12 layers" not in words


def test_own_data_is_not_called_memorisation(summary: dict[str, Any]) -> None:
    _, results = _run([], summary | {"dataset": "bccd"}, io.StringIO())
    assert "memorisation" not in results and "unseen" in results


def test_a_val_that_is_train_is_called_memorisation(summary: dict[str, Any]) -> None:
    warned = {"dataset": "mine", "data/warnings": {"same-images": 1}}
    _, results = _run([], summary | warned, io.StringIO())
    assert "memorisation: val holds the images of train" in results and "unseen" not in results


def test_the_map_of_a_split_without_objects(summary: dict[str, Any]) -> None:
    shown, results = _run(
        [{"step": 1, "val/mAP50-95": math.nan}], summary | {"val/mAP50-95": math.nan}, io.StringIO()
    )
    assert "val none" in shown and "no objects" in results and "nan" not in shown + results


def test_a_number_that_does_not_exist_is_left_out(make_history: Make) -> None:
    """How far images differ cannot be said of a batch of one."""
    summary = {"steps": 150, "signal/input_dependence": 0.25, "gradient/vanishing_index": 0.5}
    assert "input dependence" in _run(make_history(), summary, io.StringIO())[1]
    _, results = _run(make_history(), summary | {"signal/input_dependence": math.nan}, io.StringIO())
    assert "input dependence" not in results and "nan" not in results


def test_numbers_gone_wrong_are_shown(summary: dict[str, Any]) -> None:
    rows = [{"step": 0, "train/loss": math.nan, "gradient/vanishing_index": math.inf}, {"step": 149}]
    bad = {"train/loss": math.nan, "gradient/verdict": "diverged", "gradient/first_bad_layer": "07_p3.2"}
    shown, results = _run(rows, summary | bad, io.StringIO())
    assert "loss nan" in shown and "diverged" in shown
    assert "07_p3.2" in results and "nan" in results


def test_an_empty_summary_is_no_error() -> None:
    _run([{}], {}, io.StringIO())


@pytest.mark.parametrize("file", [io.StringIO, _Terminal])
def test_closing_without_a_result_leaves_the_terminal_usable(file: Callable[[], io.StringIO]) -> None:
    stream = file()
    logger = ConsoleLogger(10, start_step=5, progress=stream)
    logger.log({"step": 6})
    logger.close(130)
    logger.close(130)
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h")  # the cursor


@pytest.mark.parametrize(
    ("index", "layers", "word"),
    [
        (-1.01, 6, "vanishing"), (-1.0, 6, "healthy"), (1.2, 6, "healthy"), (1.21, 6, "exploding"),
        (math.nan, 6, "diverged"), (1.21, 23, "healthy"), (1.3, 23, "exploding"), (-1.61, 23, "vanishing"),
    ],
)  # fmt: skip
def test_verdict_word(index: float, layers: int, word: str) -> None:
    assert verdict_word(index, layers) == word
