"""The comparison as one web page that needs nothing else: no network, no server, no other file.

Everything that a run brought along (names, configuration, layers) is a stranger's. It enters the page in two
ways only: through `html.escape`, and packed, inside the figures. The page's security policy allows its two
scripts by their hashes and nothing more, so even a hole would find no way to run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources

import orjson

from detector import __version__
from detector.analysis.statistics import estimate
from detector.gradients.entries import Entry, summarise_ledger
from detector.tools.compare.comparison import Comparison, Group
from detector.tools.compare.dots import effects, probe
from detector.tools.compare.figures import figures, look, mean, numbered, profile, stops
from detector.tools.compare.metrics import METRICS
from detector.tools.compare.runs import Run
from detector.tools.compare.sheets import Sheet, sheets, value
from detector.tools.compare.table import remarks

_STROKES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}
# Of figures that not every comparison has: heading and caption.
_OPTIONAL = {
    "probe": (
        "Does the signal show the objects?",
        "How well a linear probe finds the objects in the trunk's features at each level (AUC), before the "
        "first step and after the last. Crosses: a probe that knows only the place in the image; features "
        "that do no better do not show the objects.",
    ),
    "clip": (
        "Clipping",
        "What clipping multiplied the gradient by; the trunk's, where parts are clipped by themselves. Far "
        "below 1, the steps are much smaller than the learning rate says.",
    ),
}
_SAYS = {
    "dead forward": "the signal, not the gradient, is lost in",
    "vanishing": "the gradient vanishes in",
    "exploding": "the gradient explodes in",
    "underflow": "the gradient is too small for a number in",
    "diverged": "numbers stop being finite in",
    "collapsed": "the gradient arrives, but the output hardly depends on the image, in",
}


def page(comparison: Comparison) -> str:
    """The whole page, about 2 MB of it plotly.js."""
    from plotly.offline import get_plotlyjs

    template, plotly = _asset("page.html"), get_plotlyjs()
    drawn = figures(comparison) | probe(comparison) | effects(comparison)
    steps = stops(comparison)
    scripts = [plotly, *re.findall(r"<script>(.*?)</script>", template, re.DOTALL)]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    runs = [(group.label, run) for group in comparison.groups for run in group.runs]
    seeds = sorted({run.seed or 0 for _, run in runs})
    subject = f"{len(comparison.groups)} ablations, {len(runs)} runs on {', '.join(comparison.datasets)}"
    slots = {
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'",
        "title": html.escape(f"Where gradients die: {subject}"),
        "style": (resources.files("detector.report") / "assets" / "style.css").read_text(encoding="utf-8"),
        "subtitle": html.escape(f"{subject}; set against {comparison.baseline.label}"),
        "headline": _items(headline(comparison)),
        "groups": "\n".join(_group_box(number, group) for number, group in numbered(comparison)),
        "seeds": "\n".join(_box("seed", seed, str(seed)) for seed in seeds),
        "last": str(len(steps) - 1),
        "inside": '<div class="plot tall" id="inside"></div>' * ("inside" in drawn),
        "optional": "\n".join(_figure(key) for key in _OPTIONAL if key in drawn),
        "effects": "".join(f'<div class="plot" id="{key}"></div>' for key in drawn if "effects" in key),
        "runs": "\n".join(
            f'<option value="{number}">{html.escape(label)}, seed {run.seed}'
            f"{f' ({run.state})' * (run.state != 'finished')}</option>"
            for number, (label, run) in enumerate(runs)
        ),
        "tables": "\n".join(map(_table, sheets(comparison))),
        "remarks": _items(remarks(comparison)),
        "version": html.escape(__version__),
        "plotly": _packed(plotly.encode()),
        "figures": _packed(orjson.dumps({"stops": steps, "figures": drawn})),
    }
    # One pass: a slot's name inside what fills another slot stays what it is.
    return re.sub(r"<!--slot:(\w+)-->", lambda match: slots[match[1]], template)


def headline(comparison: Comparison) -> list[str]:
    """Which ablations lose their gradient, when and in which blocks; those that never do come last."""
    lines = []
    ill: set[str] = set()
    for late, when in enumerate(("At initialisation", "Late in training")):
        for verdict, says in _SAYS.items():
            found = []
            for group in comparison.groups:
                runs = [run for run in group.runs if run.verdicts[late] == verdict]
                if runs:
                    ill.add(group.label)
                    found.append(group.label + _place(group, runs, late))
            if found:
                lines.append(f"{when}, {says} {'; '.join(found)}.")
    judged = [group.label for group in comparison.groups if any(any(run.verdicts) for run in group.runs)]
    healthy = [label for label in judged if label not in ill]
    return [*lines, f"Healthy: {', '.join(healthy)}."] if healthy else lines


def _place(group: Group, runs: Sequence[Run], late: int) -> str:
    """How many of its runs, how much, and between which blocks, in parentheses."""
    metric = METRICS[late]  # V at initialisation, V late
    index = estimate([run.values[metric.key] for run in runs]).mean
    facts = [f"{len(runs)} of {len(group.runs)} runs"] if len(runs) < len(group.runs) else []
    facts += [f"V = {value(index, metric)} decades"] if math.isfinite(index) else []
    curves = [profile(run)[-late] for run in runs if run.curves.steps and (late or run.curves.steps[0] == 0)]
    layers = runs[0].curves.layers
    if curves and {len(curve) for curve in curves} == {len(layers)}:
        decades = mean(curves)
        # What lies between two records is the doing of the block behind.
        entries = [
            Entry(layer, "block", "block", 10**d)
            for layer, d in zip(layers[1:], decades[:-1] - decades[1:], strict=True)
        ]
        stretch = summarise_ledger(entries, gain=index > 0)
        if stretch is not None:
            verb = "gain" if index > 0 else "lose"
            facts.append(f"{stretch.blocks} {verb} {abs(stretch.decades):.1f}")
    return f" ({'; '.join(facts)})" if facts else ""


def _figure(key: str) -> str:
    title, caption = _OPTIONAL[key]
    plot = f'<div class="plot" id="{key}"></div>'
    return f"<figure><h2>{title}</h2>{plot}<figcaption>{caption}</figcaption></figure>"


def _group_box(number: int, group: Group) -> str:
    style = look(number)
    swatch = (
        f'<svg width="26" height="8" aria-hidden="true"><line x2="26" y1="4" y2="4" stroke-width="3" '
        f'stroke="{style["color"]}" stroke-dasharray="{_STROKES[style["dash"]]}"/></svg>'
    )
    return _box("group", number, group.label, swatch, ", ".join(group.changes) or "the baseline")


def _box(name: str, at: int, label: str, swatch: str = "", title: str = "") -> str:
    box = f'<input type="checkbox" name="{name}" value="{at}" checked>'
    return f'<label title="{html.escape(title)}">{box}{swatch} {html.escape(label)}</label>'


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"<li>{html.escape(line)}</li>" for line in lines)


def _packed(text: bytes) -> str:
    """Compressed, in an alphabet that no name inside can leave; the page's script unpacks it."""
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()


def _table(sheet: Sheet) -> str:
    numeric = [' class="number"' if cell.numeric else "" for cell in sheet.rows[0]]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(column)}</th>'
        for column, kind in zip(sheet.columns, numeric, strict=True)
    )
    rows = []
    for row in sheet.rows:
        cells = []
        for at, (cell, kind) in enumerate(zip(row, numeric, strict=True)):
            below = "".join(f"<small>{html.escape(line)}</small>" for line in cell.below)
            tag = 'th scope="row"' if at == 0 else "td"
            cells.append(f"<{tag}{kind}>{html.escape(cell.text)}{below}</{tag[:2]}>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    title = html.escape(sheet.title)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _asset(name: str) -> str:
    return (resources.files("detector.tools.compare") / "assets" / name).read_text(encoding="utf-8")
