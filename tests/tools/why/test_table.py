"""The table of shares, from answers as they are stored."""

from __future__ import annotations

from typing import Any

from scripts.why import interval, short, table


def estimate(mean: float, low: float, high: float, n: int = 5) -> dict[str, Any]:
    return {"n": n, "mean": mean, "low": low, "high": high}


ANSWER = {
    "ablation": "mine",
    "made": {"commit": "0123456789", "dirty": False},
    "answer": {
        "gap": estimate(1.5, 1.0, 2.0),
        "shares": {
            "forward": estimate(1.6, 1.2, 2.0),
            "backward": estimate(-0.25, -1.0, 0.5),
            "remainder": {"n": 0},
        },
        "sufficiency": estimate(0.1, -0.1, 0.3),
        "necessity": estimate(-0.6, -1.5, 0.3),
        "main": "forward",
        "control": {"passed": True, "says": "it would be seen"},
    },
}


def test_a_row_an_ablation_with_its_intervals_n_and_control() -> None:
    text = table([ANSWER])
    row = next(line for line in text.splitlines() if line.startswith("| `mine`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "`mine`", "+1.50<br>\\[+1.00, +2.00\\]", "+1.60<br>\\[+1.20, +2.00\\]",
        "−0.25<br>\\[−1.00, +0.50\\]", "–", "–", "+0.10<br>\\[−0.10, +0.30\\]",
        "−0.60<br>\\[−1.50, +0.30\\]", "5", "forward",
    ]  # fmt: skip
    head, rule = text.splitlines()[:2]
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "Positive control passed: it would be seen." in text and "commit 0123456." in text


def test_what_the_seeds_do_not_decide_is_said() -> None:
    undecided = ANSWER | {"answer": ANSWER["answer"] | {"main": None}}  # type: ignore[operator]
    assert "| not decided |" in table([undecided])
    assert interval(estimate(0.5, 0.5, 0.5, n=1)) == "+0.50"  # one seed has no interval


def test_the_short_table_has_the_same_numbers() -> None:
    head, rule, row = short([ANSWER]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "`mine`", "+1.50<br>\\[+1.00, +2.00\\]", "+1.60<br>\\[+1.20, +2.00\\]",
        "−0.25<br>\\[−1.00, +0.50\\]", "+0.10<br>\\[−0.10, +0.30\\]",
    ]  # fmt: skip
