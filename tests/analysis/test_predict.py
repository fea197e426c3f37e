"""The rank correlation of what is measured at initialisation with what is learnt, against SciPy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from scripts.predict import cells, interval, main, rank_correlation


def test_the_rank_correlation_is_scipys() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    for digits in (0, 3):  # with ties, and without
        a, b = rng.normal(size=(2, 12)).round(digits)
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_an_interval_holds_its_estimate_and_narrows_where_all_agree() -> None:
    a = list(range(10))
    assert interval(a, [x * x for x in a]) == (pytest.approx(1), pytest.approx(1))
    b = [3, 1, 4, 2, 9, 5, 8, 7, 6, 0]
    low, high = interval(a, b)
    assert -1 <= low < rank_correlation(a, b) < high <= 1


def test_seeds_are_averaged_and_runs_without_a_number_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        {"status": "finished", "ablation": f"a{n}", "dataset": "mine", "train/loss": 5.0 - n + seed,
         "seed": seed, "commit": "abcdefghi", "gradient/vanishing_index_init": (-1.0) ** n * n,
         "signal/probe_auc_p3_init": 0.5 + n / 20 if seed < 2 else None}
        for n in range(6) for seed in range(3)
    ]  # fmt: skip
    found = cells(runs, "signal/probe_auc_p3_init", "train/loss")
    assert found == [(pytest.approx(0.5 + n / 20), 5.5 - n) for n in range(6)]
    for number, run in enumerate(runs):
        (tmp_path / f"r{number}").mkdir()
        (tmp_path / f"r{number}" / "summary.json").write_text(json.dumps(run))
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| probe on P3 | −1.00 | \\[−1.00, −1.00\\] | 6 |" in text
    assert "| size of V at init | −1.00 | \\[−1.00, −1.00\\] | 6 |" in text  # the loss falls as it grows
    assert "| W at init | – | fewer than 5 | 0 |" in text
    assert text.endswith("Means over n = 3 seeds a cell; commit abcdefg.\n")
