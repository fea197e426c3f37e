"""What passes through the trained network say: targets, evaluation mode, the trunk's signal."""

from __future__ import annotations

from detector.analysis.next_steps import LEARNT, NO_BETTER
from detector.config.schema import Config
from detector.data.statistics import STRIDE
from detector.gradients.indices import COLLAPSED, DEAD
from detector.tools.doctor.case import Assigned, Case, Lag, Signal
from detector.tools.doctor.checks import Check, fails, ok, share_of, unknown

# docs/doctor.md says where these come from.
UNTAUGHT = 0.2  # of the objects
NO_WEIGHT = 0.1  # of all an object's targets together, which are at most 1 each
SMALL_SIDES = 0.5  # of the objects
LAGS = 2.0  # times the loss
FEW = 8  # images, below which a probe that is fitted to some of them finds too little

SIZES = (("below 8 px", 0, STRIDE), ("8 to 32 px", STRIDE, 32), ("from 32 px", 32, float("inf")))


def check_targets(
    found: Assigned, strides: tuple[int, ...], config: Config, learnt: float | None = None
) -> Check:
    """Which objects the loss assigns to which scale, and which to none; what was learnt, it did assign."""
    name, size = "targets", config.data.image_size
    parts = []
    for words, low, high in SIZES:
        inside = (found.sides >= low) & (found.sides < high)
        if inside.any():
            each = ", ".join(f"{c:.1f}" for c in found.cells[inside].mean(0).tolist())
            parts.append(f"{int(inside.sum())} {words}: {each}")
    # The targets' weight is how well a box fits already, so that what is never hit is never taught. In large
    # objects that is a young network's way; small ones it need not ever hit.
    untaught = float(((found.weight < NO_WEIGHT) & (found.sides < 2 * STRIDE)).float().mean())
    tiny = float((found.sides < STRIDE).float().mean())
    evidence = (
        f"cells an object at strides {', '.join(map(str, strides))}: {'; '.join(parts)}; "
        f"{share_of(untaught)} of them {'is' if not untaught else 'are'} small with next to no weight"
    )
    if (untaught <= UNTAUGHT and tiny <= SMALL_SIDES) or (learnt is not None and learnt >= LEARNT):
        return ok(name, evidence)
    side = max(float(found.sides.median()), 1.0)
    larger = -(-int(size * 2 * STRIDE / side) // 32) * 32
    small = [f"{share_of(tiny)} have a side below {STRIDE} px"] if tiny else []
    small += [f"the loss hardly teaches {share_of(untaught)} of them"] if untaught else []
    says = f"the objects are too small for the network's cells at {size} px: {', and '.join(small)}"
    return fails(name, evidence, "small objects", says, f"data.image_size={max(larger, size + 32)}")


def check_evaluation_mode(lag: Lag, config: Config) -> Check:
    """Whether the running statistics, which evaluation uses, are those of the data."""
    name = "evaluation mode"
    if not lag.norms:
        return ok(name, f"no batch norm; loss {lag.stored:.3g}")
    evidence = (
        f"loss {lag.stored:.3g} on training images, {lag.anew:.3g} with the statistics of the "
        f"{lag.norms} batch norms taken anew"
    )
    if lag.stored <= LAGS * lag.anew:
        return ok(name, evidence)
    change = "train.batch=16, or model.norm=group"
    if config.train.norm_momentum is not None:
        change = "train.norm_momentum=null"
    elif config.train.freeze_norms:
        change = "train.freeze_norms=false"
    says = "the running statistics of batch norm, which evaluation uses, are not those of the data"
    return fails(name, evidence, "evaluation mode", says, change)


def check_signal(case: Case, signal: Signal | None, at_init: Signal | None) -> Check:
    """Whether the trunk's output is there, differs between images, and tells objects from background."""
    name = "signal"
    known = [one for one in (at_init, signal) if one is not None]
    if not known:
        return unknown(name, "this network does not say where its trunk ends")
    rms = min(value for one in known for value in one.rms.values())
    dependence = min(value for one in known for value in one.dependence.values())
    gains = {
        level: (value, auc[f"{level}_position"])
        for auc in (known[-1].auc,)
        for level, value in auc.items()
        if f"{level}_position" in auc
    }
    probed = ", ".join(f"{level} {a:.2f} ({b:.2f} by place)" for level, (a, b) in gains.items())
    moments = {"at initialisation": at_init, "trained": signal}
    sizes = ", ".join(
        f"{min(one.rms.values()):.2g} {when}" for when, one in moments.items() if one is not None
    )
    evidence = f"RMS {sizes}; {dependence:.1%} differs between images; a probe's AUC: {probed or 'not known'}"
    learnt = case.learnt
    if learnt is not None and learnt >= LEARNT:
        return ok(name, evidence)
    change = components(case)
    if rms < DEAD:
        says = "the trunk is dead: hardly any signal leaves it, so that there is nothing to learn from"
        return fails(name, evidence, "dead trunk", says, change)
    if dependence < COLLAPSED:
        says = "the trunk's output hardly depends on the image, so that there is nothing to learn from"
        return fails(name, evidence, "collapsed trunk", says, change)
    if signal is None or len(case.images("train")) < FEW or not gains:
        return ok(name, evidence)
    if any(value > place + NO_BETTER for value, place in gains.values()):
        return ok(name, evidence)
    says = "a linear probe finds no more objects in the trunk's features than it would by their place"
    return fails(name, evidence, "empty features", says, change)


def components(case: Case) -> str:
    """The change that gives a trunk back what was stripped from it; where nothing was, a question to ask."""
    if remedy := case.summary.get("remedy/change"):
        return str(remedy)
    model = case.config.model
    whole = {"norm": "batch", "shortcut": "residual", "act": "silu", "init": "he"}
    stripped = [f"model.{key}={value}" for key, value in whole.items() if getattr(model, key) != value]
    return " ".join(stripped) or "train.lr and train.steps; then a wider trunk, model.widths"
