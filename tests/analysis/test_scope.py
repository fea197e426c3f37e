"""The comparison of trunk, neck and head: by hand, and from runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.scope import comparison, table


def test_an_additive_loss_has_no_interaction() -> None:
    baseline = {seed: 4.0 + seed for seed in range(5)}
    trunk = {seed: value + 1 for seed, value in baseline.items()}
    rest = {seed: value + 2 for seed, value in baseline.items()}
    both = {seed: value + 3 for seed, value in baseline.items()} | {9: 1.0}  # a seed that the others lack
    found = comparison(baseline, trunk, rest, both)
    assert [e.mean for e in found] == pytest.approx([1, 2, 0])
    assert {e.n for e in found} == {5}
    both = {seed: value + 3 + 0.5 * (-1) ** seed for seed, value in baseline.items()}
    assert comparison(baseline, trunk, rest, both)[2].mean == pytest.approx(0.1)  # (3 - 2) * .5 / 5


def test_the_table_reads_finished_runs(tmp_path: Path) -> None:
    for seed in range(2):
        for at, end in enumerate(("", "_neck_and_head", "_all")):
            for name, loss in (("baseline", 4), ("sigmoid" + end, 5 + at)):
                run = tmp_path / f"{name}-s{seed}"
                run.mkdir(exist_ok=True)
                summary = {"status": "finished", "train/loss": loss, "commit": "abcdefghi", "dirty": False}
                (run / "summary.json").write_text(json.dumps(summary))
    text = table(tmp_path)
    assert "| `sigmoid` | +1.00<br>\\[+1.00, +1.00\\] | +2.00<br>\\[+2.00, +2.00\\] | +0.00" in text
    assert "| `plain_silu` | – | – | – | 0 |" in text
    assert "the baseline's is 4.00" in text and "commit abcdefg." in text
