"""Figures of single numbers: factorial effects with their intervals, and what a linear probe finds."""

from __future__ import annotations

from typing import Any

import numpy as np

from detector.report.look import COLORS, Options, layout_of, plain, rounded
from detector.rows import Key
from detector.tools.compare.comparison import Comparison
from detector.tools.compare.figures import figure, lines, look, mean, numbered
from detector.tools.compare.runs import Run

_PLACE = "_position"  # behind a level's key: what the place alone gives away
_ENDS = {0: "first step", -1: "last"}  # rows


def probe(comparison: Comparison) -> dict[str, Options]:
    """The AUC of a linear probe at each level, before training and after it; nothing where none was fitted.

    Crosses are the AUC of a probe that knows only the place in the image.
    """
    groups = numbered(comparison)
    keys = {key: None for _, group in groups for run in group.runs for key in run.curves.series}
    levels = [k for k in keys if k.startswith(f"{Key.PROBE_AUC}_") and not k.endswith(_PLACE)]
    if not levels:
        return {}
    places = [(level, end) for level in levels for end in _ENDS]
    xs = [f"{plain(level.removeprefix(f'{Key.PROBE_AUC}_'))}<br>{_ENDS[end]}" for level, end in places]

    def values(run: Run, behind: str = "") -> Any:
        found = []
        for level, end in places:
            _, auc = run.curves.series.get(level + behind, ((), ()))
            found.append(auc[end] if len(auc) > (end < 0) else np.nan)  # with one row, it is the first
        return np.array(found)

    traces: list[Options] = []
    for number, group in groups:
        color = look(number)["color"]
        for runs, trace in lines(number, group, ""):
            size = 6 if len(runs) < len(group.runs) else 9
            dots = {"mode": "markers", "marker": {"color": color, "size": size}}
            traces.append(trace | {"x": xs, "y": rounded(mean([values(run) for run in runs]), 4)} | dots)
        cross = {"color": color, "size": 8, "symbol": "x-thin-open"}
        traces.append({
            "x": xs, "y": rounded(mean([values(run, _PLACE) for run in group.runs]), 4), "mode": "markers",
            "marker": cross, "name": f"{plain(group.label)}, place alone", "meta": [number, "all"],
            "hovertemplate": "<b>%{fullData.name}</b><br>%{x}: %{y:.3~g}<extra></extra>",
        })  # fmt: skip
    x = {"type": "category", "categoryarray": xs}
    return {"probe": figure(traces, layout_of(x, {"title": {"text": "AUC"}}))}


def effects(comparison: Comparison) -> dict[str, Options]:
    """A figure for each metric's factorial effects, but for metrics that were not measured or never vary."""
    design = comparison.factorial
    found: dict[str, Options] = {}
    for place, metric in enumerate(comparison.metrics if design else ()):
        assert design is not None
        by_effect = design.effects.get(metric.key, {})
        if not any(e.n and (e.mean or e.sd) for e in by_effect.values()):
            continue
        means, lows, highs = (
            np.array([getattr(e, of) for e in by_effect.values()]) for of in ("mean", "low", "high")
        )
        trace = {
            "x": rounded(means, 4),
            "y": [design.name(effect).replace(" ×", "<br>×") for effect in by_effect],
            "mode": "markers",
            "marker": {"color": COLORS[2], "size": 9},
            "error_x": {
                "symmetric": False,
                "array": rounded(np.nan_to_num(highs - means), 4),
                "arrayminus": rounded(np.nan_to_num(means - lows), 4),
            },
            "customdata": [e.n for e in by_effect.values()],
            "hovertemplate": "%{y}: %{x:+.3f}, %{customdata} seeds<extra></extra>",
        }
        x = {
            "title": {"text": metric.label},
            "zeroline": True,
            "zerolinecolor": COLORS[0],
            "rangemode": "tozero",
        }
        found[f"effects-{place}"] = figure([trace], layout_of(x, {"autorange": "reversed"}))
    return found
