"""The answer as one web page that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from importlib import resources

from detector.tools.why.answer import basis, lines
from detector.tools.why.figures import crossed, shares
from detector.tools.why.result import Result

_WHAT = {
    "baseline": "nothing stripped",
    "ablation": "stripped as the file says",
    "trunk": "only the trunk stripped",
    "rest": "only neck and head stripped",
    "baseline_frozen": "nothing stripped, trunk frozen",
    "trunk_frozen": "trunk stripped and frozen",
    "sufficiency": "nothing stripped, with the stripped trunk's curve",
    "necessity": "trunk stripped, with the baseline's curve",
    "control": "nothing stripped, with a curve that falls by nine decades",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}
.plot [class$="tick"] text {{ fill: var(--ink) !important; }} /* of all the axes */
.across {{ overflow-x: auto; overflow-y: hidden; }} /* on a phone: panels side by side, to be moved */
</style></head><body>
<h1>Is it the gradient?</h1>
<p id="answer">{answer}</p>
<p class="soft">{control}</p>
<main>
<figure class="wide"><h2>Forward pass against gradient</h2>
<div class="plot across" style="height: 560px"><div style="min-width: 58rem">{crossed}</div></div>
<figcaption>Rows: whose forward pass. Columns: whose curve the trunk's gradient has. Solid: the gradient
late in training at each layer, over the last layer's; dotted: what arrived before it was rescaled. Where the
gradient is the cause, the column decides how training ends; where the forward pass is, the row.</figcaption>
</figure>
<figure class="wide"><h2>Shares of the gap</h2>
<div class="plot across" style="height: 280px"><div style="min-width: 38rem">{shares}</div></div>
<figcaption>{intervals}</figcaption><div class="scroll"><pre>{lines}</pre></div></figure>
<div class="wide scroll"><table><caption>All cells</caption>
<thead><tr><th>cell</th><th>what</th><th class="number">loss of each seed</th>
<th class="number">{metric}</th></tr></thead>
<tbody>{rows}</tbody></table></div>
</main></body></html>
"""


def page(result: Result) -> str:
    """The whole page, most of it plotly.js."""
    control = result.answer.control
    verdict = (
        ""
        if control is None
        else f"Positive control {'passed' if control.passed else 'failed'}: {control.says}."
    )
    return _PAGE.format(
        title=html.escape(f"Is it the gradient? {result.ablation} on {result.data}"),
        style=(resources.files("detector.report") / "assets" / "style.css").read_text(encoding="utf-8"),
        answer=html.escape(result.answer.says),
        control=html.escape(verdict),
        # Names enter the figures through plotly's own escaping of JSON inside a script.
        crossed=crossed(result).to_html(full_html=False, include_plotlyjs=True, default_height=540),
        shares=shares(result).to_html(full_html=False, include_plotlyjs=False, default_height=260),
        intervals=html.escape(basis(result.answer.gap)),
        lines=html.escape("\n".join(lines(result.answer, result.metric_gap, result.metric_shares))),
        metric=html.escape(result.metric),
        rows="".join(_rows(result)),
    )


def _rows(result: Result) -> Iterable[str]:
    for role, what in _WHAT.items():
        runs = result.outcomes.get(role, {})  # type: ignore[call-overload]
        losses = ", ".join(_number(o.loss) for o in runs.values())
        metrics = ", ".join(_number(o.metric, 3) for o in runs.values())
        numbers = f'<td class="number">{losses}</td><td class="number">{metrics}</td>'
        yield f'<tr><th scope="row">{role}</th><td>{what}</td>{numbers}</tr>'


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "diverged"
