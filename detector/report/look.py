"""How figures look, and how numbers and names enter them: plotly, for a light page and a dark one."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Options = dict[str, Any]  # of plotly: a trace, a frame, an axis, …

# Legible on white and on black. The first is the baseline's; the others take turns, with new dashes each.
COLORS = ("#7d8797", "#d55e00", "#2b82c9", "#009067", "#b8508f", "#a86f00", "#a5705f", "#7f66d0")
DASHES = ("solid", "dash", "dot", "dashdot")
FAINT = "rgba(125,135,151,0.25)"  # of grids
# So few ticks that only powers of ten have one, unless there is hardly more than one power of ten.
LOGARITHMIC = {"type": "log", "tickformat": "~g", "nticks": 4}
LAYERS = {"type": "category", "tickangle": -60, "tickfont": {"size": 11}}


def layout_of(x: Options, y: Options, **more: Any) -> Options:
    """Without colors of text: those are the page's, for light and for dark."""
    axis = {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": FAINT, "automargin": True}
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "margin": {"l": 10, "r": 10, "t": 8, "b": 10},
        "showlegend": False,
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": COLORS[0], "activecolor": COLORS[1]},
        "hoverlabel": {"bgcolor": "#1b2430", "font": {"color": "#fff"}},
        "xaxis": axis | x,
        "yaxis": axis | y,
    } | more


def plain(text: str) -> str:
    """Plotly reads a little HTML in its texts, and a name is a stranger's: it must stay a name."""
    return html.escape(text, quote=False)


def rounded(values: Array, digits: int = 3) -> Any:
    """Plain numbers of a few significant digits, in lists as deep as the array; NaN is a gap in a curve."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        found = np.round(values * scale) / scale
    return np.where(np.isfinite(found), found, values).tolist()
