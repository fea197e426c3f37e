"""From the cells' outcomes to one answer: shares of the ablation's gap, and the words for them.

For one seed, with the loss (or the mAP) of each cell under its name in `detector.tools.why.cells`:

    gap            ablation − baseline
    forward        frozen trunk of the ablation − frozen trunk of the baseline: there without any gradient
    backward       ½ [(sufficiency − baseline) + (trunk − necessity)]: what the gradient's curve does, once
                   on the baseline's forward pass and once on the ablation's (the curve's Shapley value)
    neck and head  ½ [(ablation − trunk) + (rest − baseline)]: likewise of what is stripped there
    remainder      gap − the three: how well the trunk learns, whatever the size of its gradient

All differences are taken within a seed; intervals are Student's over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from detector.analysis.statistics import CONFIDENCE, Estimate, estimate
from detector.tools.why.cells import Role

Outcomes = Mapping[Role, Mapping[int, float]]  # of one metric: cell -> seed -> its value

MEANING = {
    "forward": "there with both trunks frozen: the features that the trunk starts with, not the gradient",
    "backward": "made by the curve alone: how large the gradient is at which depth",
    "neck and head": "from what is stripped in the neck and the head, not in the trunk",
    "remainder": "neither: how well the trunk learns from a gradient of any size",
}
# Of the control. The first separates shapes (a frozen trunk costs 28 % of its loss) from COCO8 (5 %).
TRUNK_MATTERS = 0.1  # of the frozen loss: so much a trunk that learns must save
SAME = 0.25  # of what learning saves: so close to the frozen level counts as there

NOTHING = Estimate(0)

Reading = Literal["answered", "undecided", "no gap", "this data cannot answer", "incomplete"]


@dataclass(frozen=True)
class Control:
    """The positive control: nine decades imposed on the baseline must end where its frozen trunk ends."""

    baseline: float  # mean losses
    frozen: float
    imposed: float
    worth: Estimate  # frozen − baseline: what a trunk that learns is worth
    passed: bool
    says: str


@dataclass(frozen=True)
class Answer:
    """What the crossed experiment says about one ablation."""

    reading: Reading
    gap: Estimate
    shares: Mapping[str, Estimate]  # by name; one that was not measured has n = 0
    sufficiency: Estimate  # the baseline with the ablation's curve − the baseline
    necessity: Estimate  # the ablation − the ablation with the baseline's curve
    control: Control | None
    main: str | None  # the share that makes more than half of the gap, if the seeds decide it
    says: str


def answer(name: str, data: str, loss: Outcomes, *, strips_rest: bool) -> Answer:
    """Read the losses.

    Args:
        name: of the ablation.
        data: that it was trained on.
        loss: of each cell that finished; NaN or missing where one did not.
        strips_rest: whether the ablation strips the neck and the head as well.
    """
    gap = paired(loss, _gap)
    shares = take_apart(loss, strips_rest=strips_rest)
    sufficiency = paired(loss, lambda y: y["sufficiency"] - y["baseline"])
    necessity = paired(loss, lambda y: y["trunk"] - y["necessity"])
    tested = control(loss)
    main = _main_share(loss, strips_rest=strips_rest)
    reading, says = _read(name, data, gap, shares, tested, main)
    return Answer(reading, gap, shares, sufficiency, necessity, tested, main, says)


def take_apart(outcomes: Outcomes, *, strips_rest: bool) -> dict[str, Estimate]:
    """The shares of the gap, each with its paired interval."""
    return {name: paired(outcomes, of) for name, of in _formulas(strips_rest=strips_rest).items()}


def control(loss: Outcomes) -> Control | None:
    """Whether this experiment would see a gradient cause if there were one; None if it was not run."""
    worth = paired(loss, lambda y: y["baseline_frozen"] - y["baseline"])
    miss = paired(loss, lambda y: y["control"] - y["baseline_frozen"])
    if not worth.n or not miss.n:
        return None
    baseline, frozen, imposed = (_mean(loss, role) for role in ("baseline", "baseline_frozen", "control"))
    levels = f"{baseline:.2f}, {frozen:.2f} with a frozen trunk, {imposed:.2f} with nine decades imposed"
    if worth.mean < TRUNK_MATTERS * frozen or _low(worth) <= 0:
        why = "this data hardly needs a trunk that learns"
        return Control(baseline, frozen, imposed, worth, False, f"{why}: the baseline's loss is {levels}")
    if abs(miss.mean) > SAME * worth.mean:
        why = "the imposed curve does not stop the trunk from learning"
        return Control(baseline, frozen, imposed, worth, False, f"{why}: the baseline's loss is {levels}")
    why = "a gradient cause would be seen"
    return Control(baseline, frozen, imposed, worth, True, f"{why}: the baseline's loss is {levels}")


def paired(outcomes: Outcomes, of: Callable[[Mapping[Role, float]], float]) -> Estimate:
    """A contrast over the seeds in which all its cells have finite values."""
    return estimate([value for value in by_seed(outcomes, of).values() if math.isfinite(value)])


def by_seed(outcomes: Outcomes, of: Callable[[Mapping[Role, float]], float]) -> dict[int, float]:
    """A contrast within each seed; NaN where a cell of it is missing or not finite."""
    seeds = sorted({seed for cell in outcomes.values() for seed in cell})
    found = {}
    for seed in seeds:
        values = {role: cell.get(seed, math.nan) for role, cell in outcomes.items()}
        try:
            found[seed] = of(values)
        except KeyError:
            found[seed] = math.nan
    return found


def _gap(y: Mapping[Role, float]) -> float:
    return y["ablation"] - y["baseline"]


def _formulas(*, strips_rest: bool) -> dict[str, Callable[[Mapping[Role, float]], float]]:
    def forward(y: Mapping[Role, float]) -> float:
        return y["trunk_frozen"] - y["baseline_frozen"]

    def backward(y: Mapping[Role, float]) -> float:
        return ((y["sufficiency"] - y["baseline"]) + (y["trunk"] - y["necessity"])) / 2

    def rest(y: Mapping[Role, float]) -> float:
        return ((y["ablation"] - y["trunk"]) + (y["rest"] - y["baseline"])) / 2

    def remainder(y: Mapping[Role, float]) -> float:
        return _gap(y) - forward(y) - backward(y) - (rest(y) if strips_rest else 0)

    of_rest = {"neck and head": rest} if strips_rest else {}
    return {"forward": forward, "backward": backward, **of_rest, "remainder": remainder}


def _main_share(loss: Outcomes, *, strips_rest: bool) -> str | None:
    """The share that is more than half of the gap with all of its paired interval."""
    for name, of in _formulas(strips_rest=strips_rest).items():
        excess = paired(loss, lambda y, of=of: of(y) - _gap(y) / 2)  # type: ignore[misc]
        if excess.n > 1 and excess.low > 0:
            return name
    return None


def _read(
    name: str,
    data: str,
    gap: Estimate,
    shares: Mapping[str, Estimate],
    tested: Control | None,
    main: str | None,
) -> tuple[Reading, str]:
    """The verdict, and the paragraph."""
    if not gap.n:
        return "incomplete", f"{name} on {data}: no seed has a finished baseline and a finished ablation."
    if tested is None:
        return "incomplete", f"{name} on {data}: the positive control did not finish; nothing is concluded."
    if not tested.passed:
        return "this data cannot answer", (
            f"{data} cannot answer: {tested.says}. Whatever the gradient does in {name}, it cannot show here."
        )
    seeds = counted(gap.n)
    if gap.n < 2:
        parts = ", ".join(f"{share} {_signed(e.mean)}" for share, e in shares.items() if e.n)
        return "undecided", (
            f"{name} on {data}: {_signed(gap.mean)} in loss with 1 seed ({parts}). One seed says nothing "
            "about chance: run more, such as --seeds 5."
        )
    if gap.low <= 0:
        known = f"{name} on {data}: {_signed(gap.mean)} in loss {_interval(gap)}"
        if gap.mean <= 0:
            return "no gap", f"{known}: it trains no worse than the baseline: there is nothing to explain."
        more = max(9, 2 * gap.n)
        return (
            "undecided",
            f"{known}: {seeds} do not tell it from the baseline: run more, such as --seeds {more}.",
        )
    head = f"{name} on {data}: of {_signed(gap.mean)} in loss"
    if main is not None:
        return "answered", f"{head}, {_signed(shares[main].mean)} is {MEANING[main]} ({seeds})."
    clear = [share for share, e in shares.items() if e.n > 1 and (e.low > 0 or e.high < 0)]
    if not clear:
        return "undecided", f"{head}, no share is told apart from zero: {seeds} do not decide."
    parts = ", ".join(f"{_signed(shares[share].mean)} is {share}" for share in clear)
    return "undecided", f"{head}, {parts}; none is decided to be more than half of it ({seeds})."


def lines(found: Answer, map_gap: Estimate, map_shares: Mapping[str, Estimate]) -> list[str]:
    """The shares as a table of text: how much in loss and of the gap, how much in mAP, and what it means."""
    rows = [("gap", found.gap, map_gap, "the ablation less the baseline")]
    rows += [(name, e, map_shares.get(name, NOTHING), MEANING[name]) for name, e in found.shares.items()]
    below = 2 + list(found.shares).index("backward")
    rows[below:below] = [
        ("  sufficiency", found.sufficiency, NOTHING, "the ablation's curve, imposed on the baseline"),
        (
            "  necessity",
            found.necessity,
            NOTHING,
            "the ablation's own curve, less the baseline's imposed on it",
        ),
    ]
    table = [("", "loss", "", "of it", "mAP", "", "")]
    table += [
        (name, _amount(e), _interval(e), part(e, found.gap), _amount(m, 3), _interval(m, 3), meaning)
        for name, e, m, meaning in rows
    ]
    if "neck and head" not in found.shares:
        table.append(("neck and head", "–", "", "", "–", "", "nothing is stripped there"))
    widths = [max(len(row[column]) for row in table) for column in range(6)]
    right = 1, 3, 4  # columns of numbers
    return [
        "  ".join(
            [
                text.rjust(w) if at in right else text.ljust(w)
                for at, (text, w) in enumerate(zip(row[:6], widths, strict=True))
            ]
            + [row[-1]]
        ).rstrip()
        for row in table
    ]


def part(share: Estimate, gap: Estimate) -> str:
    """A share in percent of the gap; nothing where that has no sense."""
    if not share.n or not gap.n or gap.mean <= 0 or share is gap:
        return ""
    return f"{100 * share.mean / gap.mean:.0f} %".replace("-", "−")


def _mean(outcomes: Outcomes, role: Role) -> float:
    values: Iterable[float] = outcomes.get(role, {}).values()
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def _low(e: Estimate) -> float:
    return e.low if e.n > 1 else e.mean


def _amount(e: Estimate, digits: int = 2) -> str:
    return _signed(e.mean, digits) if e.n else ""


def _interval(e: Estimate, digits: int = 2) -> str:
    return f"[{_signed(e.low, digits)}, {_signed(e.high, digits)}]" if e.n > 1 else ""


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def counted(n: int) -> str:
    """So many seeds."""
    return "1 seed" if n == 1 else f"{n} seeds"


def basis(gap: Estimate) -> str:
    """What the table rests on."""
    known = f"; {100 * CONFIDENCE:.0f} % t intervals of differences within a seed" if gap.n > 1 else ""
    return f"{counted(gap.n)}{known}"
