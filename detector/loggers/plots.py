"""Pictures of a finished run: where the gradient goes, and what it does to loss and mAP.

Drawn with matplotlib's object interface: no global figures, no window, no state left behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.gradients.indices import FLOOR, limits
from detector.loggers.console import verdict_word
from detector.rows import Key, by_layer, layers_in, lost_between

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
History = Sequence[Mapping[str, Any]]

_LOST = "lost"  # in a row that only says that some are
_MOST_ROWS = 10_000
_PROFILES = 6  # lines in the depth picture
_LOSSES = {Key.LOSS: "total", Key.LOSS_BOX: "box", Key.LOSS_CLS: "class", Key.LOSS_DFL: "DFL"}
_MAPS = {Key.TRAIN_MAP: "train (seen)", Key.VAL_MAP: "val (unseen)"}
_BANDS = "#d62728", "#2ca02c", "#9467bd"  # vanishing, healthy, exploding


def write_plots(
    history: History,
    summary: Mapping[str, Any],
    directory: Path,
    expected: Mapping[str, float] | None = None,
) -> list[Path]:
    """Draw a run's history as PNG files; pictures for which it holds nothing are left out.

    Args:
        history: rows as `read_history` returns them; NaN, zeros and missing keys are fine.
        summary: the run's summary, for titles.
        directory: where the files go; created.
        expected: the activation-gradient norm that theory predicts for each layer at initialisation.

    Returns:
        The files written. Raises OSError if one could not be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    run = f"{summary.get('ablation', 'run')}, seed {summary.get('seed', '?')}"
    history = _with_gaps(_thinned(history), summary)
    figures = {
        "gradient_depth.png": _depth(history, summary, run, expected or {}),
        "gradient_inside.png": _depth(history, summary, run, {}, Key.POINT_ACTIVATION_GRAD),
        "gradient_curves.png": _curves(history, run, Key.ACTIVATION_GRAD),
        "weight_gradients.png": _curves(history, run, Key.WEIGHT_GRAD),
        "loss_map.png": _loss_map(history, run),
    }
    written = []
    for name, made in figures.items():
        if made is not None:
            made.savefig(directory / name, dpi=120)
            written.append(directory / name)
    return written


def figure(
    title: str, size: tuple[float, float], ratios: Sequence[float] = (1,)
) -> tuple[Figure, list[Axes]]:
    """A figure with axes below each other, their heights in these ratios."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle(title, fontsize=12)
    axes = made.subplots(len(ratios), 1, squeeze=False, height_ratios=list(ratios))[:, 0]
    for axis in axes:
        axis.grid(True, alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return made, list(axes)


def _thinned(history: History) -> History:
    """Of a very long one about `_MOST_ROWS`, evenly spread, and all evaluations: pixels are fewer."""
    every = -(-len(history) // _MOST_ROWS) or 1
    last, maps = len(history) - 1, set(_MAPS)
    return [row for at, row in enumerate(history) if at % every == 0 or at == last or maps & row.keys()]


def _with_gaps(history: History, summary: Mapping[str, Any]) -> History:
    """The same with a row of nothing at a step that was lost: no line is drawn across it."""
    steps = [_float(row.get(Key.STEP)) for row in history]
    lost = [{Key.STEP: step, _LOST: True} for step in lost_between(steps, summary)]
    return sorted([*history, *lost], key=lambda row: row[Key.STEP]) if lost else history


def _series(history: History, key: str) -> tuple[Array, Array]:
    """Steps and values of the rows that hold a key; NaN between two of them where rows are lost."""
    rows = enumerate(history) if any(key in row for row in history) else ()
    points = [
        (_float(row.get(Key.STEP, at)), _float(row.get(key)))
        for at, row in rows
        if key in row or _LOST in row
    ]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)  # (rows, 2)
    return array[:, 0], array[:, 1]


def tick(layer: str) -> str:
    """A layer at an axis: `04_c2f` for a YOLO's `04_4.c2f`, which says its number twice."""
    number, _, name = layer.partition("_")
    place, dot, kind = name.partition(".")
    again = dot and place.isdecimal() and number.isdecimal() and int(place) == int(number)
    return f"{number}_{kind}" if again else layer


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # whatever the file holds
    except (TypeError, ValueError):
        return math.nan


def _logarithmic(axis: Axes, values: Array) -> Array:
    """Set a log axis and return what can be drawn on it: underflow at 1e-40, non-finite as gaps."""
    drawn = np.where(np.isfinite(values), np.maximum(values, FLOOR), np.nan)
    if np.isfinite(drawn).any():
        axis.set_yscale("log")
    return drawn


def _depth(
    history: History,
    summary: Mapping[str, Any],
    run: str,
    expected: Mapping[str, float],
    kind: str = Key.ACTIVATION_GRAD,
) -> Figure | None:
    """Activation-gradient norm against depth, one line at several steps; theory speaks of the first."""
    from matplotlib import colormaps

    layers = layers_in(history, kind)
    rows = [(at, row) for at, row in enumerate(history) if by_layer(row, kind)]
    if not rows:
        return None
    picks = sorted({round(i) for i in np.linspace(0, len(rows) - 1, _PROFILES)})
    inside = kind != Key.ACTIVATION_GRAD
    size = (max(9, len(layers) / 6) if inside else 9, 5.2)
    made, (axis,) = figure(f"Gradient against depth: {run}", size)
    colors = colormaps["viridis"](np.linspace(0.0, 0.9, len(picks)))
    places = np.arange(len(layers))
    values = np.array([[_float(rows[p][1].get(kind + n)) for n in layers] for p in picks])
    values = _logarithmic(axis, values)  # (picks, layers)
    for line, pick, color in zip(values, picks, colors, strict=True):
        at, row = rows[pick]
        wide = 2.4 if pick in (picks[0], picks[-1]) else 1.3  # initialisation and the end stand out
        step = f"step {row.get('step', at):,}" + (" (init)" if pick == 0 else "")
        axis.plot(places, line, color=color, linewidth=wide, marker="o", markersize=3, label=step)
    if set(expected) == set(layers):
        theory = _logarithmic(axis, np.array([expected[name] for name in layers]))
        axis.plot(places, theory, color="black", linestyle=(0, (4, 2)), linewidth=1.2, label="theory at init")
    axis.set_xticks(
        places, list(map(tick, layers)), rotation=60, ha="right", rotation_mode="anchor", fontsize=8
    )
    axis.set_xlim(-0.5, len(layers) - 0.5)
    axis.set_xlabel(f"{'module' if inside else 'trunk block'}, from the image to the head")
    axis.set_ylabel("‖dL/d activation‖")
    axis.legend(fontsize=8, frameon=False)
    if not inside:  # V is that of the trunk
        axis.set_title(_verdicts(summary, len(layers)), fontsize=9, loc="left")
    return made


def _verdicts(summary: Mapping[str, Any], layers: int) -> str:
    parts = []
    for when, suffix in (("init", "_init"), ("late", "")):
        index = summary.get(Key.VANISHING_INDEX + suffix)
        verdict = summary.get(Key.VERDICT + suffix)
        if index is not None:
            word = verdict or verdict_word(_float(index), layers)
            parts.append(f"V {when} {_float(index):+.2f} decades: {word}")
    return "  ·  ".join(parts)


def _curves(history: History, run: str, kind: str) -> Figure | None:
    """Each layer's norm over the steps, coloured by depth; of activations, the vanishing index below."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    layers = layers_in(history, kind)
    if not layers:
        return None
    with_index = kind == Key.ACTIVATION_GRAD
    what = "activation" if with_index else "weight"
    title = f"{what.capitalize()} gradient of every trunk block: {run}"
    made, axes = figure(title, (9, 6.6), [2.4, 1]) if with_index else figure(title, (9, 4.6))
    upper = axes[0]
    shade = Normalize(0, max(len(layers) - 1, 1))
    for place, name in enumerate(layers):
        steps, values = _series(history, kind + name)
        color = colormaps["viridis"](shade(place))
        upper.plot(steps, _logarithmic(upper, values), color=color, linewidth=1.2, **_dots(values))
    bar = made.colorbar(ScalarMappable(shade, colormaps["viridis"]), ax=upper, pad=0.01)
    ticks = sorted({round(i * (len(layers) - 1) / 5) for i in range(6)})
    bar.set_ticks(ticks, labels=[tick(layers[place]) for place in ticks], fontsize=8)
    upper.set_ylabel(f"‖dL/d {what}‖")
    if with_index:
        _index(axes[1], history, len(layers))
        axes[1].sharex(upper)
        upper.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step")
    return made


def _index(axis: Axes, history: History, layers: int) -> None:
    """The vanishing index over the steps, on the verdict's bands."""
    steps, values = _series(history, Key.VANISHING_INDEX)
    finite = values[np.isfinite(values)]
    below, above = limits(layers)
    low, high = min([below - 0.6, *finite]) - 0.3, max([above + 0.6, *finite]) + 0.3
    for bottom, top, color in zip((low, below, above), (below, above, high), _BANDS, strict=True):
        axis.axhspan(bottom, top, color=color, alpha=0.13, linewidth=0)
        middle = (bottom + top) / 2
        right = axis.get_yaxis_transform()  # x as a fraction of the width, y in decades
        word = verdict_word(middle, layers)
        axis.text(0.995, middle, word, transform=right, ha="right", va="center", fontsize=8, color=color)
    axis.plot(steps, values, color="black", linewidth=1.5, **_dots(values))
    axis.set_ylim(low, high)
    axis.set_ylabel("V (decades)")


def _loss_map(history: History, run: str) -> Figure | None:
    """The loss and its parts above, mAP on both splits below."""
    from matplotlib.ticker import LogFormatter

    losses = {label: _series(history, key) for key, label in _LOSSES.items()}
    maps = {label: _series(history, key) for key, label in _MAPS.items()}
    if not any(len(steps) for steps, _ in (losses | maps).values()):
        return None
    made, (upper, lower) = figure(f"Loss and mAP: {run}", (9, 6.0), [1.4, 1])
    for number, (label, (steps, values)) in enumerate(losses.items()):
        if len(steps):
            wide = 2.0 if number == 0 else 1.1
            upper.plot(steps, _logarithmic(upper, values), linewidth=wide, label=label, **_dots(values))
    for (label, (steps, values)), color in zip(maps.items(), ("#1f77b4", "#ff7f0e"), strict=True):
        if len(steps):
            lower.plot(steps, values, marker="o", markersize=4, label=label, color=color)
            if np.isfinite(values).any():
                best = np.nanmax(np.where(np.isfinite(values), values, np.nan))
                lower.axhline(best, color=color, linewidth=0.6, linestyle=":")
    if upper.get_yscale() == "log":
        for which in (upper.yaxis.set_major_formatter, upper.yaxis.set_minor_formatter):
            which(LogFormatter(minor_thresholds=(1.5, 0.6)))  # 20 and 30, not powers of ten
    lower.set_ylim(-0.03, 1.03)
    lower.sharex(upper)
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("loss")
    lower.set_ylabel(Key.MAP)
    lower.set_xlabel("step")
    for axis in (upper, lower):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    return made


def _dots(values: Array) -> dict[str, Any]:
    """A point without neighbours is no line: draw it as a point."""
    there = np.pad(np.isfinite(values), 1)
    alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])
    return {"marker": "o", "markersize": 4, "markevery": alone.tolist()} if len(alone) else {}
