"""The comparison as one web page that needs nothing else: no network, no server, no other file.

Everything that a run brought along (names, configuration, layers) is a stranger's. It enters the page in two
ways only: through `html.escape`, and as JSON in which no `<` is left. The page's security policy allows the
scripts below by their hashes and nothing more, so even a hole would find no way to run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from detector import __version__
from detector.gradients.indices import EXPLODING, FLOOR, VANISHING
from detector.tools.compare.comparison import Comparison
from detector.tools.compare.history import Array
from detector.tools.compare.metrics import METRICS
from detector.tools.compare.runs import Run
from detector.tools.compare.table import Sheet, remarks, sheets
from detector.tools.compare.theory import expected

SCRIPTS = ("state.js", "figures.js", "details.js", "controls.js")  # in this order


def page(comparison: Comparison) -> str:
    """The whole page, about 5 MB of it plotly.js."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), *map(_asset, SCRIPTS)]
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    datasets = ", ".join(comparison.datasets)
    runs = sum(len(group.runs) for group in comparison.groups)
    slots = {
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'",
        "title": html.escape(f"Where gradients die: {len(comparison.groups)} ablations on {datasets}"),
        "style": _asset("style.css"),
        "subtitle": html.escape(
            f"{len(comparison.groups)} ablations, {runs} runs on {datasets}; "
            f"set against {comparison.baseline.label}"
        ),
        "tables": "\n".join(map(_table, sheets(comparison))),
        "remarks": "\n".join(f"<li>{html.escape(line)}</li>" for line in remarks(comparison)),
        "version": html.escape(__version__),
        "data": _json(payload(comparison)),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # One pass: a slot's name inside what fills another slot stays what it is.
    return re.sub(r"<!--slot:(\w+)-->", lambda match: slots[match[1]], _asset("page.html"))


def payload(comparison: Comparison) -> dict[str, Any]:
    """What the figures are drawn from, in plain JSON. Norms are log10 with two decimals."""
    groups, runs = [], []
    for number, group in enumerate(comparison.groups):
        groups.append({"label": group.label, "changes": list(group.changes)})
        runs += [_run(run, number) for run in group.runs]
    return {
        "groups": groups,
        "runs": runs,
        "bands": [VANISHING, EXPLODING],
        "effects": _effects(comparison),
    }


def _run(run: Run, group: int) -> dict[str, Any]:
    curves = run.curves
    return {
        "group": group,
        "seed": run.seed,
        "state": run.state,
        "layers": list(curves.layers),
        "steps": list(curves.steps),
        "profiles": {
            kind: [_rounded(row, 2) for row in log10(values)] for kind, values in curves.profiles.items()
        },
        "series": {
            key: {"steps": list(steps), "values": _rounded(values, 4)}
            for key, (steps, values) in curves.series.items()
        },
        "theory": None if (theory := expected(run)) is None else _rounded(theory, 2),
        "ledger": [
            [entry.step, entry.block, entry.operation, *_rounded(log10(np.array([entry.factor])), 4)]
            for entry in run.ledger
        ],
    }


def log10(norms: Array) -> Array:
    """Logarithms as the vanishing index takes them: underflow at the floor, and NaN where not finite."""
    finite = np.where(np.isfinite(norms), norms, np.nan)
    logarithms: Array = np.log10(np.maximum(finite, FLOOR))
    return logarithms


def _rounded(values: Array | Sequence[float], digits: int) -> list[float | None]:
    """Plain numbers; JSON has no NaN, and null is a gap in a curve."""
    return [round(v, digits) if np.isfinite(v) else None for v in np.asarray(values, np.float64).tolist()]


def _effects(comparison: Comparison) -> list[dict[str, Any]]:
    """Each metric's effects, for the figure; those that were never measured or never vary are left out."""
    design = comparison.factorial
    if design is None:
        return []
    found = []
    for metric in METRICS:
        by_effect = design.effects.get(metric.key, {})
        if not any(e.n and (e.mean or e.sd) for e in by_effect.values()):
            continue
        found.append(
            {
                "metric": metric.label,
                "names": [design.name(effect) for effect in by_effect],
                "mean": _rounded([e.mean for e in by_effect.values()], 4),
                "low": _rounded([e.low for e in by_effect.values()], 4),
                "high": _rounded([e.high for e in by_effect.values()], 4),
                "n": [e.n for e in by_effect.values()],
            }
        )
    return found


def _json(value: object) -> str:
    """JSON that can stand inside a <script>: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table(sheet: Sheet) -> str:
    title = html.escape(sheet.title)
    numeric = [' class="number"' if cell.numeric else "" for cell in sheet.rows[0]]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(column)}</th>'
        for column, kind in zip(sheet.columns, numeric, strict=True)
    )
    rows = []
    for row in sheet.rows:
        cells = []
        for at, cell in enumerate(row):
            below = "".join(f"<small>{html.escape(line)}</small>" for line in cell.below)
            kind = ' class="number"' if cell.numeric else ""
            tag = 'th scope="row"' if at == 0 else "td"
            cells.append(f"<{tag}{kind}>{html.escape(cell.text)}{below}</{tag[:2]}>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _asset(name: str) -> str:
    return (resources.files("detector.tools.compare") / "assets" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
