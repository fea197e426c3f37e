"""The crossed experiment as pictures: the two by two with its curves and outcomes, and the shares as bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from detector.analysis.statistics import Estimate
from detector.gradients.entries import short
from detector.gradients.indices import FLOOR
from detector.report.look import COLORS, FAINT, LOGARITHMIC, layout_of, plain, rounded
from detector.tools.why.cells import Role
from detector.tools.why.outcome import Outcome
from detector.tools.why.result import Result

# Rows: whose forward pass. Columns: whose curve the gradient has, then no gradient for the trunk at all.
SQUARE: tuple[tuple[Role, Role, Role], ...] = (
    ("baseline", "sufficiency", "baseline_frozen"),
    ("necessity", "trunk", "trunk_frozen"),
)


def crossed(result: Result) -> go.Figure:
    """Forward pass against gradient: in each cell the late curve over depth, and how training ended."""
    name = plain(result.ablation)
    columns = "baseline's curve", f"{name}'s curve", "trunk frozen"
    titles = [
        f"<b>{column}</b><br>{_ended(result, role)}" for column, role in zip(columns, SQUARE[0], strict=True)
    ]
    titles += [_ended(result, role) for role in SQUARE[1]]
    figure = make_subplots(
        2, 3, shared_xaxes=True, shared_yaxes="all", subplot_titles=titles, row_titles=["baseline", name],
        horizontal_spacing=0.03, vertical_spacing=0.1,
    )  # fmt: skip
    for row, roles in enumerate(SQUARE, start=1):
        for column, role in enumerate(roles, start=1):
            for trace in _curves(result.outcomes.get(role, {}), COLORS[3 - row]):
                figure.add_trace(trace, row, column)
    figure.update_layout(layout_of({}, {}, margin={"l": 10, "r": 30, "t": 60, "b": 60}))
    figure.update_xaxes(type="category", tickangle=-60, gridcolor=FAINT, tickfont={"size": 10})
    figure.update_yaxes(gridcolor=FAINT, exponentformat="power", **LOGARITHMIC)
    figure.update_yaxes(title={"text": "‖g‖ / last layer's"}, col=1)
    return figure


def shares(result: Result) -> go.Figure:
    """Each share of the gap with its paired interval, of the loss and of the mAP."""
    figure = make_subplots(1, 2, shared_yaxes=True, subplot_titles=["loss", plain(result.metric)])
    of_loss = {"gap": result.answer.gap} | dict(result.answer.shares)
    of_map = {"gap": result.metric_gap} | dict(result.metric_shares)
    for column, found in enumerate((of_loss, of_map), start=1):
        figure.add_trace(_bars(found), 1, column)
    figure.update_layout(layout_of({}, {}, margin={"l": 10, "r": 10, "t": 30, "b": 10}))
    figure.update_xaxes(gridcolor=FAINT, zerolinecolor=COLORS[0], zeroline=True)
    figure.update_yaxes(autorange="reversed", gridcolor=FAINT)
    return figure


def _bars(found: Mapping[str, Estimate]) -> go.Bar:
    means, lows, highs = (
        np.array([getattr(e, of) for e in found.values()]) for of in ("mean", "low", "high")
    )
    return go.Bar(
        x=rounded(means, 4),
        y=list(found),
        orientation="h",
        marker={"color": [COLORS[0], *(COLORS[1 + at] for at in range(len(found) - 1))]},
        error_x={
            "symmetric": False,
            "array": rounded(np.nan_to_num(highs - means), 4),
            "arrayminus": rounded(np.nan_to_num(means - lows), 4),
        },
        customdata=[e.n for e in found.values()],
        hovertemplate="%{y}: %{x:+.3f}, %{customdata} seeds<extra></extra>",
    )


def _curves(runs: Mapping[int, Outcome], color: str) -> list[go.Scatter]:
    """The mean curve over the seeds, each seed's thin, and dotted what arrived before it was rescaled."""
    traces = [_line(o.curve, color, width=1, opacity=0.4, name=f"seed {seed}") for seed, o in runs.items()]
    traces.append(_line(_mean([o.curve for o in runs.values()]), color, width=2.5, name="mean"))
    if any(o.raw for o in runs.values()):
        raw = _mean([o.raw for o in runs.values()])
        traces.append(_line(raw, color, width=1.5, dash="dot", name="before it was rescaled"))
    return traces


def _line(
    curve: Mapping[str, float],
    color: str,
    *,
    width: float,
    name: str,
    opacity: float = 1.0,
    dash: str = "solid",
) -> go.Scatter:
    values = np.array([max(value, FLOOR) for value in curve.values()])
    return go.Scatter(
        x=[plain(short(layer)) for layer in curve],
        y=rounded(values),
        mode="lines",
        name=name,
        opacity=opacity,
        line={"color": color, "width": width, "dash": dash},
        hovertemplate=f"{name}, %{{x}}: %{{y:.3~g}}<extra></extra>",
    )


def _mean(curves: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The geometric mean over the seeds of each layer."""
    there = [curve for curve in curves if curve]
    if not there:
        return {}
    logarithms = np.log10(np.maximum([list(curve.values()) for curve in there], FLOOR))
    return dict(zip(there[0], (10 ** logarithms.mean(0)).tolist(), strict=True))


def _ended(result: Result, role: Role) -> str:
    runs = result.outcomes.get(role, {})
    loss, metric = (_spread([getattr(o, of) for o in runs.values()]) for of in ("loss", "metric"))
    return f"loss {loss}, mAP {metric}"


def _spread(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "–"
    spread = f" ± {stdev(finite):.2f}" if len(finite) > 1 else ""
    return f"{fmean(finite):.2f}{spread}"
