"""The figures of the page, made with plotly. What a control chooses, such as a step or a run, is a frame.

A trace that stands for runs says in its `meta` for which: the number of its ablation, and a seed, "mean" for
the mean over the seeds, or "all" for what belongs to the ablation as a whole. The page's checkboxes use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from detector.gradients.entries import short
from detector.gradients.indices import FLOOR, limits
from detector.report.look import (
    COLORS,
    DASHES,
    FAINT,
    LAYERS,
    LOGARITHMIC,
    Options,
    layout_of,
    plain,
    rounded,
)  # fmt: skip
from detector.rows import Key, depth_of
from detector.tools.compare.comparison import Comparison, Group
from detector.tools.compare.history import MAX_ROWS, Array, thin
from detector.tools.compare.runs import Run
from detector.tools.compare.theory import expected

KINDS = {"activation_grad": "‖dL/d activation‖", "weight_grad": "‖dL/d weight‖"}
DEPTHS = [COLORS[2], COLORS[7], COLORS[4], COLORS[1]]  # from the image to the head
STEP = {"title": {"text": "step"}, "rangemode": "tozero"}


def figures(comparison: Comparison) -> dict[str, Options]:
    """Every figure as what plotly.js is given, by the id of its place on the page."""
    groups = sorted(numbered(comparison), key=lambda pair: -pair[0])  # the baseline is drawn last, on top
    runs = [run for group in comparison.groups for run in group.runs]
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"dash": "dash", "color": COLORS[0]}}
    depth = max((len(run.curves.layers) for run in comparison.baseline.runs), default=0)
    bounds = [line | {"y0": y, "y1": y} for y in limits(depth)]
    inside = [(number, _inside(group)) for number, group in groups]
    return {
        "depth": _depth(groups, stops(comparison)),
        **({"inside": _depth(inside, stops(comparison), "module")} if any(g.runs for _, g in inside) else {}),
        "index": _series(groups, Key.VANISHING_INDEX, {"title": "V (decades)"}, shapes=bounds),
        "loss": _series(groups, Key.LOSS, LOGARITHMIC),
        "map-train": _series(groups, Key.TRAIN_MAP, {"range": [-0.03, 1.03]}),
        "map-val": _series(groups, Key.VAL_MAP, {"range": [-0.03, 1.03]}),
        **({"clip": _series(groups, Key.CLIP_FACTOR, LOGARITHMIC)} if _any(runs, Key.CLIP_FACTOR) else {}),
        **_details(runs),
        "ledger": _ledger(runs),
    }


def _inside(group: Group) -> Group:
    """An ablation with the curves of what `gradients.points` added in place of those of its layers."""
    runs = [replace(run, curves=inside) for run in group.runs if (inside := run.curves.inside) is not None]
    return replace(group, runs=tuple(runs))


def numbered(comparison: Comparison) -> list[tuple[int, Group]]:
    """The groups in their order, with the numbers that their colors go by: 0 is the baseline's."""
    numbers = iter(range(1, len(comparison.groups)))
    return [(next(numbers) if group.differences else 0, group) for group in comparison.groups]


def look(number: int) -> dict[str, str]:
    """Color and dashes of an ablation's lines."""
    turn, at = divmod(number - 1, len(COLORS) - 1) if number else (0, -1)
    return {"color": COLORS[1 + at], "dash": DASHES[turn % len(DASHES)]}


def stops(comparison: Comparison) -> list[int]:
    """The steps that can be looked at: those at which runs recorded their gradients, thinned out."""
    steps = sorted({step for group in comparison.groups for run in group.runs for step in run.curves.steps})
    return [steps[at] for at in thin(len(steps), MAX_ROWS)] or [0]


def log10(norms: Array) -> Array:
    """Logarithms as the vanishing index takes them: underflow at the floor, and NaN where not finite."""
    finite = np.where(np.isfinite(norms), norms, np.nan)
    logarithms: Array = np.log10(np.maximum(finite, FLOOR))
    return logarithms


def profile(run: Run, kind: str = "activation_grad") -> Array:
    """log10 of a run's norms: (steps, layers), without rows where nothing was recorded."""
    return log10(run.curves.profiles[kind]) if run.curves.steps else np.empty((0, 0))


def mean(rows: Sequence[Array]) -> Array:
    """The mean of the finite values, over the first axis; NaN where there is none."""
    values = np.array(rows)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(finite, values, 0).sum(0) / finite.sum(0)
    return found


def _depth(groups: Sequence[tuple[int, Group]], steps: Sequence[int], what: str = "trunk block") -> Options:
    """Gradient norm against depth; a frame for each kind of gradient and each step."""
    traces: list[Options] = []
    heights: list[dict[str, Any]] = []  # of each trace: kind of gradient -> its norms at each step

    def add(trace: Options, curves: dict[str, Array]) -> None:
        traces.append({"mode": "lines"} | trace)
        heights.append({kind: rounded(10**rows) for kind, rows in curves.items()})

    for number, group in groups:
        if not group.runs:
            continue
        xs = _in_order(group.runs)
        rows = {run.directory: {kind: _rows(run, kind, steps, xs) for kind in KINDS} for run in group.runs}
        for runs, trace in lines(number, group, "depth"):
            add(
                {"x": xs} | trace, {kind: mean([rows[run.directory][kind] for run in runs]) for kind in KINDS}
            )
        covered = [(run, found) for run in group.runs if (found := expected(run)) is not None]
        if covered:
            curve = mean([_aligned(_names(run), found[None], xs) for run, found in covered])
            curve = np.repeat(curve, len(steps), axis=0)
            style = {"color": look(number)["color"], "dash": "1px 4px", "width": 1.5}
            name = f"theory of {plain(group.label)} at initialisation"
            trace = {"x": xs, "name": name, "line": style, "meta": [number, "all"]}
            add(trace, {"activation_grad": curve, "weight_grad": curve * np.nan})
        # Two points that nobody sees: they keep the axis where it is while the slider moves the curves.
        unseen = {"x": xs[:1] * 2, "mode": "markers", "marker": {"opacity": 0}, "hoverinfo": "skip"}
        reach = {kind: np.tile(_reach(group.runs, kind), (len(steps), 1)) for kind in KINDS}
        add(unseen | {"meta": [number, "all"]}, reach)
    frames = [
        {
            "name": f"{kind} {at}",
            "data": [{"y": height[kind][at]} for height in heights],
            "layout": {"yaxis": {"title": {"text": label}}},
        }
        for kind, label in KINDS.items()
        for at in range(len(steps))
    ]
    layers = _in_order([run for _, group in groups for run in group.runs])
    x = LAYERS | {"categoryarray": layers, "title": {"text": f"{what}, from the image to the head"}}
    return figure(traces, layout_of(x, LOGARITHMIC | {"nticks": 6}), frames)


def _series(groups: Sequence[tuple[int, Group]], key: str, y: Options, **more: Any) -> Options:
    """A number over the steps: a line for each seed, and their mean."""
    traces = []
    for number, group in groups:
        curves = {run.directory: run.curves.series.get(key, ((), np.empty(0))) for run in group.runs}
        xs: Sequence[int] = sorted({step for steps, _ in curves.values() for step in steps})
        rows = {run: _aligned(steps, values[None], xs)[0] for run, (steps, values) in curves.items()}
        for runs, trace in lines(number, group, "step"):
            at: Sequence[int]
            if len(runs) == 1:  # its own steps alone: at another's it is not interrupted
                at, values = curves[runs[0].directory]
            else:
                at, values = xs, mean([rows[run.directory] for run in runs])
            traces.append({"x": at, "y": rounded(values, 4), "mode": _mode(at)} | trace)
    return figure(traces, layout_of(STEP, y, **more))


def _details(runs: Sequence[Run]) -> dict[str, Options]:
    """Every layer's gradient over the steps, as lines and as a map; a frame for each kind and each run."""
    most = max(len(run.curves.layers) for run in runs)
    lines, maps = [], []
    for kind in KINDS:
        for number, run in enumerate(runs):
            name, steps, names, rows = f"{kind} {number}", run.curves.steps, _names(run), profile(run, kind).T
            colors = sample_colorscale(DEPTHS, np.linspace(0, 1, len(names)).tolist())
            data: list[Options] = [
                {
                    "x": steps,
                    "y": rounded(10**row),
                    "name": layer,
                    "line": {"color": color},
                    "mode": _mode(steps),
                }
                for layer, color, row in zip(names, colors, rows, strict=True)
            ]
            data += [{"x": [], "y": []}] * (most - len(names))  # the layers of deeper networks
            named = list(range(len(names))[:: 1 + len(names) // 8])
            ticks = {"tickvals": named, "ticktext": [names[at] for at in named]}
            data.append({"marker": {"cmax": max(1, len(names) - 1), "colorbar": ticks}})
            lines.append({"name": name, "data": data})
            z = rounded(rows)
            maps.append({"name": name, "data": [{"type": "heatmap", "x": steps, "y": names, "z": z}]})
    line = {"marker": {"size": 4}, "hovertemplate": "%{fullData.name}, step %{x}: %{y:.3~g}<extra></extra>"}
    bar = {"thickness": 12, "outlinewidth": 0}
    marker = {
        "color": [0],
        "cmin": 0,
        "colorscale": DEPTHS,
        "showscale": True,
        "colorbar": bar | {"title": "layer"},
    }
    scale = {"x": [None], "y": [None], "mode": "markers", "marker": marker}
    power = bar | {"title": "norm", "tickprefix": "10<sup>", "ticksuffix": "</sup>"}
    heat = {"type": "heatmap", "colorscale": "Viridis", "colorbar": power}
    heat["hovertemplate"] = "%{y}, step %{x}: 10<sup>%{z:.2f}</sup><extra></extra>"
    return {
        "layers": figure([line] * most + [scale], layout_of(STEP, LOGARITHMIC), lines),
        "heat": figure([heat], layout_of(STEP, {"type": "category", "showgrid": False}), maps),
    }


def _ledger(runs: Sequence[Run]) -> Options:
    """What each block does to the gradient at a run's first and last ledger; a frame for each run."""
    frames = []
    for number, run in enumerate(runs):
        steps = sorted({entry.step for entry in run.ledger})
        data: list[Options] = []
        for at in (steps[:1], steps[1:][-1:]):
            blocks: dict[str, list[float]] = {}
            lines: dict[str, str] = {}
            for entry in sorted(run.ledger, key=lambda entry: -depth_of(entry.block)[0]):
                if [entry.step] == at:
                    block, decades = plain(short(entry.block)), log10(np.array([entry.factor])).item()
                    blocks.setdefault(block, []).append(decades)
                    size = f"{decades:.2f}" if np.isfinite(decades) else "not finite"
                    lines[block] = lines.get(block, "") + f"<br>{plain(entry.operation)}: {size}"
            bars = {"x": list(blocks), "y": [round(float(np.nansum(found)), 4) for found in blocks.values()]}
            name = f"step {at[0]:,}" if at else ""
            more = {"customdata": list(lines.values()), "name": name, "visible": bool(at)}
            data.append({"type": "waterfall"} | bars | more)
        frames.append({"name": str(number), "data": data})
    trace = {
        "type": "waterfall",
        "increasing": {"marker": {"color": COLORS[3]}},
        "decreasing": {"marker": {"color": COLORS[1]}},
        "connector": {"line": {"color": FAINT, "width": 1}},
        "hovertemplate": "<b>%{x}</b>, %{fullData.name}: %{delta:+.2f} decades, together %{final:+.2f}"
        "%{customdata}<extra></extra>",
    }
    x = LAYERS | {"title": {"text": "trunk block, from the head to the image"}}
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    layout = layout_of(
        x, {"title": {"text": "decades"}}, showlegend=True, legend=legend, waterfallmode="group"
    )
    return figure([trace | {"opacity": 0.45}, trace], layout, frames)


def lines(number: int, group: Group, x: str) -> Iterator[tuple[tuple[Run, ...], Options]]:
    """The lines that stand for an ablation: a thin one for each seed, and their mean if there are several."""
    label, several = plain(group.label), len(group.runs) > 1
    hover = {"hovertemplate": f"<b>%{{fullData.name}}</b><br>{x} %{{x}}: %{{y:.3~g}}<extra></extra>"}
    for run in group.runs:
        style = {"line": look(number) | {"width": 1.2 if several else 2}, "opacity": 0.6 if several else 1}
        yield (run,), hover | style | {"name": f"{label}, seed {run.seed}", "meta": [number, str(run.seed)]}
    if several:
        style = {"line": look(number) | {"width": 2 if number else 3}}
        yield group.runs, hover | style | {"name": label, "meta": [number, "mean"]}


def figure(traces: Sequence[Options], layout: Options, frames: Sequence[Options] = ()) -> Options:
    """A figure, checked by plotly and standing at its first frame, as plotly.js is given it."""
    figure = go.Figure(traces, layout)
    for frame in frames[:1]:
        for trace, more in zip(figure.data, frame["data"], strict=True):
            trace.update(more)
        figure.update_layout(frame.get("layout"))
    found: Options = figure.to_plotly_json()
    return found | {"frames": frames}  # not checked: that takes 10 s for the frames of 60 runs


def _any(runs: Sequence[Run], key: str) -> bool:
    return any(key in run.curves.series for run in runs)


def _mode(points: Sequence[int]) -> str:
    return "lines+markers" if len(points) < 12 else "lines"


def _rows(run: Run, kind: str, steps: Sequence[int], xs: Sequence[str]) -> Array:
    """log10 of a run's norms at each of the steps, the newest by then; NaN before the first: (steps, xs)."""
    newest = np.searchsorted(run.curves.steps, steps, "right")
    before = np.full((1, len(run.curves.layers)), np.nan)
    rows = np.concatenate([before, profile(run, kind)]) if run.curves.steps else before
    return _aligned(_names(run), rows[newest], xs)


def _aligned(at: Sequence[Any], rows: Array, xs: Sequence[Any]) -> Array:
    """Rows measured at some of `xs`, as rows over all of them, NaN in between."""
    place = {x: number for number, x in enumerate(xs)}
    found = np.full((len(rows), len(xs)), np.nan)
    found[:, [place[x] for x in at]] = rows
    return found


def _reach(runs: Sequence[Run], kind: str) -> Array:
    """The lowest and the highest log10 of a norm that these runs ever have."""
    values = np.concatenate([profile(run, kind).ravel() for run in runs])
    values = values[np.isfinite(values)]
    return np.array([values.min(), values.max()]) if len(values) else np.full(2, np.nan)


def _names(run: Run) -> list[str]:
    """A run's layers without the number in front: in networks of any depth p4.down is the same place."""
    return [plain(short(layer)) for layer in run.curves.layers]


def _in_order(runs: Sequence[Run]) -> list[str]:
    """The layers of all runs, from the image to the head."""
    depth: dict[str, int] = {}
    for run in runs:
        for name, layer in zip(_names(run), run.curves.layers, strict=True):
            depth[name] = max(depth_of(layer)[0], depth.get(name, 0))
    return sorted(depth, key=depth.__getitem__)
